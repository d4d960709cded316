"""Compiled scaling of one value: linear in the middle, logarithmic far out, missing in the middle."""

from __future__ import annotations

import math

import numpy as np

from domain.batch import Floats
from domain.compiled import compiled

__all__ = ["squash", "squash_row"]

_FAR = 32768.0
"""Distances beyond this many scales, also infinite ones, are alike; it is squashed to 16."""


@compiled
def squash(value: float, center: float, scale: float) -> float:
    """``(value - center) / scale`` up to 1, beyond it about ``1 + log2`` of it, odd, at most 16; missing is 0.

    The logarithm is the piecewise linear one between powers of two: monotone, exact on every machine, cheap.
    """
    z = (value - center) / scale
    if np.isnan(z):
        return 0.0
    size = min(abs(z), _FAR)
    if size > 1.0:
        mantissa, exponent = math.frexp(size)
        size = 2.0 * mantissa + (exponent - 1)
    return -size if z < 0.0 else size


@compiled
def squash_row(row: Floats, center: Floats, scale: Floats, out: Floats) -> None:
    """Write to ``out`` the squashed values of ``row``."""
    for j in range(row.shape[0]):
        out[j] = squash(row[j], center[j], scale[j])
