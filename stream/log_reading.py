"""Reading a stretch of a topic once, from a known start to a known end, outside any group.

For commands that look at what is committed when they start: dead letters, labels, verdicts.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import Any

from confluent_kafka import KafkaError, KafkaException, TopicPartition

from domain.errors import Retriable
from stream.kafka import KafkaConnection

__all__ = ["ASK_SECONDS", "Span", "away", "committed_records", "ends", "reader_conf"]

ASK_SECONDS = 10.0
"""For Kafka to answer a question about offsets."""
SILENCE_SECONDS = 30.0
"""A broker that sends nothing for so long, though the log goes on, is away or holds a transaction open."""
_POLL_SECONDS = 0.2
"""Between looks at whether Ctrl-C was pressed."""
_LEADER_SECONDS = 0.1
"""Between questions to a partition without a leader: elections take some tenths of a second."""
_NO_LEADER = {KafkaError.NOT_LEADER_FOR_PARTITION, KafkaError.LEADER_NOT_AVAILABLE}
_PREFETCH_KBYTES = 16_384
"""Memory for records not looked at yet."""

Span = tuple[int, int]
"""Offsets of one partition: the first, and the one after the last."""


def reader_conf(kafka: KafkaConnection, client_id: str, group: str) -> dict[str, Any]:
    """Configuration of a consumer for :func:`committed_records`; ``group`` is named but never joined."""
    return {
        **kafka.reader(client_id, group),
        "enable.partition.eof": True,
        "queued.max.messages.kbytes": _PREFETCH_KBYTES,
        # somebody waits at a terminal: a broker that is away is told once, by our error
        "log_level": 2,
    }


def ends(consumer: Any, topic: str, partition: int) -> Span:
    """The first offset that is kept and the one after the last that ``consumer`` may see.

    For a consumer with ``isolation.level`` read_uncommitted that is the end of the log itself, open transactions
    included. Waits for a partition that is just being led by another broker, or made. Raises Retriable.
    """
    place = TopicPartition(topic, partition)
    for _ in range(round(ASK_SECONDS / _LEADER_SECONDS)):
        try:
            first, end = consumer.get_watermark_offsets(place, timeout=ASK_SECONDS, cached=False)
        except KafkaException as error:
            if error.args[0].code() not in _NO_LEADER:
                raise away(error, topic) from error
            moving = error
            time.sleep(_LEADER_SECONDS)
        else:
            return first, end
    raise away(moving, topic) from moving


def committed_records(consumer: Any, topic: str, spans: Mapping[int, Span]) -> Iterator[Any]:
    """Committed records of ``topic`` within ``spans``, of each partition in order of offsets.

    Where a transaction is still open within a span, waits for its outcome. Raises Retriable when Kafka sends
    nothing for 30 s.
    """
    left = {partition: end for partition, (start, end) in spans.items() if start < end}
    if not left:
        return
    consumer.assign([TopicPartition(topic, partition, spans[partition][0]) for partition in left])
    silent = 0
    while left:
        message = consumer.poll(_POLL_SECONDS)
        if message is None:
            silent += 1
            if silent * _POLL_SECONDS >= SILENCE_SECONDS:
                raise Retriable(
                    f"Kafka sent nothing of {topic} for {SILENCE_SECONDS:.0f} s, though partition(s) "
                    f"{sorted(left)} go on",
                    remedy="check the connection to Kafka and whether a transaction hangs there, then run it again",
                )
            continue
        silent = 0
        error, partition, offset = message.error(), message.partition(), message.offset()
        end = left.get(partition)
        if error is not None:
            if error.code() != KafkaError._PARTITION_EOF:
                raise away(KafkaException(error), topic)
            # compaction, aborted records and markers leave gaps, so the last offset may never be seen
            if end is not None and offset >= end:
                del left[partition]
            continue
        if end is None:
            continue  # fetched before it was paused
        if offset < end:
            yield message
        if offset >= end - 1:
            del left[partition]
            consumer.pause([TopicPartition(topic, partition)])


def away(error: KafkaException, topic: str) -> Retriable:
    """What a failed question about ``topic`` means to the operator."""
    return Retriable(
        f"reading {topic} failed: {error.args[0]}",
        remedy="check the connection to Kafka and that our user may read the topic",
    )
