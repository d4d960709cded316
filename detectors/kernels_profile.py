"""Compiled distances of rows from what is known of their entities."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from domain.batch import Floats
from domain.compiled import compiled

__all__ = ["score_rows"]

Int32s = npt.NDArray[np.int32]

_LARGEST = 1e30
_FARTHEST = 1e6


@compiled
def _bounded(value: float) -> float:
    return min(max(value, -_LARGEST), _LARGEST)


@compiled
def _distance(
    value: float,
    mean: float,
    std: float,
    count: float,
    usual: float,
    between: float,
    within: float,
    prior: float,
) -> float:
    """Standardised distance of a value from where its entity's next one is expected.

    The entity's variance is shrunk to that of the population (``within``, worth ``prior`` events), its mean
    to that of the population (normal prior around ``usual`` with deviation ``between``); the expected error
    of the mean is added to the variance. Without any past that leaves the population's mean and both spreads.
    """
    past = max(count, 0.0) if not np.isnan(mean) else 0.0
    freedom = max(past - 1.0, 0.0) if not np.isnan(std) else 0.0
    known = std * std * freedom if freedom > 0.0 else 0.0
    variance = (known + prior * within * within) / (freedom + prior)
    pull = variance / (between * between)
    expected = usual
    if past > 0.0:
        expected = (past * mean + pull * usual) / (past + pull)
    z = (value - expected) / math.sqrt(variance * (1.0 + 1.0 / (past + pull)))
    return min(max(z, -_FARTHEST), _FARTHEST)


@compiled
def score_rows(
    x: Floats,
    columns: Int32s,
    sides: Int32s,
    usual: Floats,
    between: Floats,
    within: Floats,
    prior: float,
    assumed: float,
    out: Floats,
) -> None:
    """Write to out[i] the root mean square of the suspicious parts of all distances of row i; 0 without any.

    columns  int32[profiles, 4]: where value, mean, std and count stand in a row; no count: -1
    sides    int32[profiles]: 1 values above are suspicious, -1 below, 0 both
    """
    for i in range(x.shape[0]):
        total = 0.0
        compared = 0
        for p in range(columns.shape[0]):
            value = x[i, columns[p, 0]]
            if np.isnan(value):
                continue
            mean = x[i, columns[p, 1]]
            std = x[i, columns[p, 2]]
            count = assumed
            if columns[p, 3] >= 0:
                count = x[i, columns[p, 3]]
                if np.isnan(count):
                    count = 0.0
            if not np.isnan(mean):
                mean = _bounded(mean)
            if not np.isnan(std):
                std = _bounded(std)
            z = _distance(_bounded(value), mean, std, _bounded(count), usual[p], between[p], within[p], prior)
            part = abs(z) if sides[p] == 0 else max(z * sides[p], 0.0)
            total += part * part
            compared += 1
        out[i] = math.sqrt(total / compared) if compared > 0 else 0.0
