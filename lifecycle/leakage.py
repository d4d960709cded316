"""Features that know the answer: found before a model is trained on them.

A feature that predicts the label implausibly well by itself was most likely made from it, or later than the event:
a status that is set when fraud is confirmed, a balance after the refund, a missing value where nobody looked. The
check is a pure function of a training set; what it names, a person judges.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import numpy.typing as npt

from domain.batch import Floats
from domain.pipeline import Aggregate, AggregateFeature, ExpressionFeature, Pipeline
from lifecycle.evaluation import ranking

__all__ = ["Leak", "Suspicion", "find_leaks", "undelayed_rates"]

MIN_FRAUDS = 20
"""Frauds below which an area or a constant says nothing."""
MAX_AUC = 0.999
_FEW = 1e-3


class Suspicion(StrEnum):
    """Why a feature is named."""

    SEPARATES = "separates"
    """By itself it ranks nearly every fraud above (or below) nearly everything else."""
    CONSTANT_GIVEN_LABEL = "constant_given_label"
    """It has one value on all frauds, and hardly ever that value elsewhere."""
    MISSING_TELLS = "missing_tells"
    """Whether it is missing nearly settles the label."""
    EQUALS_LABEL = "equals_label"
    """It is the label, or its opposite."""
    LABELS_TOO_EARLY = "labels_too_early"
    """It counts labels of the same event's time, without a delay."""


@dataclass(frozen=True, slots=True)
class Leak:
    """One named feature: why, how well it tells the label alone (``auc``, NaN: not defined), and what to do."""

    feature: str
    suspicion: Suspicion
    auc: float
    text: str


def find_leaks(x: Floats, y: Floats, names: Sequence[str], *, max_auc: float = MAX_AUC) -> tuple[Leak, ...]:
    """Suspicious features of a training set, in the order of ``names``; each with its gravest suspicion.

    ``x`` float64[n, features], NaN missing; ``y`` float64[n]: 1, 0, NaN unknown (left out). With fewer than 20 of
    either label nothing is named: chance separates so few. Raises ValueError when shapes do not fit.
    """
    if x.ndim != 2 or x.shape != (len(y), len(names)):
        raise ValueError(f"x has shape {x.shape}, but there are {len(y)} labels and {len(names)} names")
    known = ~np.isnan(y)
    fraud = y[known] == 1.0
    if min(int(fraud.sum()), int((~fraud).sum())) < MIN_FRAUDS:
        return ()
    leaks = []
    for i, name in enumerate(names):
        leak = _judge(name, x[known, i], fraud, max_auc)
        if leak is not None:
            leaks.append(leak)
    return tuple(leaks)


def undelayed_rates(pipeline: Pipeline) -> tuple[Leak, ...]:
    """Features that count labels without a ``delay``, and expressions over them.

    A label is counted when it was known, so such a feature does not see its own event's; but labels of fraud often
    come earlier than those of the rest, so that the newest events seem worse than they are.
    """
    early: dict[str, str] = {}
    for feature in pipeline.features:
        if (
            isinstance(feature, AggregateFeature)
            and feature.aggregate is Aggregate.RATE
            and not feature.delay
        ):
            early[feature.name] = (
                f"{feature.name} counts labels up to now: add a delay, as long as labels take."
            )
        elif isinstance(feature, ExpressionFeature):
            words = set("".join(c if c.isalnum() or c == "_" else " " for c in feature.expression).split())
            used = sorted(words & early.keys())
            if used:
                early[feature.name] = f"{feature.name} is made from {used[0]}, which counts labels up to now."
    return tuple(Leak(n, Suspicion.LABELS_TOO_EARLY, float("nan"), text) for n, text in early.items())


def _judge(name: str, values: Floats, fraud: npt.NDArray[np.bool_], max_auc: float) -> Leak | None:
    missing = np.isnan(values)
    present = ~missing
    area = _area(values[present], fraud[present])
    if present.all() and _equals(values, fraud):
        return Leak(
            name, Suspicion.EQUALS_LABEL, area, f"{name} is the label itself, or its opposite: remove it."
        )
    gap = _area(missing * 1.0, fraud)
    if gap > max_auc:
        return Leak(
            name,
            Suspicion.MISSING_TELLS,
            gap,
            f"{name} is missing for nearly all of one label and none of the other: is it filled in after the label?",
        )
    told = fraud[present]
    if min(int(told.sum()), int((~told).sum())) < MIN_FRAUDS:
        return None
    of_fraud = values[present][told]
    if (of_fraud == of_fraud[0]).all() and (values[present][~told] == of_fraud[0]).mean() < _FEW:
        return Leak(
            name,
            Suspicion.CONSTANT_GIVEN_LABEL,
            area,
            f"{name} is {of_fraud[0]:g} for every fraud and hardly ever else: is it set when fraud is confirmed?",
        )
    if area > max_auc:
        return Leak(
            name,
            Suspicion.SEPARATES,
            area,
            f"{name} alone separates fraud from the rest (AUC {area:.4f}): is it known when the event happens?",
        )
    return None


def _equals(values: Floats, fraud: npt.NDArray[np.bool_]) -> bool:
    low, high = values.min(), values.max()
    return bool(
        low < high
        and (((values == high) == fraud).all() or ((values == low) == fraud).all())
        and ((values == high) | (values == low)).all()
    )


def _area(values: Floats, fraud: npt.NDArray[np.bool_]) -> float:
    """ROC AUC in the better direction; NaN with one label only."""
    finite = np.nan_to_num(values, nan=0.0, posinf=1.7e308, neginf=-1.7e308)
    area = ranking(finite, fraud).auc
    return max(area, 1.0 - area)
