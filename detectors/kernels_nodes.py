"""Compiled scoring of trees of any shape, as boosting and random forests grow them.

The nodes of all trees lie in one list; the children of a node are neighbours, so one number names both and
the comparison is added to it: no branch is needed. A leaf is its own left child under a threshold of +inf, so
every walk through a tree takes the same number of steps, and four rows go down side by side (see
:mod:`detectors.kernels_trees`, whose trees are complete and need no child numbers).

Missing values need no branch either: each row is written down twice, once with missing as -inf and once as
+inf, and a node that sends them to the right looks at the second copy.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from detectors.kernels_trees import Float32s, Int32s
from domain.batch import Floats
from domain.compiled import compiled

__all__ = ["LARGEST", "walk_nodes"]

LARGEST = 1e30
"""Infinite and larger values count as this much, which float32 still holds."""

_LOOK = 4
"""Steps between two looks whether all four rows have arrived."""

_BLOCK = 256
"""Rows that go through all trees together, so that they and one tree stay in the cache."""


@compiled
def _down(
    node: np.uint32, row: Float32s, feature: Int32s, threshold: Float32s, left: npt.NDArray[np.uint32]
) -> np.uint32:
    child: np.uint32 = left[node] + np.uint32(row[np.uint32(feature[node])] > threshold[node])
    return child


@compiled
def walk_nodes(
    x: Floats,
    feature: Int32s,
    threshold: Float32s,
    left: npt.NDArray[np.uint32],
    value: Floats,
    root: npt.NDArray[np.uint32],
    depth: Int32s,
    base: float,
    out: Floats,
) -> None:
    """Write to out[r] ``base`` plus, tree after tree, the values of the leaves that row r falls into.

    x          float64[rows, F]; magnitudes are cut at LARGEST and rounded to float32, NaN is missing
    feature    int32[nodes]: column, plus F where missing values go to the right
    threshold  float32[nodes]: x <= threshold goes left; +inf in leaves
    left       uint32[nodes]: the left child, the right one follows it; in leaves the node itself
    value      float64[nodes], used in leaves; root uint32[trees], depth int32[trees]
    """
    rows, width = x.shape
    block = np.empty((min(_BLOCK, rows), 2 * width), dtype=np.float32)
    for start in range(0, rows, _BLOCK):
        n = min(_BLOCK, rows - start)
        total = out[start : start + n]
        for r in range(n):
            total[r] = base
            for j in range(width):
                given = x[start + r, j]
                if np.isnan(given):
                    block[r, j] = np.float32(-np.inf)
                    block[r, width + j] = np.float32(np.inf)
                else:
                    cut = np.float32(min(max(given, -LARGEST), LARGEST))
                    block[r, j] = cut
                    block[r, width + j] = cut
        for t in range(root.shape[0]):
            steps = depth[t]
            for r in range(0, n - 3, 4):
                a = b = c = d = root[t]
                for step in range(steps):
                    a = _down(a, block[r], feature, threshold, left)
                    b = _down(b, block[r + 1], feature, threshold, left)
                    c = _down(c, block[r + 2], feature, threshold, left)
                    d = _down(d, block[r + 3], feature, threshold, left)
                    # most rows are in their leaves long before the deepest one would be
                    if step % _LOOK == _LOOK - 1 and (
                        left[a] == a and left[b] == b and left[c] == c and left[d] == d
                    ):
                        break
                total[r] += value[a]
                total[r + 1] += value[b]
                total[r + 2] += value[c]
                total[r + 3] += value[d]
            for r in range(n - n % 4, n):
                a = root[t]
                for _ in range(steps):
                    a = _down(a, block[r], feature, threshold, left)
                total[r] += value[a]
