"""Parts of a worker that need no Kafka: what may be flushed, what a dead letter keeps, which records are events."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from domain.clock import ManualClock
from domain.codec import EventCodec
from domain.errors import EventRejected, Reject, StateFenced, StoreUnavailable
from domain.pipeline import Pipeline
from domain.privacy import Protector
from featurestore.memory import MemoryStateStore
from featurestore.ports import Applied, PartitionFlush
from featurestore.tables import FeatureTables
from scoring.engine import PartitionScorer
from scoring.verdicts import VerdictEncoder
from stream.dead_letters import dead_letter
from stream.decoding import decode_messages
from stream.kafka import KafkaConnection
from stream.micro_batch import MicroBatcher
from stream.task import PartitionTask
from stream.topics import MAX_MESSAGE_BYTES
from stream.worker_metrics import WorkerMetrics
from stream.worker_parts import WorkerParts
from tests.system.events import SMALL, event, events
from tidegate.loading import load


@pytest.fixture(scope="module")
def pipeline() -> Pipeline:
    return load(SMALL)


@dataclass
class Record:
    """What of a Kafka message the worker asks for."""

    value_: bytes | None
    key_: bytes | None
    offset_: int = 0
    headers_: list[tuple[str, bytes | None]] = field(default_factory=list)

    def value(self) -> bytes | None:
        return self.value_

    def key(self) -> bytes | None:
        return self.key_

    def headers(self) -> list[tuple[str, bytes | None]]:
        return self.headers_

    def offset(self) -> int:
        return self.offset_

    def partition(self) -> int:
        return 0

    def topic(self) -> str:
        return "small.events"

    def timestamp(self) -> tuple[int, int]:
        return 1, 1_709_251_200_000  # 2024-03-01


WHY = EventRejected(Reject.TOO_LARGE, None, "large", remedy="less")


def task_at(
    pipeline: Pipeline, next_offset: int, applied: Applied | None, tables: FeatureTables | None = None
) -> PartitionTask:
    return PartitionTask(
        partition=0,
        scorer=PartitionScorer(pipeline, tables=tables),
        scored_offset=next_offset,
        next_offset=next_offset,
        applied=applied,
        verdict_position=7,
        snapshot_offset=-1,
        incomplete_until=0,
    )


def test_captured_state_says_how_far_memory_was(pipeline: Pipeline) -> None:
    codec = EventCodec(pipeline, Protector(b"k" * 16))
    task = task_at(pipeline, 5, Applied(5, 0, 0))
    assert task.capture_flush() is None
    decoded = [codec.decode(e.payload, received_at=2**62) for e in events(5)]
    task.scorer.process(codec.to_batch(decoded, range(5, 10)))
    task.scored_offset = 10
    was_ahead = task.ahead
    assert was_ahead
    flush = task.capture_flush()
    snapshot = task.capture_snapshot()
    assert flush is not None
    assert snapshot is not None
    assert (flush.expected, flush.applied.next_offset) == (Applied(5, 0, 0), 10)
    assert flush.applied.verdict_position == snapshot.verdict_position == 7
    assert snapshot.next_offset == 10
    assert flush.blobs
    task.next_offset, task.snapshot_offset = 10, 10
    assert not task.ahead
    was_writable = task.writable
    assert not was_writable, "what was captured may have been lost with its transaction"
    with pytest.raises(RuntimeError, match="captured before"):
        task.capture_flush()
    task.flushed(flush)
    assert task.writable
    assert task.applied == flush.applied
    assert task.behind == 0
    assert task.capture_flush() is None
    assert task.capture_snapshot() is None


def batcher_on(store: MemoryStateStore, pipeline: Pipeline, task: PartitionTask) -> MicroBatcher:
    parts = WorkerParts(
        kafka=KafkaConnection("nowhere"),
        pipeline=pipeline,
        codec=EventCodec(pipeline, Protector(b"k" * 16)),
        encoder=VerdictEncoder(pipeline, code_version="test"),
        store=store,
        publish_report=lambda _: None,
        clock=ManualClock(0),
        metrics=WorkerMetrics(CollectorRegistry()),
        at=lambda _: None,
    )
    return MicroBatcher(parts, task.scorer.tables, None, "owner", 1)


@pytest.mark.parametrize("left", [None, Applied(4, 0, 0)])
def test_an_unknown_entity_is_no_new_one_where_the_store_lost_data(
    pipeline: Pipeline, left: Applied | None
) -> None:
    store = MemoryStateStore()
    task = task_at(pipeline, 5, Applied(5, 0, 0))
    batcher = batcher_on(store, pipeline, task)
    if left is not None:
        store.flush([PartitionFlush(0, None, left, [])])
    records = [Record(e.payload, e.key, offset) for offset, e in enumerate(events(3), start=5)]
    with pytest.raises(StateFenced, match="Redis has lost data"):
        batcher.score(batcher.decode(records, {0: task}), {0: task})
    assert not task.ahead
    store.flush([PartitionFlush(0, left, Applied(5, 0, 0), [])])
    assert len(batcher.score(batcher.decode(records, {0: task}), {0: task}).scored[0]) == 3


def test_state_that_another_worker_lost_is_waited_for() -> None:
    """Its share of a merged entity would silently be missing."""
    labelled = load(Path(__file__).parents[2] / "system" / "labels_pipeline.yaml")
    store = MemoryStateStore()
    tables = FeatureTables(labelled, partitions=2)
    task = task_at(labelled, 5, Applied(5, 0, 0), tables)
    batcher = batcher_on(store, labelled, task)
    store.flush(
        [PartitionFlush(0, None, Applied(5, 0, 0), []), PartitionFlush(1, None, Applied(9, 0, 0), [])]
    )
    records = [Record(e.payload, e.key, offset) for offset, e in enumerate(events(6), start=5)]
    assert len(batcher.score(batcher.decode(records[:3], {0: task}), {0: task}).scored[0]) == 3
    store.reset(1)
    with pytest.raises(StoreUnavailable, match="partition 1, which another worker owns, went back"):
        batcher.score(batcher.decode(records[3:], {0: task}), {0: task})
    assert task.scored_offset == 8
    store.flush([PartitionFlush(1, None, Applied(10, 0, 0), [])])
    assert len(batcher.score(batcher.decode(records[3:], {0: task}), {0: task}).scored[0]) == 3


def test_a_dead_letter_keeps_the_record_as_it_was() -> None:
    headers: list[tuple[str, bytes | None]] = [("a", b"1"), ("a", None)]
    key, value, told = dead_letter(Record(b"\xff", b"k", 42, headers), WHY)
    assert (key, value, told[:2]) == (b"k", b"\xff", headers)
    assert dict(told)["tidegate-source-offset"] == b"42"
    assert "tidegate-cut-from" not in dict(told)
    assert dead_letter(Record(None, None), WHY)[:2] == (None, None)


@pytest.mark.parametrize(("key", "value", "header"), [(3, 9, 0), (3, 0, 9), (9, 3, 0), (0, 9, 9)])
def test_a_dead_letter_always_fits(key: int, value: int, header: int) -> None:
    million = 1_000_000
    record = Record(b"v" * value * million, b"k" * key * million, 0, [("h", b"h" * header * million)])
    kept_key, kept_value, told = dead_letter(record, WHY)
    size = len(kept_key or b"") + len(kept_value or b"") + sum(len(n) + len(v or b"") for n, v in told)
    assert size < MAX_MESSAGE_BYTES + 4_096
    assert dict(told)["tidegate-cut-from"] == str(value * million).encode()
    assert (record.value() or b"").startswith(kept_value or b"")


def test_records_are_sorted_into_events_and_others(pipeline: Pipeline) -> None:
    codec = EventCodec(pipeline, Protector(b"k" * 16))
    good = event("a", 0)
    messages: list[Any] = [
        Record(good.payload, good.key),
        Record(good.payload, b"someone else"),
        Record(None, good.key),
        Record(good.payload, None),
        Record(event("b", 1).payload, good.key),
        Record(event("c", 301).payload, good.key),  # more than max_future after the record's timestamp
    ]
    decoded = decode_messages(codec, messages)
    assert decoded.accepted == [0, 4]
    assert [e.id for e in decoded.events] == ["a", "b"]
    assert [(i, why.reason) for i, why in decoded.rejected] == [
        (1, Reject.WRONG_KEY),
        (2, Reject.NOT_JSON),
        (3, Reject.WRONG_KEY),
        (5, Reject.IN_FUTURE),
    ]
