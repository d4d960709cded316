"""Which entities were erased, and when: so that labels about events from before count nowhere (decision 0021)."""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import blake2b

__all__ = ["MOST", "Erased"]

MOST = 4_096
"""Remembered of one partition, 64 KB; beyond it the oldest go, and late labels on those would count again."""


class Erased:
    """Erasures of one partition: a 64-bit hash of entity and value, to the stream time of the newest erasure.

    >>> held = Erased()
    >>> held.add("account", "a", 10)
    >>> held.covers("account", "a", 10), held.covers("account", "a", 11), held.covers("device", "a", 1)
    (True, False, False)
    """

    def __init__(self, stored: Iterable[tuple[int, int]] = ()) -> None:
        self._times = dict(stored)

    def __len__(self) -> int:
        return len(self._times)

    def add(self, entity: str, key: str, stream_time: int) -> None:
        """Note that everything up to ``stream_time`` (UTC microseconds) is forgotten."""
        digest = _digest(entity, key)
        # to the end: in the order of the log
        self._times[digest] = max(stream_time, self._times.pop(digest, stream_time))
        if len(self._times) > MOST:
            del self._times[next(iter(self._times))]

    def covers(self, entity: str, key: str, event_time: int) -> bool:
        """Whether an event of ``event_time`` is forgotten."""
        until = self._times.get(_digest(entity, key))
        return until is not None and event_time <= until

    def newest(self, since: int) -> tuple[tuple[int, int], ...]:
        """(hash, stream time) of those at or after ``since``, in the order of the log."""
        return tuple((digest, time) for digest, time in self._times.items() if time >= since)


def _digest(entity: str, key: str) -> int:
    digest = blake2b(f"{entity}\0{key}".encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)
