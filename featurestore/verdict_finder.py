"""The port to verdicts by event id, wherever they are kept."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Protocol

__all__ = ["InTurn", "VerdictFinder"]


class VerdictFinder(Protocol):
    """Verdicts by event id."""

    def find(self, ids: Collection[str]) -> dict[str, bytes]:
        """JSON of the verdict on each of ``ids`` that is kept here: of several the first not flagged as duplicate.

        Raises Retriable when the store does not answer: then nothing is known of any of them.
        """
        ...


class InTurn:
    """Asks several stores, each for what those before it do not keep; answers only if all that are asked answer."""

    def __init__(self, stores: Sequence[VerdictFinder]) -> None:
        self._stores = stores

    def find(self, ids: Collection[str]) -> dict[str, bytes]:
        """See :class:`VerdictFinder`."""
        found: dict[str, bytes] = {}
        for store in self._stores:
            left = [id_ for id_ in ids if id_ not in found]
            if left:
                found |= store.find(left)
        return found
