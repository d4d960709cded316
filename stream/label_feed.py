"""Labels on their way into features: what is known by a given stream time, per held partition.

``labels.joined`` has as many partitions as ``events``, and partition p of both belongs to the same worker. The
group is subscribed to events only (no assignor would keep two topics together); labels are read by a plain
consumer, and their offsets are committed with the events' in one transaction, under the same group generation.

A label waits here until the stream time of its partition has reached the time at which it was known (promise P4).
So a backlog of days sees each label where it would have seen it live, as long as the log holds it by then.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Any

import structlog
from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from domain.clock import Clock
from domain.errors import EventRejected, Retriable
from domain.label import LabelBatch
from domain.label_codec import JoinedLabel, LabelCodec
from stream.kafka import KafkaConnection

__all__ = ["CHUNK", "DueLabels", "LabelFeed"]

log = structlog.get_logger(__name__)

CHUNK = 5_000
"""Labels applied in one step before a batch, and read ahead per partition: bounds memory at a start with many."""
SILENCE_SECONDS = 30.0
"""A broker that sends neither labels nor their end for so long is away."""
_WAIT_SECONDS = 0.05


@dataclass(frozen=True, slots=True)
class DueLabels:
    """Labels to count now, and the records among them that could not be read.

    ``next_offset`` is the offset after the last record of either kind.
    """

    labels: LabelBatch
    refused: list[tuple[Any, EventRejected]]
    next_offset: int


@dataclass(slots=True)
class _Lane:
    """What is known of one partition: records read ahead, and whether they reach to the end of the log."""

    next_offset: int
    waiting: deque[tuple[Any, JoinedLabel | EventRejected]] = field(default_factory=deque)
    at_end: bool = False
    paused: bool = False

    def settled(self, stream_time: int, limit: int | None) -> bool:
        """Whether what is due at ``stream_time`` is all here, or ``limit`` of it."""
        if self.at_end or (limit is not None and len(self.waiting) >= limit):
            return True
        return any(
            isinstance(label, JoinedLabel) and label.known_at > stream_time for _, label in self.waiting
        )


class LabelFeed:
    """Reads the labels of held partitions in log order."""

    def __init__(
        self, kafka: KafkaConnection, topic: str, group: str, client_id: str, codec: LabelCodec, clock: Clock
    ) -> None:
        conf = kafka.reader(f"{client_id}-labels", group)
        # the offsets are the worker's own business; nothing may be skipped when the log is shorter than it thinks
        self._consumer = Consumer({**conf, "enable.partition.eof": True, "auto.offset.reset": "error"})
        self._topic = topic
        self._codec = codec
        self._clock = clock
        self._lanes: dict[int, _Lane] = {}

    def begin(self, partition: int, offset: int) -> None:
        """Read ``partition`` from ``offset`` on, forgetting what was read of it before."""
        self.end(partition)
        self._lanes[partition] = _Lane(offset)
        self._consumer.incremental_assign([TopicPartition(self._topic, partition, offset)])

    def end(self, partition: int) -> None:
        """Read ``partition`` no longer."""
        if self._lanes.pop(partition, None) is not None:
            self._consumer.incremental_unassign([TopicPartition(self._topic, partition)])

    def due(self, partition: int, stream_time: int, *, limit: int | None = None) -> DueLabels:
        """The labels that count at ``stream_time``, at most ``limit``; they stay until :meth:`taken`.

        Waits until it is certain which these are. Raises Retriable when Kafka does not answer.
        """
        lane = self._lanes[partition]
        started = self._clock.monotonic()
        self._read(0.0)
        while not lane.settled(stream_time, limit):
            if limit is None:
                self._resume(partition, lane)
            self._read(_WAIT_SECONDS)
            if self._clock.monotonic() - started > SILENCE_SECONDS:
                raise Retriable(
                    f"Kafka sent nothing of {self._topic} for {SILENCE_SECONDS:.0f} s",
                    remedy="check the connection to Kafka, and whether a transaction hangs in that topic",
                )
        labels: list[JoinedLabel] = []
        offsets: list[int] = []
        refused: list[tuple[Any, EventRejected]] = []
        end = lane.next_offset
        for message, label in lane.waiting:
            if limit is not None and len(labels) + len(refused) >= limit:
                break
            if isinstance(label, EventRejected):
                refused.append((message, label))
            elif label.known_at > stream_time:
                break
            else:
                labels.append(label)
                offsets.append(message.offset())
            end = message.offset() + 1
        return DueLabels(self._codec.to_batch(labels, offsets), refused, end)

    def taken(self, partition: int, next_offset: int) -> None:
        """Labels below ``next_offset`` were applied."""
        lane = self._lanes[partition]
        while lane.waiting and lane.waiting[0][0].offset() < next_offset:
            lane.waiting.popleft()
        lane.next_offset = next_offset
        if len(lane.waiting) < CHUNK // 2:
            self._resume(partition, lane)

    def close(self) -> None:
        """End reading."""
        self._consumer.close()

    def _resume(self, partition: int, lane: _Lane) -> None:
        if lane.paused:
            self._consumer.resume([TopicPartition(self._topic, partition)])
            lane.paused = False

    def _read(self, seconds: float) -> None:
        first = self._consumer.poll(seconds)
        messages = [] if first is None else [first, *self._consumer.consume(CHUNK, 0)]
        for message in messages:
            error = message.error()
            partition, offset = message.partition() or 0, message.offset() or 0
            lane = self._lanes.get(partition)
            if error is not None and error.code() != KafkaError._PARTITION_EOF:
                raise Retriable(
                    f"reading {self._topic} failed: {KafkaException(error).args[0]}",
                    remedy="check the connection to Kafka; when the log is shorter than what was read of it, "
                    "its retention is too short",
                )
            if lane is None:
                continue  # given up between fetch and now
            if error is not None:
                lane.at_end = True
                continue
            lane.at_end = False
            if offset < (lane.waiting[-1][0].offset() + 1 if lane.waiting else lane.next_offset):
                continue  # fetched before the partition began anew
            lane.waiting.append((message, self._decoded(message)))
            if len(lane.waiting) >= CHUNK and not lane.paused:
                self._consumer.pause([TopicPartition(self._topic, partition)])
                lane.paused = True

    def _decoded(self, message: Any) -> JoinedLabel | EventRejected:
        try:
            return self._codec.decode(message.value() or b"", received_at=message.timestamp()[1] * 1000)
        except EventRejected as reason:
            return reason
