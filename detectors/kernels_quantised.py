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
        for r in range(n):
            total = np.int64(0)
            for t in range(root.shape[0]):
                node = root[t]
                for _ in range(depth[t]):
                    right = np.uint32(block[r, np.uint32(feature[node])] > code[node])
                    away = np.uint32(skip[node])
                    # a leaf's code is the greatest there is, so that nothing lies beyond it
                    node = node + away + right
                total += np.int64(value[node])
            out[start + r] = total
