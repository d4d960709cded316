"""The head of the audit in the topic ``audit``: what lets a chain of records that was made anew be found.

The topic is kept for ever and nobody needs to delete from it, so what once stood there still does when the database
has been rewritten. Each head is written once; several writers may write the same one, which does no harm.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec
from confluent_kafka import Consumer, KafkaError, KafkaException, Producer

from domain.errors import Retriable
from lifecycle.audit import AuditHead
from stream.kafka import KafkaConnection
from stream.log_reading import committed_records, ends, reader_conf
from stream.topics import Topics, partitions_of

__all__ = ["ExportedHeads", "HeadExporter", "exported_heads"]

_DELIVERY_SECONDS = 20.0
"""For the broker to acknowledge one small record; longer is an outage."""
_PARTITION = 0


@dataclass(frozen=True, slots=True)
class ExportedHeads:
    """Heads of one pipeline in the order of the topic; ``unreadable`` records there are nobody's of ours."""

    heads: list[AuditHead]
    unreadable: int


def exported_heads(kafka: KafkaConnection, pipeline: str) -> ExportedHeads:
    """Every head that was exported. Raises ServiceMissing without the topic, Retriable when Kafka is away."""
    topic, name = Topics(pipeline).audit, f"tidegate-{pipeline}.audit"
    conf = reader_conf(kafka, name, name)
    # the end of the log itself: committed readers may be let see it a moment later
    probe, consumer = Consumer({**conf, "isolation.level": "read_uncommitted"}), Consumer(conf)
    heads, unreadable = [], 0
    try:
        partitions_of(probe, topic)  # says what to do when the topic is absent
        for message in committed_records(consumer, topic, {_PARTITION: ends(probe, topic, _PARTITION)}):
            try:
                head = msgspec.json.decode(message.value() or b"", type=AuditHead)
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                unreadable += 1
                continue
            if head.pipeline == pipeline:
                heads.append(head)
    finally:
        probe.close()
        consumer.close()
    return ExportedHeads(heads, unreadable)


class HeadExporter:
    """Writes heads of ``pipeline`` into its topic, each once; for one thread."""

    def __init__(self, kafka: KafkaConnection, pipeline: str, client_id: str) -> None:
        self._kafka = kafka
        self._pipeline = pipeline
        self._client_id = client_id
        self._newest: AuditHead | None = None
        self._looked = False

    def export(self, head: AuditHead) -> bool:
        """Write ``head`` unless it is there, or no record was written yet; True when it was written now.

        A head of a smaller number than the newest is written too: the chain was cut, and both shall be seen.
        Raises ServiceMissing without the topic, Retriable when Kafka does not take it.
        """
        if not self._looked:
            found = exported_heads(self._kafka, self._pipeline).heads
            self._newest, self._looked = (found[-1] if found else None), True
        newest = self._newest
        if head.number == 0 and newest is None:
            return False
        if newest is not None and (newest.number, newest.hash) == (head.number, head.hash):
            return False
        self._send(msgspec.json.encode(head))
        self._newest = head
        return True

    def _send(self, value: bytes) -> None:
        producer = Producer(
            {**self._kafka.client(self._client_id), "enable.idempotence": True, "acks": "all"}
        )
        failed: list[KafkaError] = []

        def delivered(error: KafkaError | None, _: Any) -> None:
            if error is not None:
                failed.append(error)

        topic = Topics(self._pipeline).audit
        try:
            producer.produce(topic, value, partition=_PARTITION, on_delivery=delivered)
            left = producer.flush(_DELIVERY_SECONDS)
        except KafkaException as error:
            raise _refused(topic, error.args[0]) from error
        if left or failed:
            raise _refused(topic, failed[0] if failed else "no answer")


def _refused(topic: str, why: object) -> Retriable:
    return Retriable(
        f"Kafka did not take the head of the audit into {topic}: {why}",
        remedy="check the connection to Kafka, that the topic exists (`tidegate topics create`) and our rights",
    )
