"""Compiled scoring of forests of bounded depth.

Each tree is laid out as a complete binary tree (children of i: 2i+1, 2i+2); where the fitted tree ends
early, a threshold of +inf sends every row to the left, down to the one leaf that holds the value. So every
walk has the same length, needs no branch, and the rows of a block can move down together level by level.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from domain.batch import Floats
from domain.compiled import compiled

__all__ = ["sum_leaves"]

Int32s = npt.NDArray[np.int32]
Float32s = npt.NDArray[np.float32]

_BLOCK = 256
"""Rows that walk together: their columns and positions stay in the first-level cache."""


@compiled
def sum_leaves(
    columns: Float32s, feature: Int32s, threshold: Float32s, leaf: Floats, depth: int, out: Floats
) -> None:
    """out[r] = sum over trees, in their order, of the value of the leaf that row r falls into.

    columns    float32[features, rows]: column after column, so that a level reads neighbours
    feature    int32[trees, 2**depth - 1]; threshold float32 likewise: x <= threshold goes left
    leaf       float64[trees, 2**depth]
    """
    rows = columns.shape[1]
    trees = feature.shape[0]
    inner = (1 << depth) - 1
    position = np.empty(_BLOCK, dtype=np.int32)
    for start in range(0, rows, _BLOCK):
        n = min(_BLOCK, rows - start)
        for r in range(n):
            out[start + r] = 0.0
        for t in range(trees):
            features = feature[t]
            thresholds = threshold[t]
            leaves = leaf[t]
            for r in range(n):
                position[r] = 0
            for _ in range(depth):
                for r in range(n):
                    node = position[r]
                    above = columns[features[node], start + r] > thresholds[node]
                    position[r] = 2 * node + 1 + np.int32(above)
            for r in range(n):
                out[start + r] += leaves[position[r] - inner]
