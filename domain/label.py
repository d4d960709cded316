"""What an event turned out to be, as it becomes known: labels joined to their events, as columns.

A *label* is 1 (fraud, or whatever the pipeline looks for) or 0; an event without one is unknown. Each record
of ``labels.joined`` tells of one change of one event's label, so a reversal is a change from 1 to 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from domain.batch import Ints
from domain.examples import Examples

__all__ = ["LabelBatch"]


@dataclass(frozen=True, slots=True)
class LabelBatch:
    """``m`` label changes about events of one partition, in the order of the label log.

    offsets     their offsets in the partition of ``labels.joined``, int64[m], strictly increasing
    known_at    when each became known, UTC microseconds, int64[m]
    times       event time of the event each is about, UTC microseconds, int64[m]
    entities    per entity field of the pipeline: the event's value as text (sensitive ones as keyed hashes)
    change      int64[m]: +1 the event became positive, -1 it no longer is, 0 nothing that a count would notice
    examples    the same changes with what the verdicts said, for a pipeline that learns from labels; else None.
                ``y`` is NaN where the label became unknown, ``x`` all NaN where the record carries no vector.
    """

    offsets: Ints
    known_at: Ints
    times: Ints
    entities: dict[str, Sequence[str]]
    change: Ints
    examples: Examples | None = None

    def __len__(self) -> int:
        return len(self.offsets)

    def between(self, start: int, stop: int) -> LabelBatch:
        """Rows ``start`` to ``stop`` (exclusive).

        >>> import numpy as np
        >>> two = np.arange(2)
        >>> len(LabelBatch(two, two, two, {"account": ["a", "b"]}, two).between(1, 2))
        1
        """
        rows = slice(start, stop)
        return LabelBatch(
            self.offsets[rows],
            self.known_at[rows],
            self.times[rows],
            {name: values[rows] for name, values in self.entities.items()},
            self.change[rows],
            None if self.examples is None else self.examples.rows(start, stop),
        )

    def due(self, stream_time: int) -> int:
        """How many of the first rows count at ``stream_time``: those before the first that is not known yet.

        In log order, so that a log and a position in it say all about which labels were counted.
        """
        later = np.flatnonzero(self.known_at > stream_time)
        return int(later[0]) if len(later) else len(self)
