"""From the scored rows of a backtest to a report: the score, a dummy, and the best single feature side by side."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from domain.batch import Floats, Ints
from domain.clock import from_micros
from domain.pipeline import Pipeline
from domain.verdict import DECISIONS, DecisionName
from lifecycle.backtest import BacktestRun
from lifecycle.evaluation import (
    DAY,
    Bools,
    BudgetPoint,
    Calibration,
    Interval,
    TopK,
    bootstrap_days,
    bootstrap_ranking,
    budget_point,
    calibration,
    card_precision,
    known_compromised,
    ranking,
    top_k,
)

__all__ = ["Contestant", "Decided", "Report", "ReportOptions", "evaluate"]

_FEW_DAYS = 10
"""Below so many days, intervals resample cards instead of days."""


@dataclass(frozen=True, slots=True)
class ReportOptions:
    """What to measure. ``since``: events before it (UTC microseconds) are not measured; ``label_delay`` likewise."""

    since: int | None = None
    label_delay: int = 7 * DAY
    k: int = 100
    replicates: int = 200
    dummies: int = 5
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Contestant:
    """One way to rank the events. ``budget`` and ``daily`` are at the review budget, ``top`` at the capacity."""

    name: str
    auc: float
    average_precision: float
    card_precision: float
    card_precision_nothing_removed: float
    budget: BudgetPoint
    daily: BudgetPoint
    top: TopK
    abstained: int
    auc_interval: Interval | None = None
    average_precision_interval: Interval | None = None
    card_precision_interval: Interval | None = None


@dataclass(frozen=True, slots=True)
class Decided:
    """What the pipeline itself decided: rows at ``decision`` or above it."""

    decision: str
    alerts: int
    share: float
    precision: float
    recall: float


@dataclass(frozen=True, slots=True)
class SingleFeature:
    """One feature as the whole detector: in the better of its two directions."""

    name: str
    direction: str
    auc: float
    average_precision: float
    missing: int


@dataclass(frozen=True, slots=True)
class Report:
    """Metrics of a backtest; see docs/backtest.md for every word."""

    rows: int
    frauds: int
    prevalence: float
    unlabelled: int
    duplicates: int
    first_time: str
    last_time: str
    days: int
    k: int
    label_delay: int
    known_removed: int
    interval_blocks: str
    score: Contestant
    dummy: Contestant
    best_feature: Contestant | None
    features: tuple[SingleFeature, ...]
    decided: tuple[Decided, ...]
    probability: Calibration | None = None

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values; what is not defined is null."""
        return {name: _plain(value) for name, value in asdict(self).items()}


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


@dataclass(frozen=True, slots=True)
class _Rows:
    """The measured rows."""

    labels: Bools
    days: Ints
    cards: Ints
    fresh: Bools
    """Rows whose card was not known to be compromised when the day began."""
    blocks: Ints


def evaluate(
    run: BacktestRun, pipeline: Pipeline, feature: Callable[[str], Floats], options: ReportOptions
) -> Report | None:
    """Metrics over the labelled, not repeated verdicts from ``options.since`` on; None without any such.

    ``feature`` gives a feature's column by name, aligned with the run's rows.
    """
    counted = ~run.duplicates
    if options.since is not None:
        counted &= run.times >= options.since
    chosen = np.flatnonzero(counted & ~np.isnan(run.labels))
    if not len(chosen):
        return None
    times, labels, cards = run.times[chosen], run.labels[chosen] == 1.0, run.cards[chosen]
    days = times // DAY
    known = known_compromised(times, cards, labels, delay=options.label_delay, since=int(times.min()))
    n_days = len(np.unique(days))
    rows = _Rows(labels, days, cards, ~known, days if n_days >= _FEW_DAYS else cards)
    budget = pipeline.decision.review or pipeline.decision.block
    share = 0.01 if budget is None or budget.budget is None else budget.budget
    score = _contest("score", run.score[chosen], rows, share, options, intervals=True)
    singles, best = _features(pipeline.feature_names, feature, chosen, rows, share, options)
    return Report(
        rows=len(chosen),
        frauds=int(labels.sum()),
        prevalence=float(labels.mean()),
        unlabelled=int((counted & np.isnan(run.labels)).sum()),
        duplicates=int(run.duplicates.sum()),
        first_time=from_micros(int(times.min())).isoformat(),
        last_time=from_micros(int(times.max())).isoformat(),
        days=n_days,
        k=options.k,
        label_delay=options.label_delay,
        known_removed=int(known.sum()),
        interval_blocks="day" if n_days >= _FEW_DAYS else "card",
        score=score,
        dummy=_dummy(rows, share, options),
        best_feature=best,
        features=singles,
        decided=tuple(_decided(run.decision[chosen], labels, name) for name in DECISIONS[1:]),
        probability=None if run.probability is None else calibration(run.probability[chosen], labels),
    )


