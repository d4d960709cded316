"""Compiled online logistic regression, row after row.

Weights stand for standardised columns, then for "column is missing", then one for the intercept.
"""

from __future__ import annotations

import numpy as np

from domain.batch import Floats
from domain.compiled import compiled

__all__ = ["learn_rows", "score_logistic"]

_LARGEST = 1e30
_FAR = 5.0
"""Standardised values are cut here: one huge amount must not undo what thousands of rows taught."""


@compiled
def _inputs(row: Floats, mean: Floats, spread: Floats, count: Floats, z: Floats) -> None:
    width = row.shape[0]
    for j in range(width):
        z[j] = 0.0
        z[width + j] = 0.0
        if np.isnan(row[j]):
            z[width + j] = 1.0
        elif count[j] > 1.0 and spread[j] > 0.0:
            value = min(max(row[j], -_LARGEST), _LARGEST)
            standard = (value - mean[j]) / np.sqrt(spread[j] / count[j])
            z[j] = min(max(standard, -_FAR), _FAR)
    z[2 * width] = 1.0


@compiled
def _log_odds(weights: Floats, z: Floats) -> float:
    total = 0.0
    for k in range(z.shape[0]):
        total += weights[k] * z[k]
    return total


@compiled
def score_logistic(
    x: Floats, mean: Floats, spread: Floats, count: Floats, weights: Floats, labels: Floats, out: Floats
) -> None:
    """Write to out[r] the log-odds of a positive label; arrays as in :func:`learn_rows`."""
    z = np.empty(weights.shape[0])
    prior = np.log((labels[0] + 1.0) / (labels[1] + 1.0))
    for r in range(x.shape[0]):
        _inputs(x[r], mean, spread, count, z)
        out[r] = _log_odds(weights, z) + prior


@compiled
def learn_rows(
    x: Floats,
    y: Floats,
    rate: float,
    l2: float,
    mean: Floats,
    spread: Floats,
    count: Floats,
    weights: Floats,
    steps: Floats,
    labels: Floats,
) -> None:
    """Learn the rows of ``x`` in order; rows whose label is neither 0 nor 1 are passed over.

    x        float64[n, F], NaN is missing; y float64[n]
    mean, spread, count  float64[F]: mean, sum of squared deviations and number of the values seen
    weights  float64[2 F + 1]; steps likewise: sums of squared gradients
    labels   float64[2]: positives and negatives so far
    Each class has half of the say: a positive weighs as much as the negatives that came with it.
    """
    z = np.empty(weights.shape[0])
    for i in range(x.shape[0]):
        if y[i] != 0.0 and y[i] != 1.0:
            continue
        for j in range(x.shape[1]):
            if not np.isnan(x[i, j]):
                value = min(max(x[i, j], -_LARGEST), _LARGEST)
                count[j] += 1.0
                away = value - mean[j]
                mean[j] += away / count[j]
                spread[j] += away * (value - mean[j])
        labels[0 if y[i] == 1.0 else 1] += 1.0
        total = labels[0] + labels[1] + 2.0
        weight = total / (2.0 * (labels[0] + 1.0)) if y[i] == 1.0 else total / (2.0 * (labels[1] + 1.0))
        _inputs(x[i], mean, spread, count, z)
        error = weight * (1.0 / (1.0 + np.exp(-_log_odds(weights, z))) - y[i])
        for k in range(z.shape[0]):
            gradient = error * z[k] + l2 * weights[k]
            if gradient != 0.0:
                steps[k] += gradient * gradient
                weights[k] -= rate * gradient / np.sqrt(steps[k])
