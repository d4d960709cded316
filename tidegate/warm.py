"""Compile every kernel that a pipeline uses, before the first event waits for it.

``python -m tidegate.warm`` does it for the default pipeline, at the build of an image.
"""

from __future__ import annotations

import numpy as np

from domain.batch import EventBatch
from domain.pipeline import FieldType, Pipeline
from scoring.engine import PartitionScorer
from scoring.reasons import explain
from tidegate.defaults import default_pipeline
from tidegate.loading import load

__all__ = ["warm_up"]

ROWS = 600
"""Enough for every rank table and detector to become ready after a fit."""


def warm_up(pipeline: Pipeline) -> None:
    """Run invented events through a scorer that is then thrown away."""
    scorer = PartitionScorer(pipeline)
    scorer.fit(np.random.default_rng(0).random((ROWS, len(pipeline.features))))
    rows = 8
    ids = [f"{i % 6}" for i in range(rows)]  # two of them are duplicates
    fields = pipeline.event.fields
    batch = EventBatch(
        ids=ids,
        times=np.arange(rows, dtype=np.int64) * 1_000_000,
        offsets=np.arange(rows, dtype=np.int64),
        entities={name: ["a"] * rows for name in pipeline.entities},
        numbers={
            f.name: np.arange(rows, dtype=np.float64)
            for f in fields
            if f.type is not FieldType.STRING and not f.sensitive
        },
        strings={f.name: ["a"] * rows for f in fields if f.type is FieldType.STRING or f.sensitive},
    )
    scored = scorer.process(batch)
    explain(scorer.ensemble, pipeline.feature_names, scored.features, np.array([0], dtype=np.int64))
    scorer.tables.dirty(0)
    scorer.tables.mark_clean(0)


if __name__ == "__main__":
    warm_up(load(default_pipeline()))
