"""Committed records of a topic's partitions, each partition read at its own pace, in bounded memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from domain.clock import Clock
from domain.errors import Retriable
from stream.kafka import KafkaConnection

__all__ = ["Span", "Spool", "spans_of"]

DEPTH = 4_000
"""Records kept per partition while others are read; then its fetching pauses."""
ASK_SECONDS = 10.0
"""For Kafka to answer a question about offsets."""
SILENCE_SECONDS = 30.0
"""A broker that sends nothing for so long, though the log goes on, is away or holds a transaction open."""
_POLL_SECONDS = 0.2
"""Between looks at whether Ctrl-C was pressed."""

Span = tuple[int, int]
"""Offsets of one partition: the first, and the one after the last."""


def spans_of(kafka: KafkaConnection, topic: str, partitions: int, client_id: str) -> dict[int, Span]:
    """What committed readers can see of ``topic`` now, per partition. Raises Retriable."""
    consumer = Consumer({**kafka.reader(client_id, client_id), "log_level": 2})
    try:
        return {
            partition: consumer.get_watermark_offsets(
                TopicPartition(topic, partition), timeout=ASK_SECONDS, cached=False
            )
            for partition in range(partitions)
        }
    except KafkaException as error:
        raise _away(error, topic) from error
    finally:
        consumer.close()


class Spool:
    """The records of ``topic`` within ``spans``, outside any group."""

    def __init__(
        self, kafka: KafkaConnection, topic: str, spans: Mapping[int, Span], client_id: str, clock: Clock
    ) -> None:
        conf = {**kafka.reader(client_id, client_id), "enable.partition.eof": True, "log_level": 2}
        self._consumer = Consumer({**conf, "auto.offset.reset": "error"})
        self._topic = topic
        self._clock = clock
        self._ends = {partition: end for partition, (start, end) in spans.items() if start < end}
        self._next = {partition: spans[partition][0] for partition in self._ends}
        self._kept: dict[int, deque[Any]] = {partition: deque() for partition in spans}
        self._paused: set[int] = set()
        self._consumer.assign([TopicPartition(topic, p, offset) for p, offset in self._next.items()])

    def peek(self, partition: int) -> Any | None:
        """The next record of ``partition``, which stays; None at the end of its span. Raises Retriable."""
        kept = self._kept[partition]
        if not kept and partition in self._ends:
            self._fill(partition)
        return kept[0] if kept else None

    def take(self, partition: int) -> Any | None:
        """As :meth:`peek`, and go on."""
        found = self.peek(partition)
        if found is not None:
            self._kept[partition].popleft()
        return found

    def close(self) -> None:
        """End reading."""
        self._consumer.close()

    def _fill(self, partition: int) -> None:
        """Read until there is a record of ``partition``, or it has ended."""
        if partition in self._paused:
            self._consumer.resume([TopicPartition(self._topic, partition)])
            self._paused.discard(partition)
        heard = self._clock.monotonic()
        while not self._kept[partition] and partition in self._ends:
            first = self._consumer.poll(_POLL_SECONDS)
            if first is not None:
                heard = self._clock.monotonic()
                for message in [first, *self._consumer.consume(DEPTH, 0)]:
                    self._keep(message)
            elif self._clock.monotonic() - heard > SILENCE_SECONDS:
                raise Retriable(
                    f"Kafka sent nothing of {self._topic} for {SILENCE_SECONDS:.0f} s, though partition "
                    f"{partition} goes on",
                    remedy="check the connection to Kafka and whether a transaction hangs there, then run it again",
                )

    def _keep(self, message: Any) -> None:
        partition, offset, error = message.partition(), message.offset(), message.error()
        end = self._ends.get(partition)
        if error is not None and error.code() != KafkaError._PARTITION_EOF:
            raise _away(KafkaException(error), self._topic)
        if end is None:
            return  # fetched before it was paused for good
        if error is None and offset < end and offset >= self._next[partition]:
            self._kept[partition].append(message)
            self._next[partition] = offset + 1
        # markers of transactions leave gaps, so the last offset may never be seen
        if offset >= (end - 1 if error is None else end):
            del self._ends[partition]
        elif len(self._kept[partition]) < DEPTH or partition in self._paused:
            return
        self._paused.add(partition)
        self._consumer.pause([TopicPartition(self._topic, partition)])


def _away(error: KafkaException, topic: str) -> Retriable:
    return Retriable(
        f"reading {topic} failed: {error.args[0]}",
        remedy="check the connection to Kafka and that our user may read the topic; when records were deleted "
        "while they were read, run it again",
    )
