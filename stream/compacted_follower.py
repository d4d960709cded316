"""Following a compacted topic: read whole once, then looked at between two batches.

It costs a look at an empty queue. What records mean is up to who is given them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import structlog
from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from domain.clock import Clock
from domain.errors import Retriable
from stream.kafka import KafkaConnection

__all__ = ["CompactedFollower"]

log = structlog.get_logger(__name__)

SILENCE_SECONDS = 30.0
"""A broker that sends neither records nor their end for so long is away."""
ASK_SECONDS = 10.0
AGAIN_SECONDS = 5.0
"""Until the next try, where Kafka did not answer."""
ABSENT_SECONDS = 30.0
"""How often to look whether a topic that was not there is there now: older deployments lack some."""
MOST_AT_ONCE = 2_000
"""Records taken between two batches: a few milliseconds, however many come."""
Take = Callable[[bytes | None, bytes | None], None]
"""Given key and value of each record, in order; from the first again after the connection was lost."""


class CompactedFollower:
    """Gives the committed records of ``topic`` to ``take``; one thread at a time."""

    def __init__(
        self, kafka: KafkaConnection, topic: str, take: Take, clock: Clock, *, client_id: str
    ) -> None:
        self._conf = {
            **kafka.reader(client_id, topic),
            "enable.partition.eof": True,
            # read whole, and seldom: no need to hold much of it
            "queued.max.messages.kbytes": 16_384,
        }
        self._topic = topic
        self._take = take
        self._clock = clock
        self._consumer: Consumer | None = None
        self._places: list[TopicPartition] = []
        self._look_again = 0.0

    def begin(self) -> None:
        """Read everything there is; the second time nothing. Raises Retriable when Kafka is away."""
        if not self._places:
            self._find_topic()

    def poll(self) -> bool:
        """Take what has come since; whether there was anything. Does not wait."""
        try:
            if self._consumer is not None and self._places:
                return self._drain(self._consumer)
            if self._clock.monotonic() >= self._look_again:
                self._find_topic()
                return bool(self._places)
        except Retriable as error:
            self._look_again = self._clock.monotonic() + AGAIN_SECONDS
            log.warning("a topic is not followed for the moment; what is known stays", error=str(error))
        return False

    def close(self) -> None:
        """Give the connection back."""
        if self._consumer is not None:
            self._consumer.close()
            self._consumer = None

    def _drain(self, consumer: Consumer) -> bool:
        taken = 0
        while taken < MOST_AT_ONCE and (message := consumer.poll(0)) is not None:
            error = message.error()
            if error is None:
                self._take(message.key(), message.value())
                taken += 1
            elif error.code() != KafkaError._PARTITION_EOF:
                log.warning("reading a followed topic", topic=self._topic, error=str(error))
        return taken > 0

    def _find_topic(self) -> None:
        if self._consumer is None:
            self._consumer = Consumer(self._conf)
        try:
            found = self._consumer.list_topics(self._topic, ASK_SECONDS).topics[self._topic]
        except KafkaException as error:
            raise self._away(error.args[0]) from error
        if found.error is not None or not found.partitions:
            self._look_again = self._clock.monotonic() + ABSENT_SECONDS
            return
        self._places = [TopicPartition(self._topic, number, 0) for number in found.partitions]
        self._read_all(self._consumer)

    def _read_all(self, consumer: Consumer) -> None:
        """Every record from the first to the last committed one."""
        consumer.unassign()
        consumer.assign(self._places)
        left = {place.partition for place in self._places}
        while left:
            message: Any = consumer.poll(SILENCE_SECONDS)
            if message is None:
                raise self._away(f"nothing came for {SILENCE_SECONDS:.0f} s")
            error = message.error()
            if error is None:
                self._take(message.key(), message.value())
            elif error.code() == KafkaError._PARTITION_EOF:
                left.discard(message.partition())
            elif error.code() == KafkaError._ALL_BROKERS_DOWN or error.fatal():
                raise self._away(error)

    def _away(self, why: object) -> Retriable:
        self._places = []
        return Retriable(
            f"reading {self._topic} failed: {why}",
            remedy="check the connection to Kafka and that our user may read the topic",
        )
