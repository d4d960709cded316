"""Compiled scoring of trees whose thresholds and leaves are small whole numbers (detectors/compressed_trees.py)."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from detectors.kernels_nodes import LARGEST
from detectors.kernels_trees import Float32s, Int32s
from domain.batch import Floats
from domain.compiled import compiled

__all__ = ["walk_codes"]

_BLOCK = 256
_LOOK = 4


@compiled
def _code(value: np.float32, edges: Float32s, low: int, high: int) -> int:
    """How many of the sorted edges[low:high] lie below ``value``."""
    first, last = low, high
    while first < last:
        middle = (first + last) // 2
        if edges[middle] < value:
            first = middle + 1
        else:
            last = middle
    return first - low


@compiled
def _down(
    node: np.uint32,
    row: npt.NDArray[Any],
    feature: npt.NDArray[Any],
    code: npt.NDArray[Any],
    skip: npt.NDArray[np.uint16],
) -> np.uint32:
    # a leaf's code is the greatest there is, so that nothing lies beyond it
    right = np.uint32(row[np.uint32(feature[node])] > code[node])
    child: np.uint32 = node + np.uint32(skip[node]) + right
    return child


@compiled
def walk_codes(
    x: Floats,
    edges: Float32s,
    ends: Int32s,
    feature: npt.NDArray[Any],
    code: npt.NDArray[Any],
    skip: npt.NDArray[np.uint16],
    value: npt.NDArray[Any],
    root: npt.NDArray[np.uint32],
    depth: Int32s,
    block: npt.NDArray[Any],
    out: Floats,
) -> None:
    """Write to out[r] the sum of the whole numbers in the leaves that row r falls into.

    x        float64[rows, F], cut and rounded as in :func:`detectors.kernels_nodes.walk_nodes`
    edges    float32: the sorted thresholds of column 0, column 1, ...; ends int32[F + 1]: where each begins
    feature  uint[nodes]: column, plus F where missing values go to the right
    code     uint8 or uint16[nodes]: which edge of the column; a value beyond it goes to the right
    skip     uint16[nodes]: how far the left child lies behind the node, the right one follows; 0 in leaves
    value    int8 or int16[nodes], used in leaves
    block    room of at least (min(rows, 256), 2 F) of the type of ``code``
    """
    rows, width = x.shape
    for start in range(0, rows, _BLOCK):
        n = min(_BLOCK, rows - start)
        for r in range(n):
            for j in range(width):
                given = x[start + r, j]
                if np.isnan(given):
                    block[r, j] = 0
                    block[r, width + j] = ends[j + 1] - ends[j]
                else:
                    cut = np.float32(min(max(given, -LARGEST), LARGEST))
                    found = _code(cut, edges, ends[j], ends[j + 1])
                    block[r, j] = found
                    block[r, width + j] = found
        total = out[start : start + n]
        total[:] = 0.0
        for t in range(root.shape[0]):
            steps = depth[t]
            for r in range(0, n - 3, 4):
                a = b = c = d = root[t]
                for step in range(steps):
                    a = _down(a, block[r], feature, code, skip)
                    b = _down(b, block[r + 1], feature, code, skip)
                    c = _down(c, block[r + 2], feature, code, skip)
                    d = _down(d, block[r + 3], feature, code, skip)
                    if step % _LOOK == _LOOK - 1 and (
                        skip[a] == 0 and skip[b] == 0 and skip[c] == 0 and skip[d] == 0
                    ):
                        break
                total[r] += value[a]
                total[r + 1] += value[b]
                total[r + 2] += value[c]
                total[r + 3] += value[d]
            for r in range(n - n % 4, n):
                a = root[t]
                for _ in range(steps):
                    a = _down(a, block[r], feature, code, skip)
                total[r] += value[a]
