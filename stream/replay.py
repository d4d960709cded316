"""Records into the ``events`` topic: as fast as Kafka takes them, at a rate, or at a multiple of event time."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from confluent_kafka import KafkaError, KafkaException, Producer

from domain.codec import EventCodec
from domain.errors import EventRejected, Fatal, Retriable
from domain.pipeline import Pipeline
from domain.privacy import Protector
from lifecycle.event_rows import first_rows, read_rows
from stream.generator import TrafficEvent
from stream.kafka import KafkaConnection
from stream.topics import MAX_MESSAGE_BYTES, PARTITIONER

__all__ = ["Pace", "ReplayResult", "Sendable", "file_records", "replay", "replay_producer", "traffic_records"]

_SERVE_EVERY = 256
"""Delivery reports are collected once per so many records: often enough for the queue, rarely enough for speed."""
_FLUSH_SECONDS = 30.0
"""Longest silence of the broker while the last records are delivered; then they count as lost."""
_SPIN = 0.05
"""Longest sleep between looks at delivery reports while waiting for a record's moment, seconds."""
_FOREVER = 2**62


@dataclass(frozen=True, slots=True)
class Sendable:
    """One record to send: key and payload as on the wire, event time (UTC microseconds; None: unknown)."""

    key: bytes | None
    payload: bytes
    time: int | None


@dataclass(frozen=True, slots=True)
class Pace:
    """When records go out: ``rate`` a second, or ``speed`` times as fast as their event times; both None: at once."""

    rate: float | None = None
    speed: float | None = None

    def __post_init__(self) -> None:
        if self.rate is not None and self.speed is not None:
            raise Fatal("a rate and a speed contradict each other.", remedy="give --rate or --speed.")
        for name, value in (("rate", self.rate), ("speed", self.speed)):
            if value is not None and not 0 < value < float("inf"):
                raise Fatal(f"--{name} must be above 0, not {value}.", remedy="leave it out for full speed.")


@dataclass(frozen=True, slots=True)
class ReplayResult:
    """What was delivered, and how long it took."""

    delivered: int
    seconds: float


def replay_producer(connection: KafkaConnection, client_id: str = "tidegate-replay") -> Any:
    """An idempotent producer (acks=all) that partitions as every producer of ours does."""
    return Producer(
        {
            **connection.client(client_id),
            "enable.idempotence": True,
            "acks": "all",
            "partitioner": PARTITIONER,
            "linger.ms": 5,
            "batch.size": 1_000_000,
            "message.max.bytes": MAX_MESSAGE_BYTES,
            # Memory of this process: records waiting for the broker.
            "queue.buffering.max.messages": 200_000,
            "queue.buffering.max.kbytes": 131_072,
        }
    )


def replay(
    records: Iterable[Sendable],
    producer: Any,
    topic: str,
    *,
    pace: Pace | None = None,
    monotonic: Callable[[], float] = time.monotonic,
    progress: Callable[[int], None] = lambda count: None,
) -> ReplayResult:
    """Send every record and wait until all are delivered.

    A full queue holds the reader up (back-pressure). Order per key is that of ``records``. ``progress`` is told
    how many more records were delivered. Raises Retriable, with the number of records that the broker did not
    take and why, as soon as the first is known to be lost.
    """
    pace = pace or Pace()
    failures: Counter[str] = Counter()
    delivered = 0

    def on_delivery(error: KafkaError | None, _: Any) -> None:
        nonlocal delivered
        if error is None:
            delivered += 1
        else:
            failures[error.str()] += 1

    reported = sent = 0
    began = monotonic()
    first_time: int | None = None

    def serve(seconds: float) -> None:
        nonlocal reported
        producer.poll(seconds)
        if delivered > reported:
            progress(delivered - reported)
            reported = delivered
        if failures:
            raise _lost(failures, delivered, topic)

    for record in records:
        due = began
        if pace.rate is not None:
            due = began + sent / pace.rate
        elif pace.speed is not None and record.time is not None:
            first_time = record.time if first_time is None else first_time
            due = began + (record.time - first_time) / 1e6 / pace.speed
        while (wait := due - monotonic()) > 0:
            serve(min(wait, _SPIN))
        while True:
            try:
                producer.produce(topic, record.payload, record.key, on_delivery=on_delivery)
                break
            except BufferError:
                serve(_SPIN)
            except KafkaException as error:
                failures[error.args[0].str()] += 1
                raise _lost(failures, delivered, topic) from error
        sent += 1
        if sent % _SERVE_EVERY == 0:
            serve(0)
    silent_since = monotonic()
    while delivered + sum(failures.values()) < sent:
        before = delivered
        serve(_SPIN)
        now = monotonic()
        silent_since = now if delivered > before else silent_since
        if now - silent_since > _FLUSH_SECONDS:
            failures["no answer from Kafka"] += sent - delivered
    serve(0)
    return ReplayResult(delivered, monotonic() - began)


def _lost(failures: Counter[str], delivered: int, topic: str) -> Retriable:
    why = ", ".join(f"{count:,} times: {reason}" for reason, count in failures.most_common(3))
    return Retriable(
        f"{sum(failures.values()):,} records did not get into {topic} ({why}); {delivered:,} did.",
        remedy="look after the broker, then replay again: ids already seen are recognised within dedupe_window.",
    )


def file_records(
    path: Path, pipeline: Pipeline, *, limit: int | None = None, batch_rows: int = 5_000
) -> Iterator[Sendable]:
    """Every row of a .parquet, .csv or .jsonl file as its record, in file order.

    Rows that are no valid events are sent too, without a key, as a careless producer would; the worker makes
    them dead letters. CSV lines with too few or many cells cannot be sent: Fatal.
    """
    codec = EventCodec(pipeline, Protector(bytes(16)))  # nothing is hashed on the way into the topic
    for rows in first_rows(read_rows(path, pipeline, codec, batch_rows=batch_rows), limit):
        for number, payload in enumerate(rows.payloads, rows.first):
            if payload is None:
                raise Fatal(
                    f"{path.name}: row {number} has not as many cells as the header.",
                    remedy="quote cells that hold commas or line ends.",
                )
            try:
                event = codec.decode(payload, received_at=_FOREVER)
            except EventRejected:
                yield Sendable(None, payload, None)
            else:
                yield Sendable(codec.expected_key(event), payload, event.time)


def traffic_records(events: Iterable[TrafficEvent]) -> Iterator[Sendable]:
    """Generated events as records."""
    for event in events:
        yield Sendable(event.key.encode(), event.payload, event.time)
