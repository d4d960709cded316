"""From the registry to the topic ``models``, on a real Kafka."""

from __future__ import annotations

import hashlib
import random

import msgspec
import pytest
from confluent_kafka import Consumer
from confluent_kafka.admin import (  # type: ignore[attr-defined]
    AdminClient,
    ConfigResource,
)

from domain import model_records
from domain.clock import ManualClock
from domain.errors import ArtefactRefused, Fatal, ServiceMissing
from domain.model_records import CURRENT_KEY, ModelsInForce, part_key
from lifecycle.registry_memory import MemoryModelRegistry
from stream import models_topic
from stream.kafka import KafkaConnection
from stream.log_reading import committed_records, ends, reader_conf
from stream.models_topic import Published, publish, read_in_force
from stream.topics import Topics, create_topics
from tests.contract.check_model_registry import add
from tests.models import NOW, sealed

pytestmark = pytest.mark.kafka


class Killed(Exception):
    """What a fault point raises."""


@pytest.fixture
def connection(kafka: str) -> KafkaConnection:
    return KafkaConnection(kafka)


@pytest.fixture
def registry(kafka: str, topic_prefix: str) -> MemoryModelRegistry:
    create_topics({"bootstrap.servers": kafka}, topic_prefix, 1)
    return MemoryModelRegistry(topic_prefix, ManualClock(NOW))


def log_of(kafka: str, pipeline: str) -> list[tuple[str, bytes | None]]:
    """All committed records of the topic, in order."""
    topic, conf = Topics(pipeline).models, reader_conf(KafkaConnection(kafka), pipeline, pipeline)
    # the end of the log itself: what committed readers are let see lags behind a commit
    probe, consumer = Consumer({**conf, "isolation.level": "read_uncommitted"}), Consumer(conf)
    try:
        span = ends(probe, topic, 0)
        return [(m.key().decode(), m.value()) for m in committed_records(consumer, topic, {0: span})]
    finally:
        probe.close()
        consumer.close()


def artefact_of(kafka: str, pipeline: str, sha256: str, parts: int) -> bytes:
    """What a worker puts together of the parts that are there."""
    there = dict(log_of(kafka, pipeline))
    return b"".join(there[part_key(sha256, number).decode()] or b"" for number in range(parts))


def test_the_topic_is_compacted_and_takes_a_part(kafka: str, registry: MemoryModelRegistry) -> None:
    resource = ConfigResource("topic", Topics(registry.pipeline).models)
    admin = AdminClient({"bootstrap.servers": kafka})
    found = admin.describe_configs([resource])[resource].result(30)
    assert found["cleanup.policy"].value == "compact"
    assert int(found["max.message.bytes"].value) > model_records.PART_BYTES


def test_nothing_in_force_is_not_published(
    kafka: str, connection: KafkaConnection, registry: MemoryModelRegistry
) -> None:
    assert publish(connection, registry.pipeline, registry) == Published(0, False)
    assert log_of(kafka, registry.pipeline) == []
    assert read_in_force(connection, registry.pipeline) is None


