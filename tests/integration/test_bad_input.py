"""Everything that is no event, through real Kafka: one dead letter each, and the events around it are scored."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Producer

from domain.errors import Reject
from stream.kafka import KafkaConnection
from stream.outbox import Headers
from stream.topics import (
    HEADER_REPLY_PARTITION,
    HEADER_REQUEST_ID,
    HEADER_TRACEPARENT,
    MAX_MESSAGE_BYTES,
)
from tests.system.bits import assert_same_bits
from tests.system.events import SMALL, event, events
from tests.system.scene import PATIENCE, Scene, eventually, samples
from tidegate.embedded.process import free_port

pytestmark = [pytest.mark.kafka, pytest.mark.redis]

KEY = b"acc-1"
HEADERS: Headers = [
    ("traceparent", b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"),
    ("twice", b"1"),
    ("twice", b"2"),
    ("empty", b""),
    ("null", None),
    ("binary", b"\xff\x00"),
]


@pytest.fixture
def scene(kafka: str, redis_url: str, topic_prefix: str, tmp_path: Path) -> Iterator[Scene]:
    with Scene.open(kafka, redis_url, SMALL, topic_prefix, tmp_path) as made:
        yield made


def raw(**fields: Any) -> bytes:
    """An event that is right but for ``fields``."""
    return event("bad", 100, **fields).payload


def text(old: bytes, new: bytes) -> bytes:
    """A right event with something else in its text."""
    assert old in raw()
    return raw().replace(old, new)


BAD: list[tuple[str, bytes | None, Reject, bytes | None]] = [
    # name, value, reason, field
    ("tombstone", None, Reject.NOT_JSON, None),
    ("nothing", b"", Reject.NOT_JSON, None),
    ("not json", b"\x00\xffnot json", Reject.NOT_JSON, None),
    ("cut short", raw()[:-5], Reject.NOT_JSON, None),
    ("two records", raw() + raw(), Reject.NOT_JSON, None),
    ("deep", b"[" * 60_000, Reject.NOT_JSON, None),
    ("an array", b"[]", Reject.NOT_OBJECT, None),
    ("a missing field", raw(shop=None), Reject.MISSING_FIELD, b"shop"),
    ("null", text(b'"s1"', b"null"), Reject.MISSING_FIELD, b"shop"),
    ("a text for a number", raw(amount="10"), Reject.WRONG_TYPE, b"amount"),
    ("a number for a text", raw(shop=7), Reject.WRONG_TYPE, b"shop"),
    ("a fraction for a whole number", raw(pieces=1.5), Reject.WRONG_TYPE, b"pieces"),
    ("a boolean for a number", raw(amount=True), Reject.WRONG_TYPE, b"amount"),
    ("NaN", text(b"10.0", b"NaN"), Reject.NOT_FINITE, b"amount"),
    ("infinity", text(b"10.0", b"-Infinity"), Reject.NOT_FINITE, b"amount"),
    ("beyond doubles", text(b"10.0", b"1e999"), Reject.NOT_FINITE, b"amount"),
    ("too great", raw(amount=1_000_001), Reject.OUT_OF_RANGE, b"amount"),
    ("negative", raw(amount=-0.01), Reject.OUT_OF_RANGE, b"amount"),
    ("a hundred digits", text(b"10.0", b"9" * 100), Reject.OUT_OF_RANGE, b"amount"),
    ("a long id", event("x" * 33, 100).payload, Reject.TOO_LONG, b"id"),
    ("an empty id", event("", 100).payload, Reject.EMPTY, b"id"),
    ("half a character", text(b'"s1"', b'"\\ud800"'), Reject.BAD_TEXT, b"shop"),
    ("no time", raw(at="yesterday"), Reject.BAD_TIMESTAMP, b"at"),
    ("no zone", raw(at="2024-03-01T00:00:00"), Reject.BAD_TIMESTAMP, b"at"),
    ("next century", raw(at="2150-01-01T00:00:00Z"), Reject.IN_FUTURE, b"at"),
    ("an unknown field", raw(colour="red"), Reject.UNKNOWN_FIELD, b"colour"),
    ("over the limit", raw(shop="x" * 70_000), Reject.TOO_LARGE, None),
    ("5 MB", raw(shop="x" * 5_000_000), Reject.TOO_LARGE, None),
    # the largest that the topic takes: our headers must still fit beside it
    ("8 MiB", b"x" * (MAX_MESSAGE_BYTES - 300), Reject.TOO_LARGE, None),
]


def test_each_gives_one_dead_letter_and_its_neighbours_are_scored(scene: Scene) -> None:
    port = free_port()
    worker = scene.worker(metrics_port=port, max_batch=25)
    reader = scene.reader()
    dead = scene.reader(scene.topics.dead_letters)
    producer = Producer(
        {
            **KafkaConnection(scene.bootstrap).client("careless"),
            "enable.idempotence": True,
            "message.max.bytes": 2 * MAX_MESSAGE_BYTES,
        }
    )
    good = events(2 * len(BAD) + 4)
    failed: list[Any] = []

    def send(key: bytes | None, value: bytes | None, headers: Headers) -> None:
        producer.produce(
            scene.topics.events,
            value,
            key,
            headers=headers,
            on_delivery=lambda error, _: failed.append(error) if error else None,
        )

    sent: list[tuple[bytes | None, bytes | None, Reject, bytes | None]] = []
    neighbours = iter(good)
    for _, value, reason, field in BAD:
        before, after = next(neighbours), next(neighbours)
        send(before.key, before.payload, [])
        send(KEY, value, HEADERS)
        sent.append((KEY, value, reason, field))
        send(after.key, after.payload, [])
    for key in (b"acc-2", None):
        one = next(neighbours)
        send(key, raw(), HEADERS)
        sent.append((key, raw(), Reject.WRONG_KEY, None))
        send(one.key, one.payload, [])
    for one in neighbours:
        send(one.key, one.payload, [])
    assert producer.flush(PATIENCE) == 0
    assert failed == []

    worker.start()
    scene.await_count(reader, len(good))
    scene.await_count(dead, len(sent))
    for message, (key, value, reason, field) in zip(dead.messages, sent, strict=True):
        headers = message.headers()
        assert headers[: len(HEADERS)] == HEADERS
        told = dict(headers[len(HEADERS) :])
        assert told["tidegate-reason"] == reason.value.encode()
        assert told.get("tidegate-field") == field
        assert message.key() == key
        assert message.value() == value
        assert told["tidegate-detail"]
        assert told["tidegate-remedy"]
        assert told["tidegate-source-topic"] == scene.topics.events.encode()
    _, wanted = scene.never_killed()
    assert_same_bits(scene.pipeline, reader.verdicts(), wanted)
    assert [v.id for v in reader.verdicts()] == [json.loads(e.payload)["id"] for e in good]

    counts = Counter(reason.value for _, _, reason, _ in sent)

    def told_by_metrics() -> dict[str, int]:
        told = samples(port).items()
        return {name.split('"')[1]: int(value) for name, value in told if "dead_letters_total{" in name}

    eventually("all are counted", lambda: told_by_metrics() == dict(counts), lambda: str(told_by_metrics()))
    worker.stop()
    assert scene.applied() == len(good) + len(sent)


def test_headers_of_strangers_do_not_stop_the_partition(scene: Scene) -> None:
    """They ask for replies where there is no partition, and with more bytes than the topics take."""
    worker = scene.worker()
    reader = scene.reader()
    replies = scene.reader(scene.topics.replies)
    strange: list[Headers] = [
        [(HEADER_REQUEST_ID, b"a"), (HEADER_REPLY_PARTITION, b"99")],
        [(HEADER_REQUEST_ID, b"x" * 2_000_000), (HEADER_REPLY_PARTITION, b"0")],
        [(HEADER_REQUEST_ID, None), (HEADER_REPLY_PARTITION, b"0")],
        [(HEADER_REQUEST_ID, b"a"), (HEADER_REPLY_PARTITION, b"-1")],
        [(HEADER_REQUEST_ID, b"ours"), (HEADER_REPLY_PARTITION, b"0")],
    ]
    flow = events(1_500)  # enough for alerts
    producer = Producer(
        {
            **KafkaConnection(scene.bootstrap).client("stranger"),
            "enable.idempotence": True,
            "message.max.bytes": MAX_MESSAGE_BYTES,
        }
    )
    for number, one in enumerate(flow):
        headers: Headers = []
        if number < len(strange):
            headers = strange[number]
        elif number > 1_470:
            headers = [(HEADER_TRACEPARENT, b"x" * 200_000)]
        producer.produce(scene.topics.events, one.payload, one.key, headers=headers)
    loud = event("loud", 1_500 * 7, amount=900_000)
    producer.produce(
        scene.topics.events, loud.payload, loud.key, headers=[(HEADER_TRACEPARENT, b"x" * 2_000_000)]
    )
    assert producer.flush(PATIENCE) == 0
    worker.start()
    scene.await_count(reader, len(flow) + 1)
    assert reader.verdicts()[-1].decision != "allow", "it should be an alert, with the header beside it"
    scene.await_count(replies, 1)
    assert [dict(m.headers())[HEADER_REQUEST_ID] for m in replies.messages] == [b"ours"]


def test_a_record_that_is_only_small_while_compressed(scene: Scene) -> None:
    """100 MB in some 100 kB: no dead letter can hold it whole, and it must not stop the partition either."""
    worker = scene.worker()
    reader = scene.reader()
    dead = scene.reader(scene.topics.dead_letters)
    producer = Producer(
        {
            **KafkaConnection(scene.bootstrap).client("bomber"),
            "message.max.bytes": 200_000_000,
            "compression.type": "gzip",
            "queue.buffering.max.kbytes": 400_000,
        }
    )
    producer.produce(scene.topics.events, b"x" * 100_000_000, KEY)
    assert producer.flush(PATIENCE) == 0
    scene.send(events(20))
    worker.start()
    scene.await_count(reader, 20)
    scene.await_count(dead, 1)
    [message] = dead.messages
    told = dict(message.headers())
    assert told["tidegate-reason"] == b"too_large"
    assert told["tidegate-cut-from"] == b"100000000"
    assert message.value() == b"x" * (MAX_MESSAGE_BYTES - len(KEY))
