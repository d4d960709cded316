"""Compiled scoring of forests of bounded depth.

Each tree is laid out as a complete binary tree (children of i: 2i+1, 2i+2); where the fitted tree ends
early, a threshold of +inf sends every row to the left, down to the one leaf that holds the value. So every
walk has the same length and needs no branch; four rows go down a tree side by side, because one walk alone
would wait for memory at each level. Indexes are unsigned: numba then leaves out the check for negative ones.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from domain.batch import Floats, Ints
from domain.compiled import compiled

__all__ = ["Float32s", "Int32s", "sum_leaves", "unfold"]

Int32s = npt.NDArray[np.int32]
Float32s = npt.NDArray[np.float32]

_BLOCK = 256
"""Rows that go through all trees together: they and one tree stay in the first-level cache."""


@compiled
def _down(node: np.uint32, row: Float32s, feature: Int32s, threshold: Float32s) -> np.uint32:
    above = row[np.uint32(feature[node])] > threshold[node]
    return np.uint32(2) * node + np.uint32(1) + np.uint32(above)


@compiled
def sum_leaves(
    x: Floats,
    medians: Floats,
    largest: float,
    feature: Int32s,
    threshold: Float32s,
    leaf: Floats,
    depth: int,
    out: Floats,
) -> None:
    """Write to out[r] the sum over trees, in their order, of the values of the leaves that row r falls into.

    x          float64[rows, features]; NaN is replaced by ``medians``, magnitudes are cut at ``largest``,
               and the rest rounded to float32, all as :func:`detectors.forest.prepared` does
    feature    int32[trees, 2**depth - 1]; threshold float32 likewise: x <= threshold goes left
    leaf       float64[trees, 2**depth]
    """
    rows, width = x.shape
    inner = np.uint32((1 << depth) - 1)
    block = np.empty((min(_BLOCK, rows), width), dtype=np.float32)
    for start in range(0, rows, _BLOCK):
        n = min(_BLOCK, rows - start)
        total = out[start : start + n]
        for r in range(n):
            total[r] = 0.0
            for j in range(width):
                value = x[start + r, j]
                if np.isnan(value):
                    value = medians[j]
                block[r, j] = np.float32(min(max(value, -largest), largest))
        for t in range(feature.shape[0]):
            features = feature[t]
            thresholds = threshold[t]
            leaves = leaf[t]
            for r in range(0, n - 3, 4):
                a = b = c = d = np.uint32(0)
                for _ in range(depth):
                    a = _down(a, block[r], features, thresholds)
                    b = _down(b, block[r + 1], features, thresholds)
                    c = _down(c, block[r + 2], features, thresholds)
                    d = _down(d, block[r + 3], features, thresholds)
                total[r] += leaves[a - inner]
                total[r + 1] += leaves[b - inner]
                total[r + 2] += leaves[c - inner]
                total[r + 3] += leaves[d - inner]
            for r in range(n - n % 4, n):
                a = np.uint32(0)
                for _ in range(depth):
                    a = _down(a, block[r], features, thresholds)
                total[r] += leaves[a - inner]


@compiled
def unfold(
    left: Ints,
    right: Ints,
    column: Ints,
    cut: Floats,
    value: Floats,
    columns: Ints,
    feature: Int32s,
    threshold: Float32s,
    leaf: Floats,
) -> None:
    """Write one fitted tree into its row of the complete layout.

    left, right  int64[nodes]: children of each node of the fitted tree, -1 below a leaf
    column, cut  int64, float64[nodes]: x[columns[column]] <= cut goes left; cuts are rounded down to float32, which
                 decides alike for every float32
    value        float64[nodes]: what a leaf holds
    feature, threshold, leaf  the row to write, thresholds all +inf before
    """
    inner = threshold.shape[0]
    nodes = np.empty(left.shape[0], dtype=np.int64)
    places = np.empty(left.shape[0], dtype=np.int64)
    nodes[0] = places[0] = 0
    waiting = 1
    while waiting > 0:
        waiting -= 1
        node, place = nodes[waiting], places[waiting]
        if left[node] < 0:
            while place < inner:
                place = 2 * place + 1
            leaf[place - inner] = value[node]
        else:
            feature[place] = columns[column[node]]
            rounded = np.float32(cut[node])
            if np.float64(rounded) > cut[node]:
                rounded = np.nextafter(rounded, np.float32(-np.inf))
            threshold[place] = rounded
            nodes[waiting], places[waiting] = left[node], 2 * place + 1
            nodes[waiting + 1], places[waiting + 1] = right[node], 2 * place + 2
            waiting += 2
