"""How good are the labelled detectors on the Fraud Detection Handbook's transactions?

First the Handbook's own baselines, on its own features, split and models: they must come out as published, or
the measures below mean nothing. Then the detectors of ``examples/handbook/labelled.yaml`` on features that the
engine computes, once on the Handbook's split and once as a stream. Settings are the pipeline file's; only seeds
vary. Run as ``python -m benchmarks.quality_handbook``.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.handbook_data import DELAY, FIRST_DAY, RECIPE, EngineRows, engine_rows, published_rows
from detectors.kinds import build
from detectors.protocol import LabelledDetector
from domain.batch import Floats
from domain.pipeline import Pipeline
from lifecycle.evaluation import DAY, Bools, card_precision, known_compromised, ranking
from tidegate.loading import load

__all__ = ["Figures", "baselines", "exact_split", "stream"]

TRAIN, TEST, LAST = 115, 129, 182
"""Days of the Handbook: training of the split begins (2018-07-25), test begins (2018-08-08), the stream ends."""
_DELAY_DAYS = DELAY // DAY
PUBLISHED = {
    "logistic regression": (0.871, 0.606, 0.291),
    "decision tree of depth 2": (0.763, 0.496, 0.241),
    "random forest": (0.867, 0.658, 0.287),
}


@dataclass(frozen=True, slots=True)
class Figures:
    """One contestant under one protocol: means over seeds, and their standard deviations over seeds."""

    suite: str
    contestant: str
    seeds: int
    auc: float
    average_precision: float
    card_precision: float
    auc_spread: float
    average_precision_spread: float
    card_precision_spread: float


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


def _built(pipeline: Pipeline, seed: int) -> list[tuple[str, LabelledDetector, list[int]]]:
    """The labelled detectors of the file with their columns."""
    names = pipeline.feature_names
    made = []
    for spec in pipeline.detectors:
        seen = names if spec.features is None else spec.features
        detector = build(spec, seen, seed)
        if isinstance(detector, LabelledDetector):
            made.append((spec.name, detector, [names.index(name) for name in seen]))
    return made


def _log_odds(name: str, kinds: dict[str, str], scores: Floats) -> Floats:
    if kinds[name] != "random_forest":
        return scores
    held = np.clip(scores, 1e-4, 1 - 1e-4)
    return np.log(held / (1.0 - held))


def _run(
    pipeline: Pipeline,
    rows: EngineRows,
    seed: int,
    teach_from: int,
    test: range,
    teach_until: Callable[[int], int],
) -> dict[str, Floats]:
    """Scores of the days ``test`` by each detector, and by the mean of their log-odds.

    Each midnight detectors are taught the days whose labels became known; before the first day of ``test`` all
    at once, from day ``teach_from`` on. ``teach_until(day)`` is the first day that is not known on ``day``.
    """
    kinds = {spec.name: spec.kind for spec in pipeline.detectors}
    scores: dict[str, Floats] = {}
    for name, detector, columns in _built(pipeline, seed):
        taught = teach_from
        parts = []
        for day in test:
            until = max(teach_until(day), taught)
            part = rows.between(taught, until - taught)
            y = rows.labels[part].astype(np.float64)
            known_at = rows.times[part] + DELAY
            detector.learn_labels(rows.x[part][:, columns], y, known_at, (FIRST_DAY + day) * DAY)
            taught = until
            parts.append(detector.step(rows.x[rows.between(day, 1)][:, columns]))
        scores[name] = np.concatenate(parts)
    logs = [_log_odds(name, kinds, value) for name, value in scores.items()]
    scores["mean of log-odds"] = np.mean(logs, axis=0)
    return scores


def exact_split(pipeline: Pipeline, rows: EngineRows, seeds: Sequence[int]) -> list[Figures]:
    """The Handbook's split: taught the labels of 2018-07-25 to 31, asked about 08-08 to 14."""
    part, fresh = rows.between(TEST, 7), _fresh(rows, TRAIN, TEST, 7)
    measured: dict[str, list[tuple[float, float, float]]] = {}
    for seed in seeds:
        scores = _run(pipeline, rows, seed, TRAIN, range(TEST, TEST + 7), lambda day: TRAIN + 7)
        for name, values in scores.items():
            measured.setdefault(name, []).append(_measures(rows, part, values, fresh))
    return [_figures("exact split", name, values) for name, values in measured.items()]


