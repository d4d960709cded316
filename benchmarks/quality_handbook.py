"""The service on the Fraud Detection Handbook's transactions, under the Handbook's protocols.

First the Handbook's own baselines, on its own features, split and models: they must come out as published, or the
measures below mean nothing. Then the ensemble of a pipeline file on features that the engine computes, moved over the
events as in a worker (:mod:`benchmarks.quality_service`): on the Handbook's split, and as a stream. Settings are the
pipeline file's; only seeds vary.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import msgspec
import numpy as np

from benchmarks.handbook_data import DELAY, FIRST_DAY, EngineRows, published_rows
from benchmarks.quality_service import Service
from domain.batch import Floats
from domain.pipeline import Pipeline
from lifecycle.evaluation import DAY, Bools, calibration, card_precision, known_compromised, ranking

__all__ = [
    "Figures",
    "baselines",
    "exact_service",
    "stream_service",
    "unlabelled_recipe",
    "unlabelled_service",
]

TRAIN, TEST, LAST = 115, 129, 182
"""Days of the Handbook: training of the split begins (2018-07-25), test begins (2018-08-08), the stream ends."""
_BEGIN = 115
"""Day on which the service begins to score in the stream; it was taught the labels known until then."""
_TAUGHT = 400_000
"""The newest labels that it was taught then: more than the memories hold."""
PUBLISHED = {
    "logistic regression": (0.871, 0.606, 0.291),
    "decision tree of depth 2": (0.763, 0.496, 0.241),
    "random forest": (0.867, 0.658, 0.287),
}


@dataclass(frozen=True, slots=True)
class Figures:
    """One contestant under one protocol: means over seeds, and their standard deviations over seeds.

    ``brier`` and ``calibration_error`` are those of the probabilities, NaN where there are none.
    """

    suite: str
    contestant: str
    seeds: int
    auc: float
    average_precision: float
    card_precision: float
    auc_spread: float
    average_precision_spread: float
    card_precision_spread: float
    brier: float = np.nan
    calibration_error: float = np.nan


def _figures(suite: str, contestant: str, measured: list[tuple[float, float, float]]) -> Figures:
    mean, spread = np.mean(measured, axis=0).tolist(), np.std(measured, axis=0).tolist()
    return Figures(suite, contestant, len(measured), *mean, *spread)


def _measures(rows: EngineRows, part: slice, scores: Floats, fresh: Bools) -> tuple[float, float, float]:
    labels, days, cards = rows.labels[part][fresh], rows.times[part][fresh] // DAY, rows.cards[part][fresh]
    found = ranking(scores[fresh], labels)
    return found.auc, found.average_precision, card_precision(scores[fresh], labels, days, cards, k=100).mean


def _fresh(rows: EngineRows, since: int, first: int, days: int) -> Bools:
    """Rows of the days whose card was not known to be compromised, counting frauds from day ``since`` on."""
    whole = rows.between(since, first + days - since)
    known = known_compromised(
        rows.times[whole],
        rows.cards[whole],
        rows.labels[whole],
        delay=DELAY,
        since=(FIRST_DAY + since) * DAY,
    )
    part = rows.between(first, days)
    fresh: Bools = ~known[part.start - whole.start : part.stop - whole.start]
    return fresh


def baselines(rows: EngineRows | None = None) -> list[Figures]:
    """The published baselines on the published features. Raises SystemExit when one is off by more than .003."""
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from sklearn.tree import DecisionTreeClassifier

    rows = published_rows() if rows is None else rows
    models = (
        LogisticRegression(random_state=0),
        DecisionTreeClassifier(max_depth=2, random_state=0),
        RandomForestClassifier(random_state=0),
    )
    train, test = rows.between(TRAIN, 7), rows.between(TEST, 7)
    fresh = _fresh(rows, TRAIN, TEST, 7)
    found = []
    for (name, published), model in zip(PUBLISHED.items(), models, strict=True):
        fitted = make_pipeline(StandardScaler(), model).fit(rows.x[train], rows.labels[train])
        figures = _measures(rows, test, fitted.predict_proba(rows.x[test])[:, 1], fresh)
        if max(abs(a - b) for a, b in zip(figures, published, strict=True)) > 0.003:
            raise SystemExit(f"{name}: {figures} instead of the published {published}: check the evaluation")
        found.append(_figures("baseline", name, [figures]))
    return found


def _one(suite: str, contestant: str, rows: EngineRows, part: slice, scores: Floats, fresh: Bools) -> Figures:
    return _figures(suite, contestant, [_measures(rows, part, scores, fresh)])


def exact_service(pipeline: Pipeline, rows: EngineRows) -> list[Figures]:
    """The Handbook's split: the labels of 2018-07-25 to 31 are told when known, 08-08 to 14 are measured."""
    train, before, part = rows.between(TRAIN, 7), rows.between(TRAIN, TEST - TRAIN), rows.between(TEST, 7)
    service = Service(pipeline, rows, train.start)
    service.run(before.start, before.stop, labels_until=train.stop)
    service.run(part.start, part.stop, labels_until=train.stop)
    fresh = _fresh(rows, TRAIN, TEST, 7)
    found = [_one("exact split", "service", rows, part, service.score[part], fresh)]
    for i, spec in enumerate(pipeline.detectors):
        found.append(_one("exact split", spec.name, rows, part, service.ranks(part)[:, i], fresh))
    return found


