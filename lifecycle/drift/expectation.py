"""What a reference leads one to expect of a cell, given its place in the season: like hours with like hours.

Days and weeks have their shape; compared with all of the reference every night would be drift. So each cell is compared
with what the same hours of the week (slots) held in the reference.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from domain.batch import Floats, Ints
from lifecycle.drift.histogram import mean_rank
from lifecycle.drift.settings import Cadence

__all__ = ["LARGEST", "Expectation", "expect", "standardised", "used_bins"]

LARGEST = 6.0
"""Standard deviations beyond which a cell's mean counts no more: one wild hour is an outlier, not drift."""


@dataclass(frozen=True, slots=True)
class Expectation:
    """Of each column in each slot of the season.

    shares  float64[season, columns, bins]: of the events
    mean    float64[season, columns]: of a cell's mean rank
    spread  float64[cycle, columns]: standard deviation of a cell's mean rank about it
    mids    float64[columns, bins]: the mid-rank of each bin
    """

    shares: Floats
    mean: Floats
    spread: Floats
    mids: Floats


def used_bins(edges: list[Floats], width: int) -> Floats:
    """1 for the bins that a column has, 0 for those it only has because another is wider (float64[columns, bins])."""
    return np.array([[1.0] * (len(own) + 2) + [0.0] * (width - len(own) - 2) for own in edges])


def expect(counts: Floats, slots: Ints, mids: Floats, used: Floats, cadence: Cadence) -> Expectation:
    """The expectation of the cells ``counts`` (float64[cells, columns, bins]) that lie in ``slots`` of the season."""
    columns, bins = mids.shape
    season, cycle = cadence.season, cadence.cycle
    held = np.zeros((season, columns, bins))
    np.add.at(held, slots, counts)
    events = held.sum(axis=2, keepdims=True)
    pooled = counts.sum(axis=0) + 0.5 * used
    pooled /= pooled.sum(axis=1, keepdims=True)
    # a slot that held little is expected to look like all the others
    weight = float(bins)
    shares = (held + weight * pooled) / (events + weight)

    means = mean_rank(counts, mids, cadence.min_cell)
    known = ~np.isnan(means)
    filled = np.where(known, means, 0.0)
    how_many = np.zeros((season, columns))
    sums = np.zeros((season, columns))
    np.add.at(how_many, slots, known)
    np.add.at(sums, slots, filled)
    overall = np.divide(
        sums.sum(axis=0), how_many.sum(axis=0), out=np.full(columns, 0.5), where=known.any(axis=0)
    )
    mean = np.divide(sums, how_many, out=np.tile(overall, (season, 1)), where=how_many > 0)

    squares = np.where(known, (filled - mean[slots]) ** 2, 0.0)
    own = np.zeros((cycle, columns))
    np.add.at(own, slots % cycle, squares)
    # each slot's mean was estimated from these cells too
    free = (how_many - (how_many > 0)).reshape(-1, cycle, columns).sum(axis=0)
    all_free = np.maximum(free.sum(axis=0), 1.0)
    variance = np.divide(own, free, out=np.tile(own.sum(axis=0) / all_free, (cycle, 1)), where=free >= 2)
    spread = np.maximum(np.sqrt(variance), cadence.spread)
    return Expectation(shares, mean, spread, mids)


def standardised(
    counts: Floats, slots: npt.NDArray[np.int64], expected: Expectation, cadence: Cadence
) -> Floats:
    """How many standard deviations the mean rank of each cell lies off what is expected of its slot.

    0 where a cell holds too few events to say: silence is no evidence, for either side.
    """
    means = mean_rank(counts, expected.mids, cadence.min_cell)
    off = (means - expected.mean[slots]) / expected.spread[slots % cadence.cycle]
    return np.clip(np.where(np.isnan(off), 0.0, off), -LARGEST, LARGEST)
