"""When labelled parts learn: at moments that the log alone decides, whatever batches it is cut into.

Labels come to the engine between two events, as they become known. They are collected, and taught together when
stream time enters a new hour (UTC), or when ``FULL`` of them wait. Teaching at moments rather than label by
label lets detectors score whole batches; that the moments depend on the log alone keeps a replay, and
a recovery from a snapshot, equal to the bit.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from detectors.arrays import Arrays
from domain.batch import Ints
from domain.examples import Examples

__all__ = ["EVERY", "FULL", "Lesson", "Lessons"]

EVERY = 3_600_000_000
"""Microseconds of event time between two lessons: labels come hours or days late, so an hour costs nothing."""
FULL = 2_000
"""Examples that may wait; bounds what a snapshot holds of them."""


@dataclass(frozen=True, slots=True)
class Lesson:
    """What is to be learned before ``row`` is scored, at ``now`` (UTC microseconds of event time)."""

    row: int
    examples: Examples
    now: int


class Lessons:
    """The examples of one partition that wait to be taught.

    >>> lessons = Lessons(features=2, detectors=1)
    >>> [lesson.row for lesson in lessons.plan(np.array([1, 2, EVERY]), np.zeros(3, dtype=int), None)]
    []
    """

    def __init__(self, features: int, detectors: int) -> None:
        self._shape = (features, detectors)
        self._waiting: list[Examples] = []
        self._count = 0
        self._hour = -1
        self._stream = 0
        self.offset = 0
        """First offset of the label log that was not noted yet."""

    def plan(self, times: Ints, told: Ints, examples: Examples | None) -> list[Lesson]:
        """Move on over n events and the labels among them; the lessons due on the way, in order.

        ``times`` is int64[n], event times; ``told`` int64[n], how many of ``examples`` (None: there are none)
        became known before each.
        """
        stream = np.maximum.accumulate(np.maximum(times, self._stream))
        if len(stream):
            self._stream = int(stream[-1])
        given = Examples.none(*self._shape) if examples is None else examples
        lessons: list[Lesson] = []
        noted = 0
        for row in self._new_hours(stream):
            upto = int(told[row])
            lessons += self._note(given.rows(noted, upto), told, noted)
            noted = upto
            if self._waiting:
                lessons.append(Lesson(row, self._take(), int(stream[row])))
        return lessons + self._note(given.rows(noted, len(given)), told, noted)

    def note(self, examples: Examples) -> list[Lesson]:
        """The same for labels that become known before the next event."""
        return self._note(examples, np.empty(0, dtype=np.int64), 0)

    def _new_hours(self, stream: Ints) -> list[int]:
        """Rows at which stream time enters an hour."""
        if not len(stream):
            return []
        hour = stream // EVERY
        began, self._hour = self._hour, int(hour[-1])
        rows: list[int] = np.flatnonzero(np.diff(hour, prepend=hour[0] if began < 0 else began) > 0).tolist()
        return rows

    def _note(self, examples: Examples, told: Ints, first: int) -> list[Lesson]:
        """Let ``examples`` wait; lessons as often as too many do. They are those from ``first`` on in ``told``."""
        lessons = []
        usable = np.flatnonzero(~np.isnan(examples.y) & ~np.isnan(examples.x).all(axis=1))
        at = 0
        while self._count + len(usable) - at >= FULL:
            upto = at + FULL - self._count
            self._waiting.append(examples.take(usable[at:upto]))
            last = int(usable[upto - 1])
            row = int(np.searchsorted(told, first + last + 1))
            lessons.append(Lesson(row, self._take(), int(examples.known_at[last])))
            at = upto
        if at < len(usable):
            self._waiting.append(examples.take(usable[at:]))
            self._count += len(usable) - at
        return lessons

    def _take(self) -> Examples:
        taken = Examples.joined(self._waiting)
        self._waiting, self._count = [], 0
        return taken

    def snapshot(self) -> Arrays:
        """All state."""
        held = Examples.joined(self._waiting) if self._waiting else Examples.none(*self._shape)
        if held.own is not None and np.array_equal(held.own, held.score, equal_nan=True):
            # says nothing; whether it is there depends on batches
            held = replace(held, own=None)
        return Arrays(held.columns(), {"hour": self._hour, "offset": self.offset, "stream": self._stream})

    def restore(self, state: Arrays) -> None:
        """Take over a snapshot. Raises ValueError when it does not fit."""
        hour, offset, stream = (state.scalars.get(name) for name in ("hour", "offset", "stream"))
        if not isinstance(hour, int) or not isinstance(offset, int) or not isinstance(stream, int):
            raise ValueError("snapshot of waiting labels lacks 'hour', 'offset' or 'stream'")
        like = Examples.none(*self._shape).columns()
        if "own" in state.arrays:
            like["own"] = np.empty(0)
        if state.arrays.keys() != like.keys():
            raise ValueError("snapshot of waiting labels lacks a column")
        m = len(state.arrays["y"])
        for name, column in like.items():
            array = state.arrays[name]
            if m >= FULL or array.shape != (m, *column.shape[1:]) or array.dtype != column.dtype:
                raise ValueError(f"snapshot of waiting labels has a bad {name!r}")
        held = Examples(**state.arrays)
        self._waiting = [held] if m else []
        self._count, self._hour, self.offset, self._stream = m, hour, offset, stream
