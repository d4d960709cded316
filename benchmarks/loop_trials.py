"""What must not take over: models of shuffled and poisoned labels, and one that ranks well and scores low."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from benchmarks.loop_stage import LoopStage
from domain.batch import Floats
from domain.examples import Examples
from domain.pipeline_retraining import Retraining
from featurestore.offline_port import ExampleCounts, Pin
from lifecycle.examination import examine
from lifecycle.manifest import version_of
from lifecycle.training import TrainingRows, plan_training, read_rows, train

__all__ = ["misbehaving", "trials"]

Corrupt = Callable[[Examples], Floats]


@dataclass(frozen=True, slots=True)
class _Corrupted:
    """Rows of the store whose labels somebody has tampered with."""

    rows: TrainingRows
    corrupt: Corrupt

    def pin(self) -> Pin:
        return self.rows.pin()

    def count(self, pin: Pin, start: int, stop: int, as_of: int) -> ExampleCounts:
        return self.rows.count(pin, start, stop, as_of)

    def examples(self, pin: Pin, start: int, stop: int, as_of: int, *, share: float = 1.0) -> Examples:
        found = self.rows.examples(pin, start, stop, as_of, share=share)
        return replace(found, y=self.corrupt(found))

    def entity(
        self, pin: Pin, start: int, stop: int, as_of: int, name: str, *, share: float = 1.0
    ) -> list[str | None]:
        return self.rows.entity(pin, start, stop, as_of, name, share=share)


def _shuffled(examples: Examples) -> Floats:
    """Every known label goes to another event."""
    y = examples.y.copy()
    known = np.flatnonzero(~np.isnan(y))
    y[known] = np.random.default_rng(5).permutation(y[known])
    return y


def _poisoned(examples: Examples) -> Floats:
    """For the older two thirds somebody calls frauds honest, and as many honest payments of few tries fraud."""
    y = examples.y.copy()
    cut = np.quantile(examples.times, 2 / 3)
    old = (examples.times < cut) & ~np.isnan(y)
    honest = np.flatnonzero(old & (y == 0.0) & (examples.x[:, 3] <= 1.0) & (examples.x[:, 2] > 400.0))
    frauds = np.flatnonzero(old & (y == 1.0))
    y[frauds] = 0.0
    y[np.random.default_rng(6).choice(honest, len(frauds), replace=False)] = 1.0
    return y


def trials(stage: LoopStage, say: Callable[[str], None]) -> dict[str, Any]:
    """Train on corrupted labels as the trainer would; what the gate says of it."""
    found = {}
    for name, corrupt in (("shuffled", _shuffled), ("poisoned", _poisoned)):
        passed, reasons = _gated(stage, _Corrupted(stage.store, corrupt))
        found[name] = {"promoted": passed, "reasons": reasons}
        say(f"a training on {name} labels: {'PASSED' if passed else 'refused'} {' '.join(reasons)[:200]}")
    return found


def _gated(stage: LoopStage, rows: TrainingRows) -> tuple[bool, list[str]]:
    rules = stage.pipeline.retraining or Retraining()
    plan = plan_training(rows, rows.pin(), rules, now=stage.now, seed=stage.pipeline.seed, since=None)
    examples = read_rows(rows, plan)
    trained = train(stage.pipeline, examples, plan, rules)
    champion = stage.registry.state().champion
    opened = None
    if champion is not None:
        opened = stage.vault.open(stage.registry.artefact(champion), stage.pipeline.name)
    report = examine(stage.pipeline, rules, plan, trained.split, examples, rows, trained.model, opened).report
    return report.passed, list(report.reasons)


def misbehaving(stage: LoopStage) -> tuple[str, bool]:
    """Register a model that orders events as the champion does, but gives all of them a low score.

    Its version, and whether it passes the gate against the pipeline's own detectors.
    """
    registry, rules = stage.registry, stage.pipeline.retraining or Retraining()
    champion = registry.state().champion
    if champion is None:
        raise SystemExit("there is no champion to imitate")
    good = stage.vault.open(registry.artefact(champion), stage.pipeline.name)
    high = np.full(19 * len(good.table), good.table[-1] + 1e6)
    bad = replace(good, table=np.concatenate([good.table, high]))
    plan = plan_training(stage.store, stage.store.pin(), rules, now=stage.now, seed=0, since=None)
    examples = read_rows(stage.store, plan)
    split = int(np.quantile(examples.times, 0.6))
    report = examine(stage.pipeline, rules, plan, split, examples, stage.store, bad, None).report
    packed = bad.pack()
    manifest = registry.model(champion).manifest
    changed = type(manifest)(
        **{
            **{name: getattr(manifest, name) for name in manifest.__struct_fields__},
            "version": version_of(packed),
            "sha256": hashlib.sha256(packed).hexdigest(),
        }
    )
    record = registry.register(
        stage.vault.seal(packed, changed), changed, by="a person", reason="made by hand"
    )
    return record.version, report.passed
