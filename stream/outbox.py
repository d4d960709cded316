"""One Kafka transaction per micro-batch: verdicts, alerts, replies, dead letters and the consumed offsets.

Errors are sorted into three, because only three reactions exist: the transaction is gone and the worker
recovers (TransactionAborted), nobody knows and the producer must be thrown away (OutcomeUnknown), or somebody
else owns our transactional id (Fenced).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import structlog
from confluent_kafka import KafkaError, KafkaException, Producer, TopicPartition

from domain.errors import Fatal, Retriable
from stream.bounded_call import CallHangs, within

__all__ = ["Fenced", "Headers", "Outbox", "OutcomeUnknown", "Outgoing", "Record", "TransactionAborted"]

log = structlog.get_logger(__name__)

COMMIT_SECONDS = 30.0
"""Three times the transaction time-out: after that the broker has decided one way or the other."""
OFFSETS_SECONDS = 10.0
"""For offsets: afterwards the transaction is over its time-out anyway."""
INIT_SECONDS = 60.0
"""init_transactions waits for an unfinished transaction of a predecessor (10 s) and a slow start of a broker."""

_FENCED = {
    KafkaError._FENCED,
    KafkaError.INVALID_PRODUCER_EPOCH,
    KafkaError.PRODUCER_FENCED,
    KafkaError.FENCED_INSTANCE_ID,
}


class TransactionAborted(Retriable):
    """Nothing of the transaction will ever be seen; state in memory is ahead of the log and must be reloaded."""


class OutcomeUnknown(Retriable):
    """The broker did not say whether the transaction is committed: throw producer and state away, recover."""


class Fenced(Fatal):
    """Another process uses our transactional id."""


Headers = list[tuple[str, str | bytes | None]]
Record = tuple[str, int, bytes | None, bytes | None, Headers]
"""Topic, partition (-1: by the key), key, value, headers."""


@dataclass(slots=True)
class Outgoing:
    """Records of one transaction, by topic and partition.

    ``verdicts[partition]`` are (key, value) in offset order; ``others`` are single records with headers.
    """

    verdicts: dict[int, list[tuple[bytes | None, bytes]]] = field(default_factory=dict)
    others: list[Record] = field(default_factory=list)


class Outbox:
    """A transactional producer and what it knows of the verdicts topic.

    ``at`` is called with the name of each step (fault tests stop the process there).
    """

    def __init__(self, conf: dict[str, Any], verdicts_topic: str, at: Callable[[str], None]) -> None:
        self._producer = Producer(conf)
        self._topic = verdicts_topic
        self._at = at
        self._delivered: dict[int, int] = {}
        try:
            self._producer.init_transactions(INIT_SECONDS)
        except KafkaException as error:
            raise _sorted(error, "starting transactions") from error

    def send(self, outgoing: Outgoing, offsets: Sequence[TopicPartition], group: Any) -> dict[int, int]:
        """Write everything and the consumed ``offsets`` as one transaction.

        Returns, per partition with verdicts, the offset after the last of them. Raises TransactionAborted,
        OutcomeUnknown or Fenced; after any of them nothing may be taken as written.
        """
        self._delivered = {}
        producer = self._producer
        try:
            producer.begin_transaction()
            self._at("before_produce")
            for partition, records in outgoing.verdicts.items():
                messages: list[dict[str, Any]] = [{"key": key, "value": value} for key, value in records]
                # one delivery report per partition is enough to know where the verdicts end
                messages[-1]["callback"] = self._note_delivery
                queued = producer.produce_batch(self._topic, messages, partition=partition)
                if queued != len(messages):
                    failed = next(m["_error"] for m in messages if "_error" in m)
                    raise KafkaException(failed)
            for topic, partition, key, value, headers in outgoing.others:
                producer.produce(topic, value=value, key=key, partition=partition, headers=headers)
            self._at("after_produce")
            self._send_offsets(offsets, group)
            self._at("after_send_offsets")
            producer.commit_transaction(COMMIT_SECONDS)
        except BufferError as error:
            self._abort()
            raise TransactionAborted(
                "the producer's queue is full", remedy="lower max_batch, or look why Kafka is slow"
            ) from error
        except CallHangs as error:
            raise OutcomeUnknown(
                f"writing a transaction: {error}", remedy="look at the broker's log"
            ) from error
        except KafkaException as error:
            sorted_error = _sorted(error, "writing a transaction")
            if isinstance(sorted_error, TransactionAborted):
                self._abort()
            raise sorted_error from error
        self._at("after_commit")
        producer.poll(0)
        return self._delivered

    def _send_offsets(self, offsets: Sequence[TopicPartition], group: Any) -> None:
        """In a thread that can be left behind: when the coordinator goes away at the wrong moment, librdkafka does not
        keep its own time limit (its issues 5456 and 5511; seen here with 2.16 as the broker was restarted).
        """

        def send() -> None:
            self._producer.send_offsets_to_transaction(list(offsets), group, OFFSETS_SECONDS)

        within(OFFSETS_SECONDS + 5.0, send, "sending offsets")

    def _note_delivery(self, error: KafkaError | None, message: Any) -> None:
        if error is None:
            self._delivered[message.partition()] = message.offset() + 1

    def _abort(self) -> None:
        try:
            self._producer.abort_transaction(COMMIT_SECONDS)
        except KafkaException as error:
            sorted_error = _sorted(error, "aborting a transaction")
            if isinstance(sorted_error, Fenced):
                raise sorted_error from error
            raise OutcomeUnknown(
                f"aborting a transaction failed: {error.args[0]}", remedy="look at the broker's log"
            ) from error

    def close(self) -> None:
        """Drop what is not sent; open transactions are aborted by the successor's init_transactions."""
        self._producer.purge()
        try:
            self._producer.poll(0)
        except KafkaException as error:  # a fenced producer reports its end once more
            log.warning("closing the producer", error=str(error.args[0]))


def _sorted(error: KafkaException, doing: str) -> Retriable | Fenced:
    cause: KafkaError = error.args[0]
    if cause.code() in _FENCED:
        return Fenced(
            f"{doing}: another process uses this worker's transactional id ({cause})",
            remedy="give every worker its own TIDEGATE_WORKER_ID",
        )
    if cause.txn_requires_abort():
        return TransactionAborted(
            f"{doing}: {cause}",
            remedy="check that the output topics exist and that our user may write to them",
        )
    return OutcomeUnknown(f"{doing}: {cause}", remedy="check the connection to Kafka")
