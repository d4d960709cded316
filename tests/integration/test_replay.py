"""A file through a real Kafka: every row arrives, keyed, in its partition, in order per key."""

from __future__ import annotations

import csv
from datetime import UTC
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from confluent_kafka import Consumer, TopicPartition
from typer import Typer
from typer.testing import CliRunner

from domain.clock import to_micros
from domain.codec import EventCodec
from domain.pipeline import Pipeline
from domain.privacy import Protector
from stream.kafka import KafkaConnection
from stream.replay import file_records, replay, replay_producer
from stream.topics import create_topics, partition_of
from tidegate.commands.replay import traffic
from tidegate.loading import load

ROOT = Path(__file__).parents[2]
ROWS = 3_000
PARTITIONS = 3


def read_topic(bootstrap: str, topic: str, count: int) -> list[Any]:
    """``count`` records of all partitions, each partition in order."""
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": f"{topic}.reader"})
    try:
        consumer.assign([TopicPartition(topic, p, 0) for p in range(PARTITIONS)])
        found: list[Any] = []
        while len(found) < count:
            messages = consumer.consume(count - len(found), timeout=120)
            assert messages, f"only {len(found)} of {count} records arrived"
            found += messages
        assert all(message.error() is None for message in found)
        return found
    finally:
        consumer.close()


@pytest.fixture
def handbook() -> Pipeline:
    """The shipped pipeline of the handbook's file."""
    return load(ROOT / "examples/handbook/pipeline.yaml")


@pytest.mark.kafka
def test_rows_come_out_equal_keyed_and_in_order(
    kafka: str, topic_prefix: str, handbook: Pipeline, fdh_transactions: Path
) -> None:
    connection = KafkaConnection(kafka)
    create_topics(connection.client("test"), topic_prefix, PARTITIONS)
    topic = f"{topic_prefix}.events"
    records = file_records(fdh_transactions, handbook, limit=ROWS)
    result = replay(records, replay_producer(connection), topic)
    assert result.delivered == ROWS

    with pq.ParquetFile(fdh_transactions) as file:
        expected = next(file.iter_batches(batch_size=ROWS)).to_pylist()
    codec = EventCodec(handbook, Protector(b"k" * 32))
    messages = read_topic(kafka, topic, ROWS)
    seen: dict[int, tuple[Any, ...]] = {}
    last_of_partition = dict.fromkeys(range(PARTITIONS), -1)
    for message in messages:
        event = codec.decode(message.value(), received_at=2**62)
        assert message.key() == codec.expected_key(event)
        assert message.partition() == partition_of(message.key(), PARTITIONS)
        assert isinstance(event.id, int)
        # The file is in order of ids, so each partition is too.
        assert event.id > last_of_partition[message.partition()]
        last_of_partition[message.partition()] = event.id
        batch = codec.to_batch([event], [0])
        seen[event.id] = (event.key, event.time, batch.numbers["amount"][0], batch.entities["terminal_id"][0])
    for row in expected:
        micros = to_micros(row["TX_DATETIME"].replace(tzinfo=UTC))
        wanted = (row["CUSTOMER_ID"], micros, row["TX_AMOUNT"], str(row["TERMINAL_ID"]))
        assert seen[row["TRANSACTION_ID"]] == wanted
    assert len(seen) == ROWS
    assert min(last_of_partition.values()) >= 0


@pytest.mark.kafka
def test_traffic_command_fills_the_topic_and_writes_its_labels(
    kafka: str, topic_prefix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    create_topics({"bootstrap.servers": kafka}, topic_prefix, PARTITIONS)
    path = tmp_path / "pipeline.yaml"
    text = (ROOT / "examples/payments/pipeline.yaml").read_text(encoding="utf-8")
    path.write_text(text.replace("pipeline: payments", f"pipeline: {topic_prefix}", 1), encoding="utf-8")
    monkeypatch.setenv("TIDEGATE_KAFKA_BOOTSTRAP", kafka)
    app = Typer()
    app.command()(traffic)
    labels = tmp_path / "labels.csv"
    arguments = ["--pipeline", str(path), "--events", "500", "--fraud-share", "0.1", "--bad-share", "0.05"]
    outcome = CliRunner().invoke(app, [*arguments, "--labels-out", str(labels)])
    assert outcome.exit_code == 0, outcome.output
    assert f"500 records into {topic_prefix}.events" in outcome.output

    codec = EventCodec(load(path), Protector(b"k" * 32))
    events, rejected = codec.decode_many(
        [m.value() for m in read_topic(kafka, f"{topic_prefix}.events", 500)], [2**62] * 500
    )
    with labels.open(encoding="utf-8") as file:
        labelled = {row["id"]: int(row["label"]) for row in csv.DictReader(file)}
    good = {str(event.id) for event in events}
    assert labelled.keys() <= good
    assert sum(labelled.values()) > 0
    assert len(rejected) > 5
