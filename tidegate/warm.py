"""Compile every kernel that a pipeline uses, before the first event waits for it.

``python -m tidegate.warm`` does it for the default pipeline, at the build of an image.
"""

from __future__ import annotations

import numpy as np

from detectors.compressed_trees import QuantisedTrees
from detectors.logistic import Logistic
from detectors.packed_trees import FittedTrees, PackedTrees, Tree
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
    _warm_models()
    scorer.tables.dirty(0)
    scorer.tables.mark_clean(0)


def _warm_models() -> None:
    """What trained models score with: one may come into force between two batches."""
    row = np.zeros((1, 1))
    leaf, none = np.array([-1]), np.array([0])
    trees = FittedTrees([Tree(none, np.zeros(1), leaf, leaf, none.astype(bool), np.zeros(1))], 0.0, 1.0)
    packed = PackedTrees.packed(trees, 1)
    packed.score(row)
    QuantisedTrees.of(packed, 8).score(row)
    line = Logistic(("a",), seed=0, min_labels=2, min_positive=1)
    line.learn_labels(np.array([[0.0], [1.0]]), np.array([0.0, 1.0]), np.zeros(2, dtype=np.int64), 0)
    line.score(row)


if __name__ == "__main__":
    warm_up(load(default_pipeline()))
