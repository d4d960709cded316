"""Labels on their way into features: counted when they were known, whatever is killed, and never twice."""

from __future__ import annotations

import itertools
import random
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from confluent_kafka import Consumer, TopicPartition

from domain.clock import to_micros
from domain.label import LabelBatch
from domain.label_codec import JoinedLabel, LabelCodec
from scoring.engine import PartitionScorer
from scoring.scored import ScoredBatch
from stream.decoding import decode_messages
from stream.kafka import KafkaConnection
from stream.replay import replay_producer
from tests.system.bits import assert_same_bits
from tests.system.events import _START, events
from tests.system.scene import PATIENCE, Feeder, Reader, Scene, eventually
from tests.system.worker_program import KillAt

pytestmark = [pytest.mark.kafka, pytest.mark.redis]

LABELS = Path(__file__).parents[1] / "system" / "labels_pipeline.yaml"
MINUTE = 60_000_000
START = to_micros(_START)


@pytest.fixture
def scene(kafka: str, redis_url: str, topic_prefix: str, tmp_path: Path) -> Iterator[Scene]:
    with Scene.open(kafka, redis_url, LABELS, topic_prefix, tmp_path) as made:
        yield made


def labels_of(count: int, *, seed: int = 5) -> list[JoinedLabel]:
    """Labels of the first ``count`` events, each known 5 to 50 minutes later; some come back as their opposite."""
    made = []
    for number, sent in enumerate(events(count)):
        chance = random.Random(f"{seed}:{number}")
        record = msgspec.json.decode(sent.payload)
        time = START + number * 7_000_000
        entities = {"account": record["account"], "shop": record["shop"]}
        known_at = time + chance.randrange(5, 50) * MINUTE
        label = int(chance.random() < 0.2)
        made.append(
            JoinedLabel(id=record["id"], event_time=time, known_at=known_at, label=label, entities=entities)  # type: ignore[arg-type]
        )
        if label and chance.random() < 0.3:
            made.append(
                JoinedLabel(
                    id=record["id"],
                    event_time=time,
                    known_at=known_at + 20 * MINUTE,
                    label=0,
                    previous=1,
                    entities=entities,
                )
            )
    return sorted(made, key=lambda label: label.known_at)


def send_labels(scene: Scene, labels: list[JoinedLabel | bytes], partition: int = 0) -> None:
    """Into ``labels.joined``, as they are."""
    producer = replay_producer(
        KafkaConnection(scene.bootstrap)
    )  # one that keeps their order, whatever it repeats
    codec = LabelCodec(scene.pipeline)
    for label in labels:
        value = label if isinstance(label, bytes) else codec.encode(label)
        producer.produce(scene.topics.labels_joined, value, partition=partition)
    assert producer.flush(PATIENCE) == 0


def all_of(scene: Scene, topic: str, partition: int = 0) -> list[Any]:
    """Every record of a partition."""
    consumer = Consumer(KafkaConnection(scene.bootstrap).reader("tidegate-test", uuid.uuid4().hex))
    place = TopicPartition(topic, partition, 0)
    _, end = consumer.get_watermark_offsets(place, timeout=PATIENCE)
    consumer.assign([place])
    messages: list[Any] = []
    while len(messages) < end:
        message = consumer.poll(PATIENCE)
        assert message is not None
        messages.append(message)
    consumer.close()
    return messages


def engine(scene: Scene) -> tuple[PartitionScorer, ScoredBatch, LabelBatch]:
    """The engine over everything in the topics, in one batch, and the labels it counted."""
    messages = all_of(scene, scene.topics.events)
    decoded = decode_messages(scene.codec, messages)
    batch = scene.codec.to_batch(decoded.events, [messages[i].offset() for i in decoded.accepted])
    codec = LabelCodec(scene.pipeline)
    labels = [
        (codec.decode(m.value(), received_at=m.timestamp()[1] * 1000), m.offset())
        for m in all_of(scene, scene.topics.labels_joined)
        if m.value().startswith(b'{"id"')
    ]
    joined = codec.to_batch([label for label, _ in labels], [offset for _, offset in labels])
    due = joined.between(0, joined.due(int(batch.times.max())))
    scorer = PartitionScorer(scene.pipeline, 0)
    return scorer, scorer.process(batch, labels=due), due


