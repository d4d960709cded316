"""Reasons of alerts: which values made the whole ensemble suspicious, by how much, and what is usual.

The values of an alert are replaced by their usual ones, the medians of recent traffic, one after the other in several
orders, with the same detectors and ranks as at the end of the batch. A feature's contribution is by how much the score
falls when its turn comes, averaged over the orders: an estimate of its Shapley value (Strumbelj, Kononenko, Knowledge
and Information Systems 41, 2014), from orders and their reverses (Mitchell, Cooper, Frank, Holmes, JMLR 23, 2022). So
values that are odd only together share what they cause, and one odd beside others that suffice has its part too.

A value whose replacement alone would raise the score is no reason: what is named never acts the other way. Where no
value contributes (the score lies beyond everything seen), those farthest from what is usual are named, with 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from detectors.ensemble import Decide, Ensemble
from detectors.reference import ReferenceSample
from domain.batch import Floats, Ints
from domain.verdict import Reason

__all__ = ["MAX_REASONS", "contributions", "explain"]

MAX_REASONS = 5
_PAIRS = 3
"""Orders, each with its reverse: 6 scored rows a feature, beside one for the value alone (docs/reasons.md)."""
_ROWS_AT_ONCE = 4096
"""Rows in one call of the detectors, if one alert does not need more: bounds memory."""


def explain(
    ensemble: Ensemble, names: Sequence[str], x: Floats, alerts: Ints, decide: Decide | None = None
) -> dict[int, list[Reason]]:
    """Reasons, greatest contribution first, of the rows ``alerts`` of ``x`` (float64[n, features]).

    They explain the score that ``decide`` gives rows that the ensemble has scored; None: the ensemble's own.
    """
    found: dict[int, list[Reason]] = {}
    reference = ensemble.reference
    known = np.flatnonzero(~np.isnan(reference.median))
    if len(known) == 0:
        return found
    low, high = reference.low, reference.high
    at_once = max(1, _ROWS_AT_ONCE // (len(known) * (1 + 2 * _PAIRS) + 1))
    for start in range(0, len(alerts), at_once):
        rows = alerts[start : start + at_once]
        parts, falls = contributions(ensemble, x[rows], known, decide=decide)
        parts = np.where(falls >= 0.0, parts, 0.0)
        for row, part in zip(rows.tolist(), parts, strict=True):
            if not (part > 0.0).any():
                found[row] = _farthest(names, x[row], known, reference)
                continue
            order = np.argsort(-part, kind="stable")[:MAX_REASONS]
            found[row] = [
                _reason(
                    names[known[i]],
                    float(x[row, known[i]]),
                    float(low[known[i]]),
                    float(high[known[i]]),
                    float(part[i]),
                )
                for i in order
                if part[i] > 0.0
            ]
    return found


def contributions(
    ensemble: Ensemble, x: Floats, known: Ints, pairs: int = _PAIRS, *, decide: Decide | None = None
) -> tuple[Floats, Floats]:
    """What the columns ``known`` contribute to the scores of ``x`` (float64[rows, features]).

    Returns float64[rows, known] twice: the mean fall over the orders, and the fall when that value alone is replaced.
    """
    orders = _orders(len(known), pairs)
    usual = ensemble.reference.median[known]
    width = len(known)
    variants = np.repeat(x, 1 + width + len(orders) * width, axis=0).reshape(len(x), -1, x.shape[1])
    for i, column in enumerate(known.tolist()):
        variants[:, 1 + i, column] = usual[i]
    for number, order in enumerate(orders):
        first = 1 + width + number * width
        for step, i in enumerate(order.tolist()):
            # from its turn to the end of the order the value is the usual one
            variants[:, first + step : first + width, known[i]] = usual[i]
    rows = variants.reshape(-1, x.shape[1])
    own = ensemble.score(rows)
    scores = (own.score if decide is None else decide(rows, own)).reshape(len(x), -1)
    falls: Floats = scores[:, :1] - scores[:, 1 : 1 + width]
    total = np.zeros((len(x), width))
    for number, order in enumerate(orders):
        path = scores[:, 1 + width + number * width : 1 + width + (number + 1) * width]
        total[:, order] += np.concatenate([scores[:, :1], path[:, :-1]], axis=1) - path
    return total / len(orders), falls


@lru_cache(maxsize=16)
def _orders(width: int, pairs: int) -> tuple[Ints, ...]:
    """The orders for so many columns, the same for ever."""
    rng = np.random.default_rng(width)
    drawn = [rng.permutation(width) for _ in range(pairs)]
    return tuple(order for one in drawn for order in (one, one[::-1]))


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
