"""What Kafka says of labels, read once: all of it, or into a :class:`lifecycle.label_book.LabelBook`."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any

import msgspec
from confluent_kafka import Consumer

from domain.errors import EventRejected, Fatal
from domain.label_codec import JoinedLabel, LabelCodec
from domain.pipeline import Pipeline
from lifecycle.label_book import LabelBook
from stream.kafka import KafkaConnection
from stream.log_reading import committed_records, ends, reader_conf
from stream.topics import Topics, partitions_of

__all__ = ["joined_labels", "read_book", "topic_records"]

_CHUNK = 5_000


def read_book(kafka: KafkaConnection, pipeline: Pipeline, book: LabelBook) -> None:
    """Read ``labels.claims`` and ``labels.joined`` to the end of the log: whoever wrote there is locked out by now.

    Raises Retriable when Kafka falls silent, ServiceMissing when topics are absent, Fatal for records of strangers.
    """
    topics = Topics(pipeline.name)
    conf = reader_conf(kafka, f"tidegate-joiner-{pipeline.name}", f"{pipeline.name}.joiner")
    claims = ((m.key().decode(), m.value()) for m in topic_records(conf, topics.label_claims))
    try:
        book.load_states(claims)
    except (msgspec.DecodeError, UnicodeDecodeError, AttributeError) as error:
        raise Fatal(
            f"{topics.label_claims} holds a record that is none of ours: {error}",
            remedy="let nobody but the joiner write there; delete that record",
        ) from error
    joined = joined_labels(conf, topics.labels_joined, LabelCodec(pipeline))
    while chunk := list(islice(joined, _CHUNK)):
        book.load_joined(chunk)


def joined_labels(conf: dict[str, Any], topic: str, codec: LabelCodec) -> Iterator[tuple[int, JoinedLabel]]:
    """Partition and label of every record of ``labels.joined`` that the worker counts."""
    for message in topic_records(conf, topic):
        try:
            label = codec.decode(message.value() or b"", received_at=message.timestamp()[1] * 1000)
        except EventRejected:
            continue  # a dead letter to the worker: it counts nowhere
        yield message.partition(), label


def topic_records(conf: dict[str, Any], topic: str) -> Iterator[Any]:
    """Every committed record of ``topic``, up to the end of the log when this begins; ``conf`` as of reader_conf."""
    probe, consumer = Consumer({**conf, "isolation.level": "read_uncommitted"}), Consumer(conf)
    try:
        spans = {partition: ends(probe, topic, partition) for partition in range(partitions_of(probe, topic))}
        yield from committed_records(consumer, topic, spans)
    finally:
        probe.close()
        consumer.close()
