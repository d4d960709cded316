"""Compiled sampling: the slot of row i is a pure function of the seed and i."""

from __future__ import annotations

import numpy as np

from domain.batch import Floats
from domain.compiled import compiled

__all__ = ["mix", "sample_rows"]


@compiled
def mix(seed: np.uint64, index: np.uint64) -> np.uint64:
    """SplitMix64's output function (Steele, Lea, Flood 2014) at a counter."""
    z = seed + index * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


@compiled
def sample_rows(rows: Floats, seen: int, horizon: int, seed: np.uint64, x: Floats) -> None:
    """Offer the rows of ``x`` (the stream's rows from index ``seen``) to the sample ``rows``."""
    capacity = rows.shape[0]
    columns = rows.shape[1]
    for i in range(x.shape[0]):
        index = seen + i
        slot = index
        if index >= capacity:
            among = min(index + 1, horizon)
            unit = np.float64(mix(seed, np.uint64(index)) >> np.uint64(11)) * 2.0**-53
            slot = int(unit * among)
        if slot < capacity:
            for j in range(columns):
                rows[slot, j] = x[i, j]
