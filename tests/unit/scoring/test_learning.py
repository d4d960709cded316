"""What labels teach the engine does not depend on how the log is cut, and survives snapshots."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest

from domain.batch import EventBatch
from domain.codec import EventCodec
from domain.examples import Examples
from domain.label import LabelBatch
from domain.pipeline import Cost, Decision, Pipeline, Threshold
from domain.privacy import Protector
from scoring.engine import PartitionScorer
from scoring.scored import ScoredBatch
from tests.system.events import events
from tests.unit.scoring.test_engine import cut
from tidegate.loading import load

ROWS, MINUTE = 2_500, 60_000_000
COLUMNS = ("features", "raw", "ranks", "score", "probability", "decision", "labels_offset")
LEARNING = Path(__file__).parents[2] / "system" / "learning_pipeline.yaml"


@pytest.fixture(scope="module")
def pipeline() -> Pipeline:
    decision = Decision(
        combine="stacked",
        review=Threshold(cost=Cost(false_alarm=5.0, missed="amount", per_day=2_000.0)),
        block=Threshold(precision=0.3),
    )
    return msgspec.structs.replace(load(LEARNING), decision=decision)


@pytest.fixture(scope="module")
def batch(pipeline: Pipeline) -> EventBatch:
    codec = EventCodec(pipeline, Protector(b"k" * 16))
    decoded = [codec.decode(e.payload, received_at=2**62) for e in events(ROWS)]
    return codec.to_batch(decoded, range(ROWS))


@pytest.fixture(scope="module")
def labels(pipeline: Pipeline, batch: EventBatch) -> LabelBatch:
    """Of every event, 20 minutes later; frauds have high amounts and stood out."""
    rng = np.random.default_rng(8)
    known_at = batch.times + 20 * MINUTE
    m = int((known_at <= batch.times.max()).sum())
    y = (rng.random(m) < 0.15).astype(np.float64)
    x = rng.random((m, len(pipeline.feature_names)))
    x[:, 0] = rng.normal(30.0 + 60.0 * y, 15.0)
    ranks = np.clip(rng.random((m, len(pipeline.detectors))) + 0.4 * y[:, None], 0.0, 0.9999)
    score = np.clip(rng.random(m) + 0.5 * y, 0.0, 0.9999)
    return LabelBatch(
        offsets=np.arange(m),
        known_at=known_at[:m],
        times=batch.times[:m],
        entities={name: values[:m] for name, values in batch.entities.items()},
        change=y.astype(np.int64),
        examples=Examples(x, y, ranks, score, batch.times[:m], known_at[:m]),
    )


def run(
    pipeline: Pipeline, batch: EventBatch, labels: LabelBatch, cuts: list[int], *, restored: bool = False
) -> list[ScoredBatch]:
    """The batch in pieces, each with the labels due in it; ``restored``: a new engine's detectors for each."""
    scorer = PartitionScorer(pipeline)
    scored, counted = [], 0
    for start, stop in zip([0, *cuts], [*cuts, ROWS], strict=True):
        upto = labels.due(int(batch.times[:stop].max()))
        scored.append(scorer.process(cut(batch, start, stop), labels=labels.between(counted, upto)))
        counted = upto
        if restored:
            successor = PartitionScorer(pipeline)
            successor.restore(scorer.snapshot())
            scorer.ensemble, scorer.learned = successor.ensemble, successor.learned
    return scored


def column(scored: list[ScoredBatch], name: str) -> bytes:
    return np.concatenate([np.asarray(getattr(part, name), dtype=np.float64) for part in scored]).tobytes()


def test_cuts_and_snapshots_change_nothing(pipeline: Pipeline, batch: EventBatch, labels: LabelBatch) -> None:
    whole = run(pipeline, batch, labels, [])
    [one] = whole
    # everything that learns did, on the way
    assert one.probability is not None
    assert np.isnan(one.probability[:500]).all()
    assert not np.isnan(one.probability[-500:]).any()
    assert set(one.decision[:400].tolist()) == {0}
    assert {1, 2} <= set(one.decision[-1_000:].tolist())
    assert len({tuple(segment.versions.items()) for segment in one.segments}) > 3
    for cuts, restored in ((list(range(137, ROWS, 137)), False), ([513, 514, 1_100, 1_900], True)):
        parts = run(pipeline, batch, labels, cuts, restored=restored)
        for name in COLUMNS:
            assert column(parts, name) == column(whole, name), name


def test_relearning_from_verdicts_and_labels_is_as_good_as_having_been_there(
    pipeline: Pipeline, batch: EventBatch, labels: LabelBatch
) -> None:
    original = PartitionScorer(pipeline)
    [one] = [original.process(batch, labels=labels)]
    assert one.labels_offset is not None
    successor = PartitionScorer(pipeline)
    at = counted = 0
    for stop in (700, 1_301, ROWS):
        upto = int(one.labels_offset[stop - 1])
        due = labels.between(counted, upto)
        rows = np.arange(stop - at)
        told = one.labels_offset[at:stop] - counted
        lessons = successor.plan_lessons(batch.times[at:stop], rows, told, due)
        keys = batch.entities[pipeline.event.key][at:stop]
        again = successor.relearn(one.features[at:stop], batch.times[at:stop], keys, lessons)
        assert again.tobytes() == one.score[at:stop].tobytes()
        at, counted = stop, upto
    assert successor.snapshot() == original.snapshot()


def test_a_snapshot_of_other_thresholds_is_refused(pipeline: Pipeline) -> None:
    plain = msgspec.structs.replace(
        pipeline, decision=Decision(combine="stacked", review=Threshold(budget=0.02))
    )
    with pytest.raises(ValueError, match="snapshot"):
        PartitionScorer(pipeline).restore(PartitionScorer(plain).snapshot())
