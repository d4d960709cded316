"""The card of a backtest: what the pipeline would have said of past events, in the layout of a model card."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from domain.durations import format_duration
from domain.pipeline import Pipeline
from lifecycle.backtest import BacktestRun
from lifecycle.backtest_report import Contestant, Report
from lifecycle.evaluation import Interval
from lifecycle.fairness import FairnessReport
from lifecycle.model_card import Card, Facts, Metric, card, moment
from lifecycle.plots import precision_recall

__all__ = ["backtest_card"]


def backtest_card(
    pipeline: Pipeline,
    run: BacktestRun,
    report: Report,
    *,
    code: str,
    since: int | None,
    fairness: FairnessReport | None = None,
    warnings: Sequence[str] = (),
    prefix: str = "",
) -> Card:
    """The card; ``since`` and ``report`` are those of :func:`lifecycle.backtest_report.evaluate`."""
    counted = ~run.duplicates if since is None else ~run.duplicates & (run.times >= since)
    chosen = np.flatnonzero(counted & ~np.isnan(run.labels))
    labels = run.labels[chosen] == 1.0
    score = run.score[chosen]
    facts = Facts(
        title=f"Backtest of {pipeline.name}, version {pipeline.version}",
        summary="What the pipeline would have said of past events, computed by the worker's own engine.",
        data=[
            (
                "measured",
                f"{report.rows:,} events, {report.first_time} to {report.last_time} ({report.days} days)",
            ),
            ("positive", f"{report.frauds:,} ({report.prevalence:.3%})"),
            ("without a label, not measured", f"{report.unlabelled:,}"),
            ("repeats, not measured", f"{report.duplicates:,}"),
            ("used for training only", f"{run.trained_only:,}"),
            ("label delay", format_duration(report.label_delay)),
        ],
        lineage=[
            ("pipeline", f"{pipeline.digest}"),
            ("code", code),
            ("seed", str(pipeline.seed)),
            ("detectors", ", ".join(f"{d.name} ({d.kind})" for d in pipeline.detectors)),
            ("trainings", ", ".join(f"{moment(at)} on {rows:,} events" for at, rows in run.fits) or "none"),
        ],
        metrics=_metrics(report),
        labels=labels,
        curves=[precision_recall("score", score, labels)],
        probability=None if run.probability is None else run.probability[chosen],
        calibration=report.probability,
        fairness=fairness,
        sections=[("What it decided", _decided(report)), ("Features alone", _features(report))],
        limits=[
            "Thresholds at a budget and the best feature know the whole period, which a stream does not.",
            "Past events: the pipeline has influenced nobody in them, live it would.",
            *warnings,
        ],
    )
    return card(facts, prefix=prefix)


def _metrics(report: Report) -> list[Metric]:
    others: dict[str, Contestant] = {"random": report.dummy}
    if report.best_feature is not None:
        others["best feature"] = report.best_feature

    def line(name: str, of: str, interval: Interval | None = None) -> Metric:
        return Metric(name, _of(report.score, of), interval, {n: _of(c, of) for n, c in others.items()})

    budget = f"{report.score.budget.budget:.2%}"
    return [
        line("ROC AUC", "auc", report.score.auc_interval),
        line("average precision", "average_precision", report.score.average_precision_interval),
        line(f"card precision at {report.k} a day", "card_precision", report.score.card_precision_interval),
        line(f"precision, {report.k} events a day", "top.precision"),
        line(f"recall, {report.k} events a day", "top.recall"),
        line(f"precision, {budget} alerts", "budget.precision"),
        line(f"recall, {budget} alerts", "budget.recall"),
    ]


def _of(contestant: Contestant, path: str) -> float:
    found: object = contestant
    for name in path.split("."):
        found = getattr(found, name)
    return float(found) if isinstance(found, int | float) else math.nan


def _decided(report: Report) -> str:
    rows = ["| decision | alerts | share | precision | recall |", "| --- | ---: | ---: | ---: | ---: |"]
    for one in report.decided:
        shown = ["" if math.isnan(value) else f"{value:.3f}" for value in (one.precision, one.recall)]
        rows.append(
            f"| {one.decision} or above | {one.alerts:,} | {one.share:.3%} | {shown[0]} | {shown[1]} |"
        )
    return "\n".join(rows)


def _features(report: Report) -> str:
    rows = [
        "| feature | suspicious when | ROC AUC | average precision | missing |",
        "| --- | --- | ---: | ---: | ---: |",
    ]
    for one in report.features[:10]:
        rows.append(
            f"| {one.name} | {one.direction} | {one.auc:.3f} | {one.average_precision:.3f} | {one.missing:,} |"
        )
    return "\n".join(rows)
