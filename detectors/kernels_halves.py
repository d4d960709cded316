"""Compiled planting of half-space trees whose cuts follow a sample of the stream.

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
    for i in range(chosen):
        j = i + int(unit(seed, np.uint64(draws)) * (order.shape[0] - i))
        draws += 1
        order[i], order[j] = order[j], order[i]
    return draws


@compiled
def _ranges(
    x: Float32s,
    rows: Int32s,
    columns: Int32s,
    place: Int32s,
    first: int,
    lows: Float32s,
    highs: Float32s,
) -> None:
    """Least and greatest value of each column among the rows in each node from ``first`` on."""
    lows[: first + 1] = np.inf
    highs[: first + 1] = -np.inf
    for i in range(rows.shape[0]):
        node = place[i] - first
        for c in range(columns.shape[0]):
            value = x[rows[i], columns[c]]
            lows[node, c] = min(lows[node, c], value)
            highs[node, c] = max(highs[node, c], value)


@compiled
def _plant(
    x: Float32s,
    rows: Int32s,
    columns: Int32s,
    samples: int,
    limit: float,
    reach: float,
    seed: np.uint64,
    draws: int,
    feature: Int32s,
    threshold: Float32s,
    leaf: Floats,
    without: Floats,
) -> int:
    """One tree over ``columns``; ``rows`` in random order, of which the first ``samples`` set the ranges.

    Returns the number of the next draw.
    """
    n = rows.shape[0]
    width = columns.shape[0]
    inner = threshold.shape[0]
    place = np.zeros(n, dtype=np.int32)
    mass = np.zeros(2 * inner + 1)
    mass[0] = n
    ended = np.zeros(2 * inner + 1, dtype=np.bool_)
    kept = np.zeros(2 * inner + 1, dtype=np.int32)
    lows = np.empty((inner + 1, width), dtype=np.float32)
    highs = np.empty((inner + 1, width), dtype=np.float32)
    cuttable = np.empty(width, dtype=np.int32)
    first = 0
    while first < inner:
        _ranges(x, rows[:samples], columns, place, first, lows, highs)
        for node in range(first, 2 * first + 1):
            if not ended[node]:
                found = 0
                if mass[node] > limit * n:
                    for c in range(width):
                        if highs[node - first, c] > lows[node - first, c]:
                            cuttable[found] = c
                            found += 1
                if found == 0:
                    ended[node] = True
                    kept[node] = node
                else:
                    c = cuttable[int(unit(seed, np.uint64(draws)) * found)]
                    low = float(lows[node - first, c])
                    span = float(highs[node - first, c]) - low
                    at = (1.0 + 2.0 * reach) * unit(seed, np.uint64(draws + 1)) - reach
                    draws += 2
                    feature[node] = columns[c]
                    threshold[node] = np.float32(low + at * span)
            if ended[node]:
                ended[2 * node + 1] = True
                kept[2 * node + 1] = kept[node]
        for i in range(n):
            node = place[i]
            child = 2 * node + 1 + (x[rows[i], feature[node]] > threshold[node])
            place[i] = child
            mass[child] += 1.0
        first = 2 * first + 1
    for node in range(inner, 2 * inner + 1):
        last = kept[node] if ended[node] else node
        level = np.floor(np.log2(last + 1.0))
        leaf[node - inner] = np.log2((mass[last] + 0.5) / (n + 1.0)) + level
        without[node - inner] = np.log2((max(mass[last] - 1.0, 0.0) + 0.5) / n) + level
    return draws


@compiled
def plant_trees(
    x: Float32s,
    samples: int,
    least_limit: float,
    most_limit: float,
    reach: float,
    seed: np.uint64,
    feature: Int32s,
    threshold: Float32s,
    leaf: Floats,
    without: Floats,
) -> None:
    """Plant one tree into each row of ``feature``, ``threshold`` (all +inf before) and ``leaf``.

    ``without`` gets the values that leaves would have without one of the rows in them: what the rows of ``x``
    are scored with as if each had not been there.


    x        float32[n, columns], n at least 1, no NaN
    samples  random rows that set the ranges of each tree
    limits   a node with at most a share of all rows is not cut; each tree draws it between these two, evenly in
             logarithms
    reach    cuts lie within the range of a node's rows, widened by this share of it on either side
    """
    n, width = x.shape
    rows = np.arange(n).astype(np.int32)
    columns = np.arange(width).astype(np.int32)
    least = (width + 1) // 2
    draws = 0
    for t in range(feature.shape[0]):
        draws = _shuffle(rows, min(n, samples), seed, draws)
        seen = least + int(unit(seed, np.uint64(draws)) * (width - least + 1))
        draws = _shuffle(columns, seen, seed, draws + 1)
        level = least_limit * (most_limit / least_limit) ** unit(seed, np.uint64(draws))
        draws = _plant(
            x,
            rows,
            columns[:seen],
            min(n, samples),
            level,
            reach,
            seed,
            draws + 1,
            feature[t],
            threshold[t],
            leaf[t],
            without[t],
        )
