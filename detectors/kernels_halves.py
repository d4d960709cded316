"""Compiled planting of half-space trees whose cuts and masses follow a sample of the stream.

Trees are complete, as :func:`detectors.kernels_trees.sum_leaves` wants them: where one ends early, a threshold
of +inf sends every row to the left, down to the leaf that holds the value.
"""

from __future__ import annotations

import numpy as np

from detectors.kernels_sampling import unit
from detectors.kernels_trees import Float32s, Int32s
from domain.batch import Floats
from domain.compiled import compiled

__all__ = ["plant_trees"]


@compiled
def _shuffle(order: Int32s, chosen: int, seed: np.uint64, draws: int) -> int:
    """Move ``chosen`` random entries to the front; returns the number of the next draw."""
    n = order.shape[0]
    for i in range(chosen):
        j = i + int(unit(seed, np.uint64(draws)) * (n - i))
        draws += 1
        order[i], order[j] = order[j], order[i]
    return draws


@compiled
def _plant(
    x: Float32s,
    rows: Int32s,
    columns: Int32s,
    samples: int,
    mode: int,
    limit: float,
    reach: float,
    seed: np.uint64,
    draws: int,
    feature: Int32s,
    threshold: Float32s,
    leaf: Floats,
) -> int:
    """One tree; ``rows`` in random order, of which the first ``samples`` set the ranges."""
    n = rows.shape[0]
    width = columns.shape[0]
    inner = threshold.shape[0]
    place = np.zeros(n, dtype=np.int32)
    ended = np.zeros(2 * inner + 1, dtype=np.bool_)
    value = np.zeros(2 * inner + 1)
    volume = np.zeros(2 * inner + 1)
    mass = np.zeros(2 * inner + 1)
    mass[0] = n
    lows = np.empty((inner + 1, width), dtype=np.float32)
    highs = np.empty((inner + 1, width), dtype=np.float32)
    open_columns = np.empty(width, dtype=np.int32)
    first = 0
    depth = 0
    while first < inner:
        count = first + 1
        lows[:count] = np.inf
        highs[:count] = -np.inf
        for i in range(samples):
            node = place[i]
            if not ended[node]:
                for c in range(width):
                    v = x[rows[i], columns[c]]
                    lows[node - first, c] = min(lows[node - first, c], v)
                    highs[node - first, c] = max(highs[node - first, c], v)
        for node in range(first, first + count):
            left = 2 * node + 1
            threshold[node] = np.inf
            if not ended[node]:
                found = 0
                if mass[node] > limit * n:
                    for c in range(width):
                        if highs[node - first, c] > lows[node - first, c]:
                            open_columns[found] = c
                            found += 1
                if found == 0:
                    ended[node] = True
                    value[node] = _value(mode, depth, mass[node], n, samples, volume[node])
                else:
                    c = open_columns[int(unit(seed, np.uint64(draws)) * found)]
                    low, high = float(lows[node - first, c]), float(highs[node - first, c])
                    margin = reach * (high - low)
                    a, b = low - margin, high + margin
                    at = unit(seed, np.uint64(draws + 1))
                    draws += 2
                    feature[node] = columns[c]
                    cut = np.float32(a + at * (b - a))
                    if low <= cut and cut >= high and at < high:
                        pass
                    threshold[node] = cut
                    share = min(max(at, 1e-6), 1.0 - 1e-6)
                    volume[left] = volume[node] + np.log2(share)
                    volume[left + 1] = volume[node] + np.log2(1.0 - share)
            if ended[node]:
                ended[left] = True
                value[left] = value[node]
        for i in range(n):
            node = place[i]
            child = 2 * node + 1
            if not ended[node] and x[rows[i], feature[node]] > threshold[node]:
                child += 1
            place[i] = child
            mass[child] += 1.0
        first = 2 * first + 1
        depth += 1
    for node in range(inner, 2 * inner + 1):
        leaf[node - inner] = (
            value[node] if ended[node] else _value(mode, depth, mass[node], n, samples, volume[node])
        )
    return draws


@compiled
def _value(mode: int, depth: int, mass: float, n: int, samples: int, volume: float) -> float:
    if mode == 0:  # path length, expected rest by mass
        m = mass * samples / n
        return depth + (2.0 * (np.log(m) + 0.5772156649) - 2.0 + 2.0 / m if m > 2.0 else max(0.0, m - 1.0))
    if mode == 1:  # log density
        return np.log2((mass + 0.5) / (n + 1.0)) - volume
    return np.log2((mass + 0.5) / (n + 1.0)) + depth


@compiled
def plant_trees(
    x: Float32s,
    samples: int,
    mode: int,
    limit: float,
    reach: float,
    share_low: float,
    seed: np.uint64,
    feature: Int32s,
    threshold: Float32s,
    leaf: Floats,
) -> None:
    """Plant all trees over the rows of ``x``."""
    n, width = x.shape
    rows = np.arange(n).astype(np.int32)
    columns = np.arange(width).astype(np.int32)
    draws = 0
    for t in range(feature.shape[0]):
        draws = _shuffle(rows, min(n, samples), seed, draws)
        least = max(1, int(np.ceil(share_low * width)))
        seen = least + int(unit(seed, np.uint64(draws)) * (width - least + 1))
        draws = _shuffle(columns, seen, seed, draws + 1)
        draws = _plant(
            x, rows, columns[:seen], min(n, samples), mode, limit, reach, seed, draws, feature[t], threshold[t], leaf[t]
        )
