"""Where a trained model came from, as its manifest tells it: enough to make the same bytes again."""

from __future__ import annotations

import hashlib

import msgspec

from domain.pipeline import Pipeline
from domain.pipeline_retraining import Retraining
from featurestore.offline_port import Pin
from lifecycle.manifest import Lineage, Manifest, version_of
from lifecycle.registry import TrainingRun
from lifecycle.training import Trained, TrainingPlan

__all__ = ["manifest_of"]


def manifest_of(
    pipeline: Pipeline,
    rules: Retraining,
    plan: TrainingPlan,
    trained: Trained,
    run: TrainingRun,
    *,
    code: str,
    parent: str | None,
) -> Manifest:
    """The manifest; the same run gives the same one, whoever makes it and when."""
    pin = Pin.parse(plan.pin)
    return Manifest(
        version=version_of(trained.packed),
        pipeline=pipeline.name,
        sha256=hashlib.sha256(trained.packed).hexdigest(),
        features=pipeline.feature_names,
        detectors=tuple(detector.name for detector in pipeline.detectors),
        created_at=plan.as_of,
        created_by="trainer",
        lineage=Lineage(
            code=code,
            pipeline_version=pipeline.version,
            pipeline_digest=pipeline.digest,
            data={"verdicts": pin.verdicts, "labels": pin.labels},
            start=plan.start,
            stop=plan.stop,
            as_of=plan.as_of,
            rows=trained.rows,
            labelled=trained.labelled,
            positives=trained.positives,
            seed=plan.seed,
            trigger=run.trigger,
            run=run.id,
            parent=parent,
            settings={
                "split": trained.split,
                "history": trained.history,
                "share": plan.share,
                "since": plan.since,
                "retraining": msgspec.to_builtins(rules),
            },
        ),
        metrics=trained.metrics(),
    )
