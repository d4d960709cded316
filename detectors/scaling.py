"""A running scale of features that a few odd values cannot stretch.

Extremes (``minmax``) and moments (``standard``) follow the very rows a detector is to find: one huge value
squeezes all others into one point. Median and interquartile range do not move before a quarter of the recent
rows is odd (breakdown point 25 %; Huber, Ronchetti, Robust Statistics, 2009, chapter 5).
"""

from __future__ import annotations

import numpy as np

from detectors.arrays import Arrays
from detectors.sampling import Reservoir
from domain.batch import Floats

__all__ = ["CAPACITY", "RobustScale"]

CAPACITY = 1024
"""Rows of the sample: the median is then known to about 0.04 of a standard deviation."""
HORIZON = 20_000
"""Mean age of the sampled rows by default: the same recent traffic that ranks are about."""
EVERY = 1024
"""Rows between two refreshes; at most a twentieth of the sample has changed meanwhile."""

_FAR = 4.0
"""An anchored scale stays until one is this many times wider or narrower, or a center this many scales off."""

_LARGEST = 1e30
_NORMAL_IQR = 1.3489795003921634  # of a standard normal distribution
_NORMAL_MEAN_DEVIATION = 0.7978845608028654


class RobustScale:
    """Center (median) and scale of each column, refreshed at fixed row counts from a sample of recent rows.

    They are first known after ``first`` rows (at most CAPACITY, so the sample then still holds all of them in
    order) and refreshed at every multiple of 1,024 rows beyond. Missing values are left out; infinite ones
    count as ±1e30. The scale is the interquartile range in units of a standard deviation; where it is 0 (more
    than half of the values are alike) the mean distance from the median; where that is 0 too, 1.

    ``horizon`` is the mean age of the sampled rows. With ``anchored`` a refresh is taken over only when some
    column has moved far: for those who remember rows in scaled coordinates, in which every small correction
    would be a drift.
    """

    def __init__(
        self, columns: int, seed: int, first: int, *, anchored: bool = False, horizon: int = HORIZON
    ) -> None:
        if not 1 <= first <= CAPACITY:
            raise ValueError(f"the first scale comes after 1 to {CAPACITY} rows, not {first}")
        self._first = first
        self._anchored = anchored
        self._sample = Reservoir(CAPACITY, columns, seed, horizon)
        self.center: Floats = np.zeros(columns)
        self.scale: Floats = np.ones(columns)

    @property
    def rows(self) -> Floats:
        """The sample; until CAPACITY rows all of them, in order."""
        return self._sample.rows

    def until_refresh(self) -> int:
        """How many more rows may be added before center and scale change; at least 1."""
        seen = self._sample.seen
        return self._first - seen if seen < self._first else (seen // EVERY + 1) * EVERY - seen

    def add(self, x: Floats) -> bool:
        """Take in at most :meth:`until_refresh` rows (float64[n, columns]); whether center or scale changed."""
        if x.shape[0] > self.until_refresh():
            raise ValueError(f"{x.shape[0]} rows reach beyond the next refresh")
        if x.shape[0] == 0:
            return False
        self._sample.add(x)
        seen = self._sample.seen
        if seen != self._first and (seen < self._first or seen % EVERY):
            return False
        center, scale = _center_and_scale(self._sample.rows)
        if self._anchored and seen > self._first and not self._far(center, scale):
            return False
        self.center, self.scale = center, scale
        return True

    def _far(self, center: Floats, scale: Floats) -> bool:
        ratio = scale / self.scale
        moved = np.abs(center - self.center) > _FAR * self.scale
        return bool((moved | (ratio > _FAR) | (ratio < 1.0 / _FAR)).any())

    def snapshot(self) -> Arrays:
        """The sample, center and scale."""
        inner = self._sample.snapshot()
        own = {"center": self.center.copy(), "scale": self.scale.copy()}
        return Arrays({**inner.arrays, **own}, inner.scalars)

    def restore(self, state: Arrays) -> None:
        """Take over a snapshot. Raises ValueError when it has another shape."""
        center, scale = state.arrays.get("center"), state.arrays.get("scale")
        for name, array in (("center", center), ("scale", scale)):
            if array is None or array.shape != self.center.shape or array.dtype != np.float64:
                raise ValueError(f"scale snapshot lacks a fitting array {name!r}")
        assert center is not None and scale is not None  # noqa: PT018, S101  (for the type checker)
        self._sample.restore(state)
        self.center, self.scale = center.copy(), scale.copy()


def _center_and_scale(rows: Floats) -> tuple[Floats, Floats]:
    center, scale = np.zeros(rows.shape[1]), np.ones(rows.shape[1])
    for column in range(rows.shape[1]):
        values = rows[:, column]
        values = np.clip(values[~np.isnan(values)], -_LARGEST, _LARGEST)
        if not values.size:
            continue
        low, middle, high = np.quantile(values, (0.25, 0.5, 0.75))
        spread = (high - low) / _NORMAL_IQR
        if not spread > 0.0:
            spread = np.abs(values - middle).mean() / _NORMAL_MEAN_DEVIATION
        center[column] = middle
        scale[column] = spread if spread > 0.0 else 1.0
    return center, scale
