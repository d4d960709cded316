"""A write of state that was cut off anywhere: what is applied again afterwards counts nothing twice."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from domain.batch import EventBatch
from domain.codec import EventCodec
from domain.pipeline import Pipeline
from domain.privacy import Protector
from featurestore.memory import MemoryStateStore
from featurestore.ports import Applied, EntityRequest, PartitionFlush
from scoring.engine import PartitionScorer
from tests.system.events import event
from tidegate.loading import load

TWO_ENTITIES = Path(__file__).parents[2] / "system" / "labels_pipeline.yaml"
MINUTE, DAY = 60, 86_400


@pytest.fixture(scope="module")
def pipeline() -> Pipeline:
    return load(TWO_ENTITIES)


@pytest.fixture(scope="module")
def batch(pipeline: Pipeline) -> EventBatch:
    """An event, its repeat, and later ones of the same account, beyond the window in which its id is remembered."""
    codec = EventCodec(pipeline, Protector(b"k" * 16))
    first = event("r1", 0.0, "rep", shop="s-rep", amount=7.0)
    later = [event(f"l{i}", 2 * DAY + i * MINUTE, "rep", shop=f"other-{i}") for i in range(5)]
    flow = [first, event("x", MINUTE, "rep", shop="s-x"), first, *later]
    return codec.to_batch([codec.decode(e.payload, received_at=2**62) for e in flow], range(len(flow)))


def test_a_repeat_is_not_counted_by_anybody_after_a_torn_flush(pipeline: Pipeline, batch: EventBatch) -> None:
    original = PartitionScorer(pipeline)
    repeated = original.advance(batch).duplicate
    assert np.flatnonzero(repeated).tolist() == [2]
    whole = original.tables.take_dirty(0)
    wanted = {(entity, key): blob for entity, key, blob in whole}
    assert {entity for entity, _ in wanted} == {"account", "shop"}
    nothing, none = np.full(len(batch), np.nan), np.zeros(len(batch), dtype=np.int64)
    end = Applied(len(batch), original.stream_time, 0)
    for order in (whole, whole[::-1]):
        for cut in range(len(whole) + 1):
            store = MemoryStateStore()
            # the blobs came so far; that everything is applied did not
            store.flush([PartitionFlush(0, None, Applied(0, 0, 0), order[:cut])])
            successor = PartitionScorer(pipeline, fetch=store.load_entities)
            successor.rebuild(batch, nothing, none, repeated)
            store.flush([PartitionFlush(0, Applied(0, 0, 0), end, successor.tables.take_dirty(0))])
            for (entity, key), blob in wanted.items():
                [[stored]] = store.load_entities([EntityRequest(0, entity, (key,))])
                assert stored == blob, (cut, entity, key)
