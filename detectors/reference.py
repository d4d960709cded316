"""What is usual: percentiles of recent feature values, against which reasons are told."""

from __future__ import annotations

import numpy as np

from detectors.arrays import Arrays
from detectors.sampling import Reservoir
from domain.batch import Floats

__all__ = ["ReferenceSample"]

CAPACITY = 1024
HORIZON = 20_000
"""Mean age of the sampled rows: the same recent traffic that ranks are about."""
EVERY = 4096
"""Rows between two recalculations once the sample is full, while it fills at each doubling."""


class ReferenceSample:
    """Per feature the median, 5th and 95th percentile of a sample of recent rows.

    They are recalculated at fixed row counts (1, 2, 4, ... 4096, 8192, 12288, ...), so they too are a pure
    function of the rows in order.
    """

    def __init__(self, columns: int, seed: int) -> None:
        self._sample = Reservoir(CAPACITY, columns, seed, HORIZON)
        self._columns = columns
        self._percentiles: Floats = np.full((3, columns), np.nan)

    @property
    def median(self) -> Floats:
        """Median of each feature, float64[columns]; NaN where it was never seen."""
        row: Floats = self._percentiles[1]
        return row

    @property
    def low(self) -> Floats:
        """5th percentile of each feature."""
        row: Floats = self._percentiles[0]
        return row

    @property
    def high(self) -> Floats:
        """95th percentile of each feature."""
        row: Floats = self._percentiles[2]
        return row

    def add(self, x: Floats) -> None:
        """Take in the rows of ``x`` (float64[n, columns]); infinite values count as missing."""
        n = x.shape[0]
        at = 0
        while at < n:
            seen = self._sample.seen
            due = (seen // EVERY + 1) * EVERY if seen >= EVERY else 1 << seen.bit_length()
            stop = min(n, at + due - seen)
            self._sample.add(x[at:stop])
            at = stop
            if self._sample.seen == due:
                self._percentiles = _percentiles(self._sample.rows)

    def snapshot(self) -> Arrays:
        """The sample and the percentiles in use."""
        inner = self._sample.snapshot()
        return Arrays({**inner.arrays, "percentiles": self._percentiles.copy()}, inner.scalars)

    def restore(self, state: Arrays) -> None:
        """Take over a snapshot. Raises ValueError when it has another shape."""
        percentiles = state.arrays.get("percentiles")
        if percentiles is None or percentiles.shape != (3, self._columns):
            raise ValueError(f"reference snapshot needs 'percentiles' of shape (3, {self._columns})")
        self._sample.restore(state)
        self._percentiles = percentiles


def _percentiles(rows: Floats) -> Floats:
    """5th, 50th and 95th percentile by column, over finite values only."""
    found = np.full((3, rows.shape[1]), np.nan)
    for column in range(rows.shape[1]):
        values = rows[:, column]
        values = values[np.isfinite(values)]
        if values.size:
            found[:, column] = np.quantile(values, (0.05, 0.5, 0.95))
    return found