def stream_service(pipeline: Pipeline, rows: EngineRows, last: int = LAST) -> list[Figures]:
    """Days 129 to ``last``; each label is told when it is known, models are fitted as the pipeline says.

    ``all events``: no card is removed, but those found, in card precision. ``known removed``: without cards known
    to be compromised by frauds since day 129. ``weeks``, the Handbook's own: each week is a test set by itself,
    without cards known to be compromised by frauds since two weeks before it; the means.
    """
    known = rows.between(_BEGIN - DELAY // DAY, 1).start
    part = rows.between(TEST, last + 1 - TEST)
    service = Service(pipeline, rows, known)
    service.teach(max(0, known - _TAUGHT), known)
    service.run(rows.between(_BEGIN, 1).start, part.stop)
    everything = np.ones(part.stop - part.start, dtype=np.bool_)
    fresh = _fresh(rows, TEST, TEST, last + 1 - TEST)
    contestants = {"service": service.score[part]}
    contestants.update({spec.name: service.ranks(part)[:, i] for i, spec in enumerate(pipeline.detectors)})
    found = []
    for name, scores in contestants.items():
        found.append(_one("stream, all events", name, rows, part, scores, everything))
        found.append(_one("stream, known removed", name, rows, part, scores, fresh))
        weeks = []
        for first in range(TEST, last + 1, 7):
            length = min(7, last + 1 - first)
            week = rows.between(first, length)
            here = scores[week.start - part.start : week.stop - part.start]
            weeks.append(_measures(rows, week, here, _fresh(rows, first - 14, first, length)))
        found.append(_figures("stream, weeks", name, [tuple(np.mean(weeks, axis=0).tolist())]))
    belief = calibration(service.probability[part], rows.labels[part])
    found[0] = replace(found[0], brier=belief.brier, calibration_error=belief.expected_calibration_error)
    return found


def unlabelled_recipe(recipe: Pipeline, unlabelled: Pipeline) -> Pipeline:
    """The members and the decision of ``unlabelled`` on what the detectors of ``recipe`` see."""
    seen = recipe.detectors[0].features
    detectors = tuple(msgspec.structs.replace(spec, features=seen) for spec in unlabelled.detectors)
    return msgspec.structs.replace(recipe, detectors=detectors, decision=unlabelled.decision)


def unlabelled_service(
    pipeline: Pipeline, rows: EngineRows, last: int = LAST, suite: str = "stream, without labels"
) -> list[Figures]:
    """Days 129 to ``last`` by a pipeline whose detectors learn without labels, which has seen all days before."""
    part = rows.between(TEST, last + 1 - TEST)
    service = Service(pipeline, rows, 0)
    service.run(0, part.stop)
    everything = np.ones(part.stop - part.start, dtype=np.bool_)
    found = [_one(suite, "service", rows, part, service.score[part], everything)]
    for i, spec in enumerate(pipeline.detectors):
        found.append(_one(suite, spec.name, rows, part, service.ranks(part)[:, i], everything))
    return found