def check(scene: Scene, reader: Reader, count: int) -> tuple[ScoredBatch, LabelBatch]:
    """Verdicts and state at rest are those of an engine that was never disturbed."""
    scene.await_count(reader, count)
    scorer, wanted, due = engine(scene)
    assert_same_bits(scene.pipeline, reader.verdicts(), wanted)
    assert wanted.labels_offset is not None
    assert [v.labels_offset for v in reader.verdicts()] == wanted.labels_offset.tolist()
    scene.await_applied(int(wanted.batch.offsets[-1]) + 1)
    applied = scene.store.load_applied(0)
    assert applied is not None
    assert applied.labels_offset == wanted.labels_offset[-1]
    assert scene.blobs() == scene.blobs_of(scorer)
    return wanted, due


def test_a_backlog_sees_each_label_when_it_was_known(scene: Scene) -> None:
    """Everything is in the log before the worker starts: no event may see what came to light after it."""
    labels = labels_of(1_500)
    send_labels(scene, list(labels))
    scene.send(events(2_000))
    reader = scene.reader()
    worker = scene.worker(max_batch=150)
    worker.start()
    wanted, due = check(scene, reader, 2_000)
    assert 1_000 < len(due) <= len(labels)
    column = scene.pipeline.feature_names.index("account_rate_4h")
    rates = wanted.features[:, column]
    assert np.isnan(rates[0])
    assert 0.05 < np.nanmean(rates[1_000:]) < 0.3
    # by hand, for the last event: positives known until then among the account's earlier events of the window's tiles
    last = reader.verdicts()[-1]
    hop = 4 * 60 * MINUTE // 48
    lowest = last.event_time // hop - 48
    known: dict[str, int] = {}
    for label in labels:
        inside = label.event_time // hop >= lowest and label.entities["account"] == last.entities["account"]
        if label.known_at <= last.event_time and inside:
            known[label.id] = label.label or 0
    among = sum(
        1
        for v in reader.verdicts()[:-1]
        if v.entities["account"] == last.entities["account"] and v.event_time // hop >= lowest
    )
    assert rates[-1] == sum(known.values()) / among


def test_labels_that_come_late_count_from_then_on(scene: Scene) -> None:
    reader = scene.reader()
    worker = scene.worker()
    worker.start()
    scene.send(events(700))
    scene.await_count(reader, 700)
    assert {v.labels_offset for v in reader.verdicts()} == {0}
    labels = labels_of(300)
    send_labels(scene, list(labels))
    sent = 700

    def known(number: int) -> int:
        """How many labels had come to light when an event of the stream happened."""
        return sum(label.known_at <= START + number * 7_000_000 for label in labels)

    assert known(700)

    def seen() -> bool:
        """Whether the worker, which fetches labels and events apart, has the labels by now: the next event tells."""
        nonlocal sent
        scene.send(events(1, first=sent))
        sent += 1
        scene.await_count(reader, sent)
        return reader.verdicts()[-1].labels_offset == known(sent - 1)

    eventually("the labels are counted", seen, worker.tail)
    scene.send(events(300, first=sent))
    scene.await_count(reader, sent + 300)
    offsets = [v.labels_offset for v in reader.verdicts()]
    assert offsets[:700] == [0] * 700
    assert offsets[sent:] == [known(number) for number in range(sent, sent + 300)]


@pytest.mark.slow
def test_kills_leave_no_trace(scene: Scene) -> None:
    send_labels(scene, list(labels_of(2_500)))
    reader = scene.reader()
    worker = scene.worker(max_batch=50, flush_seconds=0.05, snapshot_seconds=0.3)
    feeder = Feeder(scene, (events(200, first=first) for first in itertools.count(0, 200)))
    for point in ("after_produce", "after_send_offsets", "after_commit", "before_flush", "after_flush"):
        worker.start(KillAt(point, visit=4))
        assert feeder.feed(worker) == -9, worker.tail()
    worker.start()
    check(scene, reader, feeder.sent)


def test_bad_labels_become_dead_letters(scene: Scene) -> None:
    dead = scene.reader(scene.topics.label_dead_letters)
    reader = scene.reader()
    good = labels_of(300)
    bad = [b"{", b'{"id": "x"}', msgspec.json.encode({**msgspec.to_builtins(good[0]), "entities": {}})]
    send_labels(scene, [*good[:100], *bad, *good[100:]])
    scene.send(events(1_000))
    worker = scene.worker(max_batch=100)
    worker.start()
    scene.await_count(reader, 1_000)
    scene.await_count(dead, 3)
    reasons = [dict(m.headers())["tidegate-reason"] for m in dead.messages]
    assert reasons == [b"not_json", b"missing_field", b"missing_field"]
    assert [m.value() for m in dead.messages] == bad
    check_last = reader.verdicts()[-1]
    assert check_last.labels_offset == len(good) + 3
