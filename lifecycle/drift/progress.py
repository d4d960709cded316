"""How far event time has come in a topic of several partitions, some of which may lag behind and some be idle."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

__all__ = ["Progress"]


class Progress:
    """The time up to which everything has been read, as far as anybody can tell.

    A partition that has more to read holds the others up at its own time, so that none of its records comes late; one
    that was read to its end holds nobody up. A partition that was never looked at holds everybody up.
    ``times`` are those of a former life.
    """

    def __init__(self, partitions: Iterable[int], times: Mapping[int, int] | None = None) -> None:
        self.times = dict(times or {})
        self._behind = set(partitions)

    def seen(self, partition: int, time: int) -> None:
        """A record of that time (UTC microseconds) was read; more may follow."""
        self.times[partition] = max(time, self.times.get(partition, time))
        self._behind.add(partition)

    def at_end(self, partition: int) -> None:
        """The partition is read to its end, for now."""
        self._behind.discard(partition)

    def value(self) -> int | None:
        """The time; None when nothing can be said yet."""
        if not self._behind:
            return max(self.times.values(), default=None)
        if not self._behind <= self.times.keys():
            return None
        return min(self.times[partition] for partition in self._behind)

    @property
    def holding(self) -> bool:
        """Whether a partition has more to read."""
        return bool(self._behind)