def stream(pipeline: Pipeline, rows: EngineRows, seeds: Sequence[int], last: int = LAST) -> list[Figures]:
    """Days 129 to ``last``, taught each label when it is known, refitted as the pipeline says.

    Three protocols. ``all events``: no card is removed, but those found, in card precision. ``known removed``:
    without cards known to be compromised by frauds since day 129. ``weeks``, the Handbook's own: each week is a
    test set by itself, without cards known to be compromised by frauds since two weeks before it; the means.
    """
    days = last + 1 - TEST
    part = rows.between(TEST, days)
    everything = np.ones(part.stop - part.start, dtype=np.bool_)
    fresh = _fresh(rows, TEST, TEST, days)
    measured: dict[tuple[str, str], list[tuple[float, float, float]]] = {}
    for seed in seeds:
        scores = _run(pipeline, rows, seed, 0, range(TEST, last + 1), lambda day: day - _DELAY_DAYS)
        for name, values in scores.items():
            weeks = []
            for first in range(TEST, last + 1, 7):
                length = min(7, last + 1 - first)
                week = rows.between(first, length)
                here = values[week.start - part.start : week.stop - part.start]
                weeks.append(_measures(rows, week, here, _fresh(rows, first - 14, first, length)))
            for suite, figures in (
                ("stream, all events", _measures(rows, part, values, everything)),
                ("stream, known removed", _measures(rows, part, values, fresh)),
                ("stream, weeks", tuple(np.mean(weeks, axis=0).tolist())),
            ):
                measured.setdefault((suite, name), []).append(figures)
    return [_figures(suite, name, values) for (suite, name), values in sorted(measured.items())]


def _table(found: Sequence[Figures]) -> Table:
    table = Table(title="Fraud Detection Handbook: mean and standard deviation over seeds")
    for column in ("", "contestant", "seeds", "AUC", "average precision", "card precision at 100"):
        table.add_column(column, justify="left" if column in ("", "contestant") else "right")
    for one in found:
        table.add_row(
            one.suite,
            one.contestant,
            str(one.seeds),
            f"{one.auc:.4f} ± {one.auc_spread:.4f}",
            f"{one.average_precision:.4f} ± {one.average_precision_spread:.4f}",
            f"{one.card_precision:.4f} ± {one.card_precision_spread:.4f}",
        )
    return table


def main(arguments_given: Sequence[str] | None = None) -> None:
    """Measure; the arguments are those of the command line unless given."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--json", action="store_true", help="print the result as JSON instead of a table")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--suite", choices=("baseline", "exact", "stream", "all"), default="all")
    parser.add_argument("--last", type=int, default=LAST, help="last day of the stream")
    arguments = parser.parse_args(arguments_given)
    wanted, seeds = arguments.suite, range(arguments.seeds)
    pipeline = load(RECIPE)
    started = time.monotonic()
    found: list[Figures] = []
    if wanted in ("baseline", "all"):
        found += baselines()
    if wanted != "baseline":
        rows = engine_rows(pipeline)
        if wanted in ("exact", "all"):
            found += exact_split(pipeline, rows, seeds)
        if wanted in ("stream", "all"):
            found += stream(pipeline, rows, seeds, arguments.last)
    if arguments.json:
        result: dict[str, Any] = {
            "seconds": time.monotonic() - started,
            "figures": [asdict(f) for f in found],
        }
        print(json.dumps(result))
        return
    Console().print(_table(found))


if __name__ == "__main__":
    main()
