"""Compiled one-class support vector machine on random Fourier features: score and one gradient step a row."""

from __future__ import annotations

import math

import numpy as np

from detectors.kernels_scaling import squash_row
from domain.batch import Floats
from domain.compiled import compiled

__all__ = ["score_rows", "step_rows"]


@compiled
def _lift(row: Floats, frequencies: Floats, phase: Floats, out: Floats) -> None:
    """Write to ``out`` cosines and sines of the projections of ``row``: a point on the unit sphere.

    Feature by feature over all frequencies, so that the inner loop runs over neighbours in memory.
    """
    count = frequencies.shape[1]
    phase[:] = 0.0
    for j in range(row.shape[0]):
        value = row[j]
        for k in range(count):
            phase[k] += value * frequencies[j, k]
    norm = 1.0 / math.sqrt(count)
    for k in range(count):
        out[k] = math.cos(phase[k]) * norm
        out[count + k] = math.sin(phase[k]) * norm


@compiled
def _product(left: Floats, right: Floats) -> float:
    total = 0.0
    for k in range(left.shape[0]):
        total += left[k] * right[k]
    return total


@compiled
def score_rows(
    x: Floats, center: Floats, scale: Floats, frequencies: Floats, weights: Floats, rho: Floats, out: Floats
) -> None:
    """Write to out[i] how far x[i] lies outside of the boundary; nothing is learned."""
    count = frequencies.shape[1]
    row = np.empty(x.shape[1])
    phase = np.empty(count)
    lifted = np.empty(2 * count)
    for i in range(x.shape[0]):
        squash_row(x[i], center, scale, row)
        _lift(row, frequencies, phase, lifted)
        out[i] = rho[0] - _product(weights, lifted)


@compiled
def step_rows(
    x: Floats,
    center: Floats,
    scale: Floats,
    frequencies: Floats,
    weights: Floats,
    rho: Floats,
    learned: int,
    nu: float,
    start: float,
    memory: float,
    out: Floats,
) -> None:
    """Score each row of ``x``, then take the gradient step it asks for; ``learned`` rows came before.

    The objective is |w|^2 / 2 - rho + mean(max(0, rho - w.z)) / nu over lifted rows z; the step size is
    1 / (start + rows so far), but not below 1 / memory.
    """
    count = frequencies.shape[1]
    row = np.empty(x.shape[1])
    phase = np.empty(count)
    lifted = np.empty(2 * count)
    for i in range(x.shape[0]):
        squash_row(x[i], center, scale, row)
        _lift(row, frequencies, phase, lifted)
        margin = _product(weights, lifted)
        out[i] = rho[0] - margin
        rate = 1.0 / min(start + learned + i, memory)
        shrink = 1.0 - rate
        if margin < rho[0]:
            push = rate / nu
            for k in range(2 * count):
                weights[k] = weights[k] * shrink + push * lifted[k]
            rho[0] += rate - push
        else:
            for k in range(2 * count):
                weights[k] *= shrink
            rho[0] += rate
