"""Ids as on the wire, read again from the events themselves: verdicts hold keyed hashes of sensitive ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from confluent_kafka import Consumer, KafkaException, TopicPartition

from domain.errors import Retriable
from domain.pipeline import Pipeline
from domain.privacy import Protector
from lifecycle.case_records import PendingLabel
from stream.kafka import KafkaConnection
from stream.log_reading import ASK_SECONDS, away, ends
from stream.topics import Topics

__all__ = ["EventIds"]


class EventIds:
    """:class:`stream.case_label_writer.WireIds` on the topic ``events``. Nothing it reads is kept or logged (P7)."""

    def __init__(self, kafka: KafkaConnection, pipeline: Pipeline, protector: Protector) -> None:
        self._kafka = kafka
        self._topic = Topics(pipeline.name).events
        self._field = pipeline.event.field(pipeline.event.id).source
        self._protect = protector.protect
        self._name = f"tidegate-cases-{pipeline.name}-events"

    def find(self, labels: Sequence[PendingLabel]) -> Mapping[str, str | int]:
        """See the port."""
        found: dict[str, str | int] = {}
        ours = [one for one in labels if one.source.topic == self._topic]
        # few: people decide at most some hundred events at a time
        consumer = Consumer(self._kafka.reader(self._name, self._name))
        try:
            for one in ours:
                raw = self._event(consumer, one.source.partition, one.source.offset)
                id_ = None if raw is None else self._id(raw, one.event_id)
                if id_ is not None:
                    found[one.key] = id_
        except KafkaException as error:
            raise away(error, self._topic) from error
        finally:
            consumer.close()
        return found

    def _event(self, consumer: Any, partition: int, offset: int) -> bytes | None:
        """The value at that place; None where it is gone."""
        first, end = ends(consumer, self._topic, partition)
        if not first <= offset < end:
            return None
        consumer.assign([TopicPartition(self._topic, partition, offset)])
        message = consumer.poll(ASK_SECONDS)
        if message is None or message.error() is not None:
            raise Retriable(
                f"Kafka did not give an event of {self._topic} again",
                remedy="check the connection to Kafka and that our user may read the topic",
            )
        value: bytes | None = message.value()
        return value if message.offset() == offset else None

    def _id(self, raw: bytes, hashed: str) -> str | int | None:
        """The id in ``raw``, if it is the one that is meant."""
        try:
            value = msgspec.json.decode(raw).get(self._field)
        except (msgspec.DecodeError, UnicodeError, RecursionError, AttributeError):
            return None
        if isinstance(value, bool) or not isinstance(value, str | int):
            return None
        # another topic may be under that name by now
        return value if self._protect(str(value)) == hashed else None
