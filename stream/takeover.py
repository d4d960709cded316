"""What a partition's next owner needs to know of the one before, and how it ends what that one left open.

Every committed offset carries a note (Kafka keeps it as the offset's metadata, inside the same transaction): who
committed it and when. A worker that is killed, or stopped, inside a transaction leaves it open, and committed
readers see nothing behind an open transaction until the broker ends it (its time-out, and then up to ten seconds
more until the coordinator looks). The next owner need not wait: it starts the former owner's transactional id
anew, which aborts the open transaction and fences whoever may still hold it (KIP-98, KIP-447).
"""

from __future__ import annotations

from typing import Any

import msgspec
import structlog
from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition

from domain.clock import Clock
from domain.errors import Retriable
from stream.kafka import KafkaConnection

__all__ = [
    "GRACE_SECONDS",
    "CommitNote",
    "Patience",
    "Progress",
    "end_transactions_of",
    "read_note",
    "write_note",
]

log = structlog.get_logger(__name__)

GRACE_SECONDS = 1.0
"""How long a transaction may stay open under a new owner. A commit that was acknowledged becomes visible within
milliseconds, and its owner, alive and well, must not be fenced for them."""
KAFKA_SECONDS = 30.0
"""For questions to the group coordinator; longer than a broker's restart takes."""
_INIT_SECONDS = 20.0
"""Longer than a coordinator takes to end a transaction that was being committed when its owner died."""


class CommitNote(msgspec.Struct, frozen=True):
    """Who committed an offset (transactional id), and when (milliseconds since 1970, UTC)."""

    owner: str
    at: int


_decode = msgspec.json.Decoder(CommitNote).decode


def write_note(owner: str, at: int) -> str:
    """The metadata of an offset committed by ``owner`` at ``at`` (UTC microseconds).

    >>> read_note(write_note("tidegate-payments-w1", 1_500_000))
    CommitNote(owner='tidegate-payments-w1', at=1500)
    """
    return msgspec.json.encode(CommitNote(owner, at // 1000)).decode()


def read_note(metadata: str | None) -> CommitNote | None:
    """The note in an offset's metadata; None when it holds none of ours (somebody moved the group by hand)."""
    if not metadata:
        return None
    try:
        return _decode(metadata)
    except msgspec.DecodeError:
        return None


def end_transactions_of(kafka: KafkaConnection, owner: str) -> None:
    """Abort what ``owner`` (a transactional id) left open, and fence it.

    Raises Retriable when Kafka does not do it; the broker's own time-out then remains.
    """
    producer = Producer(kafka.transactional_producer(f"{owner}-ended", owner))
    try:
        producer.init_transactions(_INIT_SECONDS)
    except KafkaException as error:
        raise Retriable(
            f"ending the open transaction of {owner} failed: {error.args[0]}",
            remedy="none needed: the broker ends it after its time-out; check the connection to Kafka otherwise",
        ) from error
    log.warning("ended the open transaction of a silent former owner", owner=owner)


class Patience:
    """How long to wait for a transaction that ``former`` left open before ending it; once."""

    def __init__(self, clock: Clock, former: str | None) -> None:
        self._clock = clock
        self._former = former
        self._since: float | None = None

    def is_over(self) -> bool:
        """Whether it is time to end it. The first call starts the wait."""
        now = self._clock.monotonic()
        if self._since is None:
            self._since = now
        return self._former is not None and now - self._since >= GRACE_SECONDS

    def give_up(self) -> str:
        """Whose transactions to end; it is not asked again."""
        former, self._former = self._former, None
        if former is None:
            raise RuntimeError("nobody's transaction is waited for")
        return former


class Progress:
    """What the group has committed.

    The coordinator does not tell a committed offset while a transaction that would change it is open (KIP-447), so
    a former owner's open transaction is ended here, when it stands in the way for longer than GRACE_SECONDS.
    """

    def __init__(self, kafka: KafkaConnection, member: Any, group: str, owner: str) -> None:
        self._kafka = kafka
        self._member = member
        self._group = group
        self._owner = owner

    def committed(self, topic: str, partition: int) -> tuple[int | None, CommitNote | None]:
        """The committed offset (None when there never was one) and the note of who committed it.

        Raises Retriable when Kafka does not tell.
        """
        try:
            place = self._ask(self._member, topic, partition, GRACE_SECONDS)
        except KafkaException as error:
            if not _held_up(error):
                raise self._unknown(topic, partition, error.args[0]) from error
            former = self._last_note(topic, partition)
            if former is not None and former.owner != self._owner:
                end_transactions_of(self._kafka, former.owner)
            try:
                place = self._ask(self._member, topic, partition, KAFKA_SECONDS)
            except KafkaException as second:
                raise self._unknown(topic, partition, second.args[0]) from second
        if place.offset < 0:
            return None, None
        return place.offset, read_note(place.metadata)

    def _last_note(self, topic: str, partition: int) -> CommitNote | None:
        """The note beside the last offset that is committed, whatever else is under way."""
        conf = self._kafka.reader(f"{self._owner}-notes", self._group)
        observer = Consumer({**conf, "isolation.level": "read_uncommitted"})
        try:
            return read_note(self._ask(observer, topic, partition, KAFKA_SECONDS).metadata)
        except KafkaException as error:
            raise self._unknown(topic, partition, error.args[0]) from error
        finally:
            observer.close()

    def _ask(self, consumer: Any, topic: str, partition: int, seconds: float) -> TopicPartition:
        [place] = consumer.committed([TopicPartition(topic, partition)], seconds)
        if place.error is not None:
            raise KafkaException(place.error)
        found: TopicPartition = place
        return found

    def _unknown(self, topic: str, partition: int, error: KafkaError) -> Retriable:
        return Retriable(
            f"the committed offset of partition {partition} of {topic} is not known: {error}",
            remedy="check the connection to Kafka and the rights of our group",
        )


def _held_up(error: KafkaException) -> bool:
    """Whether the coordinator kept the answer back (or was slow: then asking longer does no harm)."""
    return error.args[0].code() in {KafkaError._TIMED_OUT, KafkaError.UNSTABLE_OFFSET_COMMIT}
