"""Which values stand in which list at an event's time: the port that rules ask, and an index in memory.

An entry counts for events whose own time lies before its expiry (P4), so replaying events gives the same answers.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from domain.batch import Ints
from domain.list_records import ListEntry

__all__ = ["NO_LISTS", "ListIndex", "ListView"]

Bools = npt.NDArray[np.bool_]
_NEVER = 2**63 - 1
_GONE = -(2**63)


class ListView(Protocol):
    """The lists of one pipeline. Nothing changes while a batch is scored."""

    @property
    def version(self) -> int:
        """Number of the newest change that these lists reflect; 0: there never was one."""
        ...

    def contains(self, name: str, field: str, values: Sequence[str | None], at: Ints) -> Bools:
        """Which of ``values`` of the event's ``field`` are in the list ``name`` at their times.

        ``at``: UTC microseconds, int64[n]. A list that there is not has no entries; None is in no list.
        """
        ...


class ListIndex:
    """Lists in memory, about 150 bytes an entry; changed and asked by one thread at a time."""

    def __init__(self) -> None:
        self._lists: dict[tuple[str, str], dict[str, int]] = {}
        self._version = 0

    @property
    def version(self) -> int:
        """Number of the newest change."""
        return self._version

    def __len__(self) -> int:
        """Entries, expired ones too."""
        return sum(map(len, self._lists.values()))

    def change(
        self, version: int, put: Iterable[ListEntry] = (), removed: Iterable[tuple[str, str, str]] = ()
    ) -> None:
        """Become the lists of ``version``: without ``removed`` (list, field, value), then with ``put``."""
        for name, field, value in removed:
            values = self._lists.get((name, field))
            if values is not None:
                values.pop(value, None)
                if not values:
                    del self._lists[name, field]
        for entry in put:
            values = self._lists.setdefault((entry.list, entry.field), {})
            values[entry.value] = _NEVER if entry.expires_at is None else entry.expires_at
        self._version = version

    def contains(self, name: str, field: str, values: Sequence[str | None], at: Ints) -> Bools:
        """As :class:`ListView` says."""
        known = self._lists.get((name, field))
        if not known:
            return np.zeros(len(values), dtype=np.bool_)
        # None is no key of a table of texts
        until = [known.get(value, _GONE) for value in values]  # type: ignore[arg-type]
        found: Bools = np.fromiter(until, np.int64, len(values)) > at
        return found


NO_LISTS: ListView = ListIndex()
"""For a scorer without lists; never changed."""