def test_parts_come_before_the_state_that_names_them_and_go_when_they_are_out_of_force(
    kafka: str,
    connection: KafkaConnection,
    registry: MemoryModelRegistry,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(models_topic, "PART_BYTES", 1000)
    pipeline = registry.pipeline
    blob, manifest = sealed(random.Random(1).randbytes(2500), pipeline=pipeline)
    registry.register(blob, manifest, by="t", reason="r")
    a, digest = manifest.version, hashlib.sha256(blob).hexdigest()
    registry.set_challenger(a, epoch=0, reason="gate", by="t", split=0.5)
    assert publish(connection, pipeline, registry) == Published(1, True)
    first = log_of(kafka, pipeline)
    parts = -(-len(blob) // 1000)
    assert [key for key, _ in first] == [f"artefact/{digest}/{n}" for n in range(parts)] + [CURRENT_KEY]
    assert b"".join(value or b"" for _, value in first[:-1]) == blob
    state = msgspec.json.decode(first[-1][1] or b"", type=ModelsInForce)
    assert state == read_in_force(connection, pipeline)
    assert (state.epoch, state.champion, state.split) == (1, None, 0.5)
    assert (state.changed_at, state.changed_by, state.reason) == (NOW, "t", "gate")
    assert state.challenger is not None
    assert (state.challenger.version, state.challenger.parts) == (a, parts)

    def transactions(point: str) -> None:
        raise AssertionError("who only looks needs no transactions")

    # a commit is let see a moment later; until then it is looked at more closely
    assert publish(connection, pipeline, registry) == Published(1, False)
    assert log_of(kafka, pipeline) == first
    assert publish(connection, pipeline, registry, at=transactions) == Published(1, False)

    # what is there already is not written again
    registry.promote(a, epoch=1, reason="better", by="t")
    assert publish(connection, pipeline, registry).written
    assert [key for key, _ in log_of(kafka, pipeline)[len(first) :]] == [CURRENT_KEY]

    b = add(registry, "b", shadow=True)
    registry.promote(b, epoch=3, reason="better", by="t")
    publish(connection, pipeline, registry)
    last = log_of(kafka, pipeline)[len(first) + 1 :]
    assert [key for key, value in last if value is None] == [f"artefact/{digest}/{n}" for n in range(parts)]
    assert last[-1][0] == CURRENT_KEY

    # back to the first: its bytes are put there again
    registry.rollback(epoch=4, reason="worse", by="t")
    publish(connection, pipeline, registry)
    state = read_in_force(connection, pipeline)  # type: ignore[assignment]
    assert state.champion is not None
    assert (state.epoch, state.champion.version) == (5, a)
    assert artefact_of(kafka, pipeline, digest, parts) == blob


def test_a_publisher_that_dies_half_way_leaves_nothing_and_the_next_one_does_it(
    kafka: str, connection: KafkaConnection, registry: MemoryModelRegistry
) -> None:
    pipeline = registry.pipeline
    version = add(registry, "a", shadow=True)

    def die(point: str) -> None:
        if point == "after_produce":
            raise Killed

    with pytest.raises(Killed):
        publish(connection, pipeline, registry, at=die)
    assert publish(connection, pipeline, registry) == Published(1, True)
    state = read_in_force(connection, pipeline)
    assert state is not None
    assert state.challenger is not None
    assert state.challenger.version == version
    assert len(log_of(kafka, pipeline)) == 2


@pytest.mark.parametrize("point", ["read", "after_produce"])
def test_a_publisher_with_old_news_is_locked_out_and_looks_again(
    kafka: str, connection: KafkaConnection, registry: MemoryModelRegistry, point: str
) -> None:
    pipeline = registry.pipeline
    a = add(registry, "a", shadow=True)
    overtaken: list[Published] = []

    def overtake(reached: str) -> None:
        # the first publisher knows of epoch 1 when somebody else changes and publishes epoch 2
        if reached == point and not overtaken:
            registry.promote(a, epoch=1, reason="better", by="other")
            overtaken.append(publish(connection, pipeline, registry))

    assert publish(connection, pipeline, registry, at=overtake) == Published(2, False)
    assert overtaken == [Published(2, True)]
    epochs = [
        msgspec.json.decode(value or b"", type=ModelsInForce).epoch
        for key, value in log_of(kafka, pipeline)
        if key == CURRENT_KEY
    ]
    assert epochs == [2]


def test_an_older_database_does_not_turn_the_clock_back(
    kafka: str, connection: KafkaConnection, registry: MemoryModelRegistry
) -> None:
    add(registry, "a", shadow=True)
    publish(connection, registry.pipeline, registry)
    before = log_of(kafka, registry.pipeline)
    with pytest.raises(Fatal, match="older copy") as error:
        publish(connection, registry.pipeline, MemoryModelRegistry(registry.pipeline, ManualClock(NOW)))
    assert error.value.remedy
    assert log_of(kafka, registry.pipeline) == before


def test_a_model_changed_in_the_database_does_not_reach_the_workers(
    kafka: str, connection: KafkaConnection, registry: MemoryModelRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(registry, "a", shadow=True)
    whole = registry.artefact
    monkeypatch.setattr(registry, "artefact", lambda version: whole(version)[:-1] + b"!")
    with pytest.raises(ArtefactRefused) as error:
        publish(connection, registry.pipeline, registry)
    assert error.value.reason == "damaged"
    assert log_of(kafka, registry.pipeline) == []


def test_without_the_topic_it_says_what_to_do(connection: KafkaConnection, topic_prefix: str) -> None:
    with pytest.raises(ServiceMissing, match=f"{topic_prefix}.models"):
        publish(connection, topic_prefix, MemoryModelRegistry(topic_prefix, ManualClock(NOW)))