def _contest(
    name: str, scores: Floats, rows: _Rows, budget: float, options: ReportOptions, *, intervals: bool
) -> Contestant:
    areas = ranking(scores, rows.labels)
    fresh = rows.fresh
    removed = card_precision(
        scores[fresh], rows.labels[fresh], rows.days[fresh], rows.cards[fresh], k=options.k, seed=options.seed
    )
    kept = card_precision(
        scores, rows.labels, rows.days, rows.cards, k=options.k, remove_detected=False, seed=options.seed
    )
    auc = average_precision = cards = None
    if intervals and options.replicates > 1:
        auc, average_precision = bootstrap_ranking(
            scores, rows.labels, rows.blocks, replicates=options.replicates, seed=options.seed
        )
        cards = bootstrap_days(removed, replicates=options.replicates, seed=options.seed)
    return Contestant(
        name=name,
        auc=areas.auc,
        average_precision=areas.average_precision,
        card_precision=removed.mean,
        card_precision_nothing_removed=kept.mean,
        budget=budget_point(scores, rows.labels, budget=budget),
        daily=budget_point(scores, rows.labels, budget=budget, days=rows.days),
        top=top_k(scores, rows.labels, rows.days, k=options.k),
        abstained=areas.abstained,
        auc_interval=auc,
        average_precision_interval=average_precision,
        card_precision_interval=cards,
    )


def _dummy(rows: _Rows, budget: float, options: ReportOptions) -> Contestant:
    """Random scores, the mean over seeds: what no skill at all looks like on these events."""
    drawn = [
        _contest(
            "random",
            np.random.default_rng((options.seed, number)).random(len(rows.labels)),
            rows,
            budget,
            options,
            intervals=False,
        )
        for number in range(options.dummies)
    ]

    def mean(of: Callable[[Contestant], float]) -> float:
        return float(np.mean([of(one) for one in drawn]))

    def point(of: Callable[[Contestant], BudgetPoint]) -> BudgetPoint:
        first = of(drawn[0])
        precision, recall = mean(lambda c: of(c).precision), mean(lambda c: of(c).recall)
        return BudgetPoint(first.budget, first.per_day, first.alerts, precision, recall)

    return Contestant(
        name="random",
        auc=mean(lambda c: c.auc),
        average_precision=mean(lambda c: c.average_precision),
        card_precision=mean(lambda c: c.card_precision),
        card_precision_nothing_removed=mean(lambda c: c.card_precision_nothing_removed),
        budget=point(lambda c: c.budget),
        daily=point(lambda c: c.daily),
        top=TopK(
            options.k, drawn[0].top.taken, mean(lambda c: c.top.precision), mean(lambda c: c.top.recall)
        ),
        abstained=0,
    )


def _features(
    names: Sequence[str],
    feature: Callable[[str], Floats],
    chosen: npt.NDArray[np.intp],
    rows: _Rows,
    budget: float,
    options: ReportOptions,
) -> tuple[tuple[SingleFeature, ...], Contestant | None]:
    """Every feature by itself, best average precision first; and the best one measured like the score."""
    singles = []
    for name in names:
        column = feature(name)[chosen]
        high, low = ranking(column, rows.labels), ranking(-column, rows.labels)
        better, direction = (
            (high, "high") if high.average_precision >= low.average_precision else (low, "low")
        )
        singles.append(SingleFeature(name, direction, better.auc, better.average_precision, better.abstained))
    singles.sort(key=lambda s: (-np.nan_to_num(s.average_precision), s.name))
    if not singles:
        return (), None
    best = singles[0]
    column = feature(best.name)[chosen]
    signed = column if best.direction == "high" else -column
    name = f"{best.name} ({best.direction} is suspicious)"
    return tuple(singles), _contest(name, signed, rows, budget, options, intervals=False)


def _decided(decision: npt.NDArray[np.int8], labels: Bools, name: DecisionName) -> Decided:
    alerts = decision >= DECISIONS.index(name)
    hits, count, frauds = int((alerts & labels).sum()), int(alerts.sum()), int(labels.sum())
    return Decided(
        decision=str(name),
        alerts=count,
        share=count / len(labels),
        precision=hits / count if count else math.nan,
        recall=hits / frauds if frauds else math.nan,
    )
