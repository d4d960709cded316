"""An account that floods is scored like others, teaches little, and that does not depend on how the log is read."""

from __future__ import annotations

import json

import msgspec
import numpy as np
import pytest

from detectors.guard import TeachingGuard
from domain.batch import EventBatch
from domain.codec import EventCodec
from domain.pipeline import Guards, Pipeline
from domain.privacy import Protector
from scoring.engine import PartitionScorer
from scoring.scored import ScoredBatch
from tests.system.events import SMALL, event, events
from tests.unit.scoring.test_engine import pieces, same
from tidegate.loading import load

ROWS = 2_000


@pytest.fixture(scope="module")
def pipeline() -> Pipeline:
    return msgspec.structs.replace(load(SMALL), guards=Guards(teach_per_entity=2.0))


@pytest.fixture(scope="module")
def batch(pipeline: Pipeline) -> EventBatch:
    """A stream of which a third is one account's, and one of these is sent twice."""
    codec = EventCodec(pipeline, Protector(b"k" * 16))
    flow = events(ROWS)
    for number in range(300, ROWS, 3):
        flow[number] = event(f"e{number}", number * 7.0, "acc-him", amount=900.0, pieces=50)
    flow[1_503] = flow[1_500]
    decoded = [codec.decode(e.payload, received_at=2**62) for e in flow]
    assert json.loads(flow[1_500].payload)["account"] == "acc-him"
    return codec.to_batch(decoded, range(ROWS))


@pytest.fixture(scope="module")
def whole(pipeline: Pipeline, batch: EventBatch) -> ScoredBatch:
    return PartitionScorer(pipeline).process(batch)


def test_what_one_account_floods_with_does_not_become_usual(
    pipeline: Pipeline, batch: EventBatch, whole: ScoredBatch
) -> None:
    his = np.arange(300, ROWS, 3)
    off = msgspec.structs.replace(pipeline, guards=Guards(teach_per_entity=None))
    unguarded = PartitionScorer(off).process(batch)
    above, above_unguarded = (1.0 - one.score[his][-100:].mean() for one in (whole, unguarded))
    assert above < 0.5 * above_unguarded
    fresh = whole.first_offset < 0
    keys = [key for key, one in zip(batch.entities["account"], fresh.tolist(), strict=True) if one]
    refused = ~TeachingGuard(2.0).admit(keys)
    assert 300 < refused.sum() < 560
    assert refused[~np.isin(np.flatnonzero(fresh), his)].sum() < 60


@pytest.mark.parametrize("size", [1, 7, 500])
def test_batches_and_snapshots_change_nothing(
    pipeline: Pipeline, batch: EventBatch, whole: ScoredBatch, size: int
) -> None:
    scorer = PartitionScorer(pipeline)
    said = []
    for number, part in enumerate(pieces(batch, size)):
        said.append(scorer.process(part))
        if number % (1 + 400 // size) == 0:
            successor = PartitionScorer(pipeline)
            successor.restore(scorer.snapshot())
            scorer.ensemble = successor.ensemble
    for name in ("raw", "ranks", "score"):
        assert same(np.concatenate([getattr(s, name) for s in said]), getattr(whole, name)), name
    assert np.array_equal(np.concatenate([s.decision for s in said]), whole.decision)


def test_relearning_asks_whose_each_verdict_is(
    pipeline: Pipeline, batch: EventBatch, whole: ScoredBatch
) -> None:
    fresh = np.flatnonzero(whole.first_offset < 0)
    keys = [batch.entities["account"][row] for row in fresh.tolist()]
    original, successor = PartitionScorer(pipeline), PartitionScorer(pipeline)
    original.process(batch)
    for part in np.array_split(np.arange(len(fresh)), 9):
        rows = fresh[part]
        again = successor.relearn(whole.features[rows], batch.times[rows], [keys[at] for at in part])
        assert same(again, whole.score[rows])
    assert successor.snapshot() == original.snapshot()
    forgetful = PartitionScorer(pipeline).relearn(
        whole.features[fresh], batch.times[fresh], ["x"] * len(fresh)
    )
    assert not same(forgetful, whole.score[fresh])
