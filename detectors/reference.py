"""What is usual: percentiles of recent feature values, against which reasons are told, and their range."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from detectors.arrays import Arrays
from detectors.sampling import Reservoir
from detectors.schedule import rows_until
from domain.batch import Floats

__all__ = ["ReferenceSample"]

CAPACITY = 1024
HORIZON = 20_000
"""Mean age of the sampled rows: the same recent traffic that ranks are about."""
EVERY = 4096
"""Rows between two recalculations once the sample is full, while it fills at each doubling."""

ENOUGH = 512
"""Sampled values of a feature before anything is outside of its range."""


class ReferenceSample:
    """Per feature the median, 5th and 95th percentile of a sample of recent rows, least and greatest value.

    They are recalculated at fixed row counts (1, 2, 4, ... 4096, 8192, 12288, ...), so they too are a pure
    function of the rows in order.
    """

    def __init__(self, columns: int, seed: int) -> None:
        self._sample = Reservoir(CAPACITY, columns, seed, HORIZON)
        self._columns = columns
        self._percentiles: Floats = np.full((5, columns), np.nan)
        self._ever: Floats = np.full((2, columns), np.nan)

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

    def add(self, x: Floats, teach: npt.NDArray[np.bool_] | None = None) -> npt.NDArray[np.bool_]:
        """Take in the rows of ``x`` (float64[n, columns]); infinite values count as missing.

        ``teach`` (bool[n], None: all) marks the rows that are taken in; the others are only looked at.
        Returns bool[n, columns]: which values lay outside of the range when their row came (see :meth:`outside`).
        """
        n = x.shape[0]
        outside = np.empty(x.shape, dtype=np.bool_)
        at = 0
        while at < n:
            seen = self._sample.seen
            due = (seen // EVERY + 1) * EVERY if seen >= EVERY else 1 << seen.bit_length()
            stop = rows_until(teach, at, n, due - seen)
            outside[at:stop] = self.outside(x[at:stop])
            self._sample.add(x[at:stop] if teach is None else x[at:stop][teach[at:stop]])
            at = stop
            if self._sample.seen == due:
                self._recalculate()
        return outside

    def _recalculate(self) -> None:
        found = _percentiles(self._sample.rows)
        self._ever[0] = np.fmin(self._ever[0], found[3])
        self._ever[1] = np.fmax(self._ever[1], found[4])
        # a flag that was down for days is not out of range when it goes up again
        found[3:] = np.where(found[3] == found[4], self._ever, found[3:])
        self._percentiles = found

    def outside(self, x: Floats) -> npt.NDArray[np.bool_]:
        """Which values of ``x`` (float64[n, columns]) lie outside of the sampled range by more than its width.

        Also infinite ones; a missing value never, nor any of a feature with less than 512 sampled values. Of a
        feature that is constant in the sample, the range that it ever had there counts. Pure.
        """
        least, greatest = self._percentiles[3], self._percentiles[4]
        width = greatest - least
        # comparisons with NaN, for want of values, are false
        found: npt.NDArray[np.bool_] = (x < least - width) | (x > greatest + width)
        return found

    def snapshot(self) -> Arrays:
        """The sample and the percentiles in use."""
        inner = self._sample.snapshot()
        own = {"percentiles": self._percentiles.copy(), "ever": self._ever.copy()}
        return Arrays({**inner.arrays, **own}, inner.scalars)

    def restore(self, state: Arrays) -> None:
        """Take over a snapshot. Raises ValueError when it has another shape."""
        percentiles, ever = state.arrays.get("percentiles"), state.arrays.get("ever")
        if percentiles is None or percentiles.shape != (5, self._columns):
            raise ValueError(f"reference snapshot needs 'percentiles' of shape (5, {self._columns})")
        if ever is None or ever.shape != (2, self._columns):
            raise ValueError(f"reference snapshot needs 'ever' of shape (2, {self._columns})")
        self._sample.restore(state)
        self._percentiles, self._ever = percentiles, ever


def _percentiles(rows: Floats) -> Floats:
    """By column, over finite values only: 5th, 50th, 95th percentile; of enough values the least and greatest."""
    found = np.full((5, rows.shape[1]), np.nan)
    for column in range(rows.shape[1]):
        values = rows[:, column]
        values = values[np.isfinite(values)]
        if values.size:
            found[:3, column] = np.quantile(values, (0.05, 0.5, 0.95))
        if values.size >= ENOUGH:
            found[3:, column] = values.min(), values.max()
    return found
