"""Compiled upkeep of the memory of labelled rows."""

from __future__ import annotations

import numpy as np

from detectors.kernels_sampling import unit
from detectors.kernels_trees import Float32s
from domain.batch import Floats, Ints
from domain.compiled import compiled

__all__ = ["remember"]


@compiled
def remember(
    x: Float32s,
    y: Floats,
    positive: Float32s,
    before: Ints,
    negative: Float32s,
    counts: Ints,
    seed: np.uint64,
) -> None:
    """Take the labelled rows of ``x`` in order; rows whose label is neither 0 nor 1 are passed over.

    positive  float32[P, F], a ring of the newest positives; before int64[P], how many labels came before each
    negative  float32[N, F], a sample of the negatives, as old in the mean as the oldest positive at least
    counts    int64[2]: positives and negatives so far, both brought up to date
    """
    width = x.shape[1]
    for i in range(x.shape[0]):
        total = counts[0] + counts[1]
        if y[i] == 1.0:
            slot = counts[0] % positive.shape[0]
            before[slot] = total
            for j in range(width):
                positive[slot, j] = x[i, j]
            counts[0] += 1
        elif y[i] == 0.0:
            slot = counts[1]
            if slot >= negative.shape[0]:
                first = before[counts[0] % positive.shape[0]] if counts[0] >= positive.shape[0] else 0
                among = min(counts[1] + 1, max(negative.shape[0], total - first))
                slot = int(unit(seed, np.uint64(counts[1])) * among)
            if slot < negative.shape[0]:
                for j in range(width):
                    negative[slot, j] = x[i, j]
            counts[1] += 1
