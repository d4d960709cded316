"""Reasons of alerts: which values made the whole ensemble suspicious, by how much, and what is usual.

Ablation: a feature's contribution is by how much the score falls when its value is replaced by the median of
recent traffic, with the same detectors and ranks as at the end of the batch. So a reason with a contribution says
that without it the score would have been lower. Where no single value does that (several are odd together, or the
score is beyond everything seen), the values farthest from what is usual are named, with a contribution of 0.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from detectors.ensemble import Ensemble
from detectors.reference import ReferenceSample
from domain.batch import Floats, Ints
from domain.verdict import Reason

__all__ = ["MAX_REASONS", "explain"]

MAX_REASONS = 5
_ROWS_AT_ONCE = 64
"""Alerts explained in one call of the detectors: bounds memory at 64 x features rows."""


def explain(ensemble: Ensemble, names: Sequence[str], x: Floats, alerts: Ints) -> dict[int, list[Reason]]:
    """Reasons, greatest contribution first, of the rows ``alerts`` of ``x`` (float64[n, features])."""
    found: dict[int, list[Reason]] = {}
    reference = ensemble.reference
    median, low, high = reference.median, reference.low, reference.high
    known = np.flatnonzero(~np.isnan(median))
    if len(known) == 0:
        return found
    for start in range(0, len(alerts), _ROWS_AT_ONCE):
        rows = alerts[start : start + _ROWS_AT_ONCE]
        width = len(known) + 1
        variants = np.repeat(x[rows], width, axis=0)
        for i, column in enumerate(known):
            variants[i + 1 :: width, column] = median[column]
        scores = ensemble.score(variants).score.reshape(len(rows), width)
        falls = scores[:, :1] - scores[:, 1:]
        for row, fall in zip(rows.tolist(), falls, strict=True):
            if not (fall > 0.0).any():
                found[row] = _farthest(names, x[row], known, reference)
                continue
            order = np.argsort(-fall, kind="stable")[:MAX_REASONS]
            found[row] = [
                _reason(
                    names[known[i]],
                    float(x[row, known[i]]),
                    float(low[known[i]]),
                    float(high[known[i]]),
                    float(fall[i]),
                )
                for i in order
                if fall[i] > 0.0
            ]
    return found


def _farthest(names: Sequence[str], values: Floats, known: Ints, reference: ReferenceSample) -> list[Reason]:
    """Reasons of an alert that no single value explains: distance from the median in usual widths."""
    median, low, high = reference.median[known], reference.low[known], reference.high[known]
    width = np.maximum(high - low, 1e-12)
    distance = np.nan_to_num(np.abs(values[known] - median) / width, nan=0.0)
    order = np.argsort(-distance, kind="stable")[:MAX_REASONS]
    return [
        _reason(names[known[i]], float(values[known[i]]), float(low[i]), float(high[i]), 0.0)
        for i in order
        if distance[i] > 0.0
    ]


def _reason(name: str, value: float, low: float, high: float, contribution: float) -> Reason:
    usual = f"usually {_number(low)} to {_number(high)}"
    if np.isnan(value):
        return Reason(f"{name}_missing", name, None, low, high, contribution, f"{name} is missing ({usual})")
    if value > high:
        code, text = "high", "is above its usual range"
    elif value < low:
        code, text = "low", "is below its usual range"
    else:
        code, text = "unusual", "is rare together with the other values"
    return Reason(
        f"{name}_{code}", name, value, low, high, contribution, f"{name} {_number(value)} {text} ({usual})"
    )


def _number(value: float) -> str:
    """At most four significant digits, without exponent where people would not write one."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
