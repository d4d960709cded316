"""Publishing what a database says is in force into a compacted topic of one partition, so that it never goes back.

Whoever publishes first takes the topic's transactional id (which ends what a predecessor left open and locks it out),
then reads database and topic: so of any number of publishers, killed or not, the last one to take the id has seen all
that the others wrote. What is written last in each transaction names the state, so it is found near the log's end.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import structlog
from confluent_kafka import Consumer

from domain.errors import Fatal, Retriable
from stream.kafka import KafkaConnection
from stream.log_reading import committed_records, ends, reader_conf
from stream.outbox import Fenced, Outbox, Outgoing, Record
from stream.topics import partitions_of

__all__ = ["ONLY", "Published", "Send", "ahead", "last_value", "publishing"]

log = structlog.get_logger(__name__)

ATTEMPTS = 5
"""Publishers that lock each other out: each has seen what the other wrote, so a few rounds are enough."""
ONLY = 0
"""The only partition, except on the embedded mock broker, which makes four of every topic."""
_NEAR = 64
"""Records at the log's end that are looked at first; then eight times as many, and so on."""
T = TypeVar("T")
Send = Callable[[Sequence[Record]], None]
"""Writes records as one transaction; raises as :class:`stream.outbox.Outbox` does."""


@dataclass(frozen=True, slots=True)
class Published:
    """What the topic says now, and whether this call wrote it (False: it was there)."""

    epoch: int
    written: bool


def publishing(
    kafka: KafkaConnection, topic: str, write: Callable[[Send], T], at: Callable[[str], None]
) -> T:
    """Call ``write`` as the only publisher of ``topic``, again when another one comes between.

    ``at`` is called with the name of each step (fault tests stop the process there). Raises Retriable.
    """
    # not tidegate-<pipeline>-<...>: those are the workers', and a worker may have any name
    name = f"tidegate-{topic}"
    for attempt in range(1, ATTEMPTS + 1):
        outbox: Outbox | None = None
        # only names a group to the transaction, in which no offsets are committed; it never reads
        member = Consumer(kafka.reader(name, name))
        try:
            outbox = Outbox(kafka.transactional_producer(name, name), topic, at)
            return write(partial(_sent, outbox, member))
        except Fenced:
            log.info("another publisher was faster; looking again", topic=topic, attempt=attempt)
        finally:
            member.close()
            if outbox is not None:
                outbox.close()
    raise Retriable(
        f"other publishers locked this one out of {topic} {ATTEMPTS} times",
        remedy="run it again; if that goes on, look who publishes there all the time",
    )


def last_value(kafka: KafkaConnection, topic: str, key: bytes, *, seen: bool = False) -> bytes | None:
    """The newest committed value of ``key``; None: there is none.

    Up to the end of the log, waiting for the outcome of open transactions; ``seen``: up to what readers are let see
    now. Raises ServiceMissing without the topic, Retriable when Kafka is away.
    """
    isolation = "read_committed" if seen else "read_uncommitted"
    with _consumer(kafka, topic, isolation) as probe, _consumer(kafka, topic, "read_committed") as consumer:
        partitions_of(probe, topic)  # says what to do when the topic is absent
        first, end = ends(probe, topic, ONLY)
        back = _NEAR
        while True:
            start = max(end - back, first)
            found: bytes | None = None
            for message in committed_records(consumer, topic, {ONLY: (start, end)}):
                if message.key() == key and message.value() is not None:
                    found = message.value()
            if found is not None or start == first:
                return found
            back *= 8


def ahead(topic: str, there: int, database: int) -> Fatal:
    """The error for a topic that is ahead of the database."""
    return Fatal(
        f"{topic} is at {there}, the database at {database}: it is another database, or an older copy of it",
        remedy="point TIDEGATE_DATABASE_URL to the one that was in use; if it is lost, stop the workers, delete and "
        "create the topic, and publish again",
    )


def _sent(box: Outbox, member: Any, records: Sequence[Record]) -> None:
    box.send(Outgoing(others=list(records)), [], member.consumer_group_metadata())


@contextmanager
def _consumer(kafka: KafkaConnection, topic: str, isolation: str) -> Iterator[Any]:
    name = f"tidegate-{topic}"
    consumer = Consumer({**reader_conf(kafka, name, name), "isolation.level": isolation})
    try:
        yield consumer
    finally:
        consumer.close()
