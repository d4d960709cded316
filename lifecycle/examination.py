"""The later slice as the gate sees it, and the card of a trained model. Pure, given rows and models."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from detectors.trained_model import TrainedModel
from domain.batch import Floats, Ints
from domain.durations import format_duration
from domain.examples import Examples
from domain.parallel import Run, in_turn
from domain.pipeline import Pipeline
from domain.pipeline_retraining import Retraining
from featurestore.offline_port import Pin
from lifecycle.gate import GateReport, GateSlice, Grouping, judge
from lifecycle.groups import grouped
from lifecycle.leakage import find_leaks, undelayed_rates
from lifecycle.live import OWN, alert_share
from lifecycle.manifest import Manifest
from lifecycle.model_card import Card, Facts, Metric, card, gate_sections, moment
from lifecycle.parallel_scores import scores_of
from lifecycle.plots import precision_recall
from lifecycle.training import TrainingPlan, TrainingRows, codes_of

__all__ = ["Examined", "examine", "model_card"]


@dataclass(frozen=True, slots=True)
class Examined:
    """What the gate said, and on which rows: ``slice`` is what it was given."""

    slice: GateSlice
    report: GateReport


def examine(
    pipeline: Pipeline,
    rules: Retraining,
    plan: TrainingPlan,
    split: int,
    examples: Examples,
    rows: TrainingRows,
    model: TrainedModel,
    champion: TrainedModel | None,
    run: Run = in_turn,
) -> Examined:
    """Let the gate judge ``model`` on the labelled rows from ``split`` on.

    Without a champion, or with one for other features, it is compared with the pipeline's own scores.
    """
    known = ~np.isnan(examples.y)
    later = np.flatnonzero(known & (examples.times >= split))
    earlier = np.flatnonzero(known & (examples.times < split))
    held = examples.take(later)
    said = scores_of(model, held, run)
    usable = champion if champion is not None and champion.mismatch(pipeline) is None else None
    own = held.score if held.own is None else held.own
    other = own if usable is None else scores_of(usable, held, run).score
    given = GateSlice(
        labels=held.y == 1.0,
        times=held.times,
        challenger=said.score,
        probability=said.probability,
        champion=other,
        champion_name=OWN if usable is None else usable.version,
        fitted_rows=len(earlier),
        fitted_positives=int((examples.y[earlier] == 1.0).sum()),
        budget=alert_share(pipeline),
        entities=_entities(rows, plan, pipeline.event.key, later, len(examples)),
        grouping=_grouping(pipeline, rules, rows, plan, examples, later),
        leaks=find_leaks(examples.x[earlier], examples.y[earlier], pipeline.feature_names),
    )
    return Examined(given, judge(given, rules.gate, seed=plan.seed))


def _entities(
    rows: TrainingRows, plan: TrainingPlan, name: str, which: npt.NDArray[np.intp], n: int
) -> Ints | None:
    texts = _texts(rows, plan, name)
    return codes_of([texts[row] for row in which.tolist()]) if len(texts) == n else None


def _texts(rows: TrainingRows, plan: TrainingPlan, name: str) -> list[str | None]:
    return rows.entity(Pin.parse(plan.pin), plan.start, plan.as_of, plan.as_of, name, share=plan.share)


def _grouping(
    pipeline: Pipeline,
    rules: Retraining,
    rows: TrainingRows,
    plan: TrainingPlan,
    examples: Examples,
    which: npt.NDArray[np.intp],
) -> Grouping | None:
    name = rules.group_by
    if name is None:
        return None
    if name in pipeline.feature_names:
        column: Floats = examples.x[which, pipeline.feature_names.index(name)]
        found = grouped(column.tolist())
    else:
        texts = _texts(rows, plan, name)
        if len(texts) != len(examples):
            return None
        found = grouped([texts[row] for row in which.tolist()])
    return Grouping(name, found.names, found.codes)


def model_card(
    pipeline: Pipeline, rules: Retraining, manifest: Manifest, model: TrainedModel, examined: Examined
) -> Card:
    """The card of a model that the gate has judged."""
    report, given, lineage = examined.report, examined.slice, manifest.lineage
    fought = report.contest
    against = "own ensemble" if report.champion_name == OWN else f"champion {report.champion_name}"
    metrics = [Metric("ROC AUC", report.auc, None, {against: report.champion_auc, "random": 0.5})]
    if fought is not None:
        others = {against: fought.champion, "random": fought.dummy}
        metrics.append(Metric("average precision", fought.challenger, fought.challenger_interval, others))
        gain = fought.to_champion
        metrics.append(
            Metric(f"gain in average precision over the {against}", gain.difference, gain.interval)
        )
    facts = Facts(
        title=f"Model {manifest.version} of pipeline {pipeline.name}",
        summary=(
            f"Trained because of: {lineage.trigger}. "
            + ("It passed the offline gate." if report.passed else "The offline gate refused it.")
        ),
        data=[
            ("rows", f"{lineage.rows:,} events, {moment(lineage.start)} to {moment(lineage.stop)}"),
            ("learned from", f"{lineage.labelled:,} labels, {lineage.positives:,} positive"),
            ("proven on", f"{report.rows:,} later labels, {report.positives:,} positive"),
            (
                "labels",
                f"as known at {moment(lineage.as_of)}, at least {format_duration(rules.label_maturity)} old",
            ),
        ],
        lineage=[
            ("offline store", ", ".join(f"{name} version {n}" for name, n in sorted(lineage.data.items()))),
            ("pipeline", f"version {lineage.pipeline_version}, {lineage.pipeline_digest}"),
            ("code", lineage.code),
            ("seed", str(lineage.seed)),
            ("run", lineage.run or "none"),
            ("parent", lineage.parent or "the pipeline's own ensemble"),
            ("SHA-256", manifest.sha256),
        ],
        metrics=metrics,
        labels=given.labels,
        curves=[
            precision_recall(manifest.version, given.challenger, given.labels),
            precision_recall(against, given.champion, given.labels),
        ],
        probability=given.probability,
        calibration=report.calibration,
        fairness=report.fairness,
        sections=[*gate_sections(report), ("What it is made of", _parts(model))],
        limits=[
            "Labels that are wrong in the same way in both slices are believed.",
            "Only events with a matured label are measured; which those are, the source of labels decides.",
            "Average precision is of the ranking; alerts follow the pipeline's thresholds.",
            *(leak.text for leak in undelayed_rates(pipeline)),
        ],
    )
    return card(facts)


def _parts(model: TrainedModel) -> str:
    lines = ["| part | weight |", "| --- | ---: |"]
    lines += [f"| {name} | {weight:.3f} |" for name, weight in model.worth.items()]
    return "\n".join(lines)
