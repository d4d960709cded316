"""What the throughput benchmark asks of Kafka: filled topics, append times, progress of a group."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from benchmarks.throughput_load import SEND_AT_ONCE, producer_settings
from stream.topics import Topics, create_topics

__all__ = ["Records", "append_times", "fill", "group_progress", "make_topic", "make_topics", "remove_topics"]

Records = Sequence[tuple[bytes, bytes]]
"""(key, value) of each event, in order."""

ADMIN_SECONDS = 30.0
_STARTING = {
    KafkaError.NOT_COORDINATOR,
    KafkaError.COORDINATOR_NOT_AVAILABLE,
    KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
}


def make_topic(bootstrap: str, name: str, partitions: int) -> None:
    """A topic whose records carry the broker's time of arrival."""
    config = {"message.timestamp.type": "LogAppendTime"}
    new = NewTopic(name, num_partitions=partitions, replication_factor=1, config=config)
    admin = AdminClient({"bootstrap.servers": bootstrap})  # must outlive the request
    for done in admin.create_topics([new]).values():
        done.result(ADMIN_SECONDS)


def make_topics(bootstrap: str, pipeline: str, partitions: int) -> Topics:
    """All topics of a pipeline; verdicts, too, carry the broker's time."""
    names = Topics(pipeline)
    make_topic(bootstrap, names.verdicts, partitions)
    create_topics({"bootstrap.servers": bootstrap}, pipeline, partitions)
    return names


def remove_topics(bootstrap: str, names: Sequence[str]) -> None:
    """Give the disk back."""
    admin = AdminClient({"bootstrap.servers": bootstrap})
    for done in admin.delete_topics(list(names)).values():
        done.result(ADMIN_SECONDS)


def fill(bootstrap: str, topic: str, records: Records) -> None:
    """Write all records, and return when they are stored."""
    producer = Producer(producer_settings(bootstrap))
    for start in range(0, len(records), SEND_AT_ONCE):
        messages: list[dict[str, Any]] = [
            {"key": key, "value": value} for key, value in records[start : start + SEND_AT_ONCE]
        ]
        if producer.produce_batch(topic, messages) != len(messages):
            raise SystemExit(f"{topic}: the producer's queue did not take all records")
        producer.flush(ADMIN_SECONDS)


def group_progress(consumer: Consumer, topic: str, partitions: int) -> int:
    """Records of ``topic`` that the consumer's group has committed; one small request to the coordinator.

    ``topic`` must hold no transaction markers, or offsets would not count records.
    """
    places = [TopicPartition(topic, p) for p in range(partitions)]
    try:
        return sum(max(place.offset, 0) for place in consumer.committed(places, timeout=ADMIN_SECONDS))
    except KafkaException as error:
        if error.args[0].code() in _STARTING:
            return 0  # a cold broker; the caller notices when it stays so
        raise


def append_times(bootstrap: str, topic: str, partitions: int) -> list[list[int]]:
    """Per partition, when the broker appended each committed record (UTC milliseconds), in offset order."""
    consumer = Consumer(
        {
            "bootstrap.servers": bootstrap,
            "group.id": "throughput-reader",
            "isolation.level": "read_committed",
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            "auto.offset.reset": "earliest",
        }
    )
    times: list[list[int]] = [[] for _ in range(partitions)]
    try:
        consumer.assign([TopicPartition(topic, p, 0) for p in range(partitions)])
        ended: set[int] = set()
        while len(ended) < partitions:
            messages: list[Any] = consumer.consume(2_000, 0.2)
            for message in messages:
                if message.error() is None:
                    times[message.partition()].append(message.timestamp()[1])
                else:
                    ended.add(message.partition())
    finally:
        consumer.close()
    return times
