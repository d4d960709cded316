"""Compiled walk of half-space trees.

Trees are complete, so the children of node i are 2i+1 and 2i+2, and the masses of all nodes of a tree lie
in one row. One walk serves scoring and learning: both take the same path, because a row's own visit is
counted at a node only after the choice between its children was made on masses without it.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from domain.batch import Floats
from domain.compiled import compiled

__all__ = ["score_rows", "step_rows"]

Int32s = npt.NDArray[np.int32]


@compiled
def _scale(row: Floats, low: Floats, high: Floats, out: Floats) -> None:
    """Write to out the row scaled by the extremes seen so far and its own; a constant feature gives 0."""
    for j in range(row.shape[0]):
        value = row[j]
        if np.isfinite(value):
            least = min(low[j], value)
            span = max(high[j], value) - least
            out[j] = (value - least) / span if span > 0.0 else 0.0
        else:
            out[j] = value


@compiled
def _walk(
    x: Floats,
    feature: Int32s,
    threshold: Floats,
    recent: Int32s,
    reference: Int32s,
    height: int,
    limit: float,
    learn: bool,
) -> float:
    """One tree: the mass of the reference window along the path of ``x``, doubled at each level.

    Stops counting below the first node with less mass than ``limit``, as in the paper's section 3.3.
    """
    node = np.uint32(0)
    power = 1.0
    score = 0.0
    counting = True
    for _ in range(height):
        if counting:
            mass = reference[node]
            score += mass * power
            counting = mass >= limit
        if not (counting or learn):
            return score
        if learn:
            recent[node] += 1
        value = x[np.uint32(feature[node])]
        left = np.uint32(2) * node + np.uint32(1)
        if np.isnan(value):
            right = left + np.uint32(1)
            node = right if recent[left] < recent[right] else left
        else:
            node = left + np.uint32(not (value < threshold[node]))
        power *= 2.0
    if counting:
        score += reference[node] * power
    if learn:
        recent[node] += 1
    return score


@compiled
def score_rows(
    x: Floats,
    scaled: bool,
    low: Floats,
    high: Floats,
    feature: Int32s,
    threshold: Floats,
    recent: Int32s,
    reference: Int32s,
    height: int,
    window: int,
    out: Floats,
) -> None:
    """Write to out[i] the anomaly score of x[i]; nothing is learned."""
    trees = feature.shape[0]
    most = trees * window * (2.0 ** (height + 1) - 1.0)
    row = np.empty(x.shape[1])
    for i in range(x.shape[0]):
        if scaled:
            _scale(x[i], low, high, row)
        else:
            row[:] = x[i]
        total = 0.0
        for t in range(trees):
            total += _walk(
                row, feature[t], threshold[t], recent[t], reference[t], height, 0.1 * window, False
            )
        out[i] = 1.0 - total / most


@compiled
def step_rows(
    x: Floats,
    scaled: bool,
    low: Floats,
    high: Floats,
    feature: Int32s,
    threshold: Floats,
    recent: Int32s,
    reference: Int32s,
    height: int,
    window: int,
    seen: int,
    out: Floats,
) -> None:
    """Score each row of ``x``, then learn it; NaN during the first window. ``seen`` rows came before."""
    trees = feature.shape[0]
    most = trees * window * (2.0 ** (height + 1) - 1.0)
    row = np.empty(x.shape[1])
    for i in range(x.shape[0]):
        if scaled:
            _scale(x[i], low, high, row)
            for j in range(row.shape[0]):
                value = x[i, j]
                if np.isfinite(value):
                    low[j] = min(low[j], value)
                    high[j] = max(high[j], value)
        else:
            row[:] = x[i]
        total = 0.0
        for t in range(trees):
            total += _walk(row, feature[t], threshold[t], recent[t], reference[t], height, 0.1 * window, True)
        seen += 1
        out[i] = 1.0 - total / most if seen > window else np.nan
        if seen % window == 0:
            reference[:] = recent
            recent[:] = 0
