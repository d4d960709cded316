"""The caser: committed alerts into review cases, and the labels of decisions into Kafka.

Alerts and the offsets up to which they are taken in are one transaction of the database, and reading begins where the
database says, whatever Kafka remembers of the group: whoever is killed, each alert is in one case, once. Several such
processes share the partitions; one of them (whoever holds partition 0) writes labels and counts the queue. After an
error everything in memory is thrown away and begun afresh.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import structlog
from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient

from domain.clock import Clock
from domain.errors import Fatal, Retriable
from domain.pipeline import Pipeline
from domain.raw_label import RawLabelCodec
from lifecycle.case_labels import CaseLabels
from lifecycle.case_records import ArrivedAlert, HeardAlert
from lifecycle.case_stats import CaseStatsReader
from lifecycle.case_store import SqlCaseStore
from stream.case_label_writer import LabelWriter, WireIds
from stream.case_metrics import CaserMetrics, QueueWatch
from stream.kafka import KafkaConnection
from stream.log_identity import log_identity
from stream.log_reading import ends
from stream.topics import Topics

__all__ = ["CaserParts", "run_case_opener"]

log = structlog.get_logger(__name__)

BATCH = 200
"""Alerts per transaction: some tenths of a second, in which nobody else changes anything audited."""
IDLE_SECONDS = 0.2
"""How long a poll waits for the first alert: bounds how late a stop is noticed."""
LABEL_SECONDS = 0.5
"""Between looks for new decisions."""
COUNT_SECONDS = 2.0
"""Between looks at the whole queue, for metrics."""
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.5, 15.0
"""Between fresh starts, doubling."""
_REFUSED = frozenset(
    {
        KafkaError.TOPIC_AUTHORIZATION_FAILED,
        KafkaError.GROUP_AUTHORIZATION_FAILED,
        KafkaError.SASL_AUTHENTICATION_FAILED,
    }
)
_decode = msgspec.json.Decoder(HeardAlert).decode


@dataclass(frozen=True, kw_only=True)
class CaserParts:
    """What a caser is made of. ``at`` is called with the name of each step (fault tests stop the process there)."""

    kafka: KafkaConnection
    pipeline: Pipeline
    codec: RawLabelCodec
    store: SqlCaseStore
    labels: CaseLabels
    stats: CaseStatsReader
    wire_ids: WireIds
    clock: Clock
    metrics: CaserMetrics
    at: Callable[[str], None] = lambda point: None


def run_case_opener(parts: CaserParts, stop: threading.Event) -> None:
    """Open cases and write labels until ``stop`` is set. Raises Fatal when only a person can help."""
    pause = FIRST_PAUSE_SECONDS
    while not stop.is_set():
        started = parts.clock.monotonic()
        session = _Session(parts)
        try:
            session.run(stop)
        except Retriable as error:
            if parts.clock.monotonic() - started > 2 * LONGEST_PAUSE_SECONDS:
                pause = FIRST_PAUSE_SECONDS
            parts.metrics.restarts.inc()
            log.warning("starting afresh", process="caser", error=str(error), pause=pause)
        finally:
            parts.metrics.active.set(0)
            session.close()
        if not stop.is_set():
            stop.wait(pause)
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)


class _Session:
    """One membership in the group."""

    def __init__(self, parts: CaserParts) -> None:
        self._parts = parts
        self._topic = Topics(parts.pipeline.name).alerts
        self._client_id = f"tidegate-cases-{parts.pipeline.name}"
        self._log = ""
        self._leader: _Leader | None = None
        self._failed: Exception | None = None
        group = f"{parts.pipeline.name}.cases"
        self._consumer = Consumer(parts.kafka.group_member(self._client_id, group))
        self._consumer.subscribe(
            [self._topic], on_assign=self._assigned, on_revoke=self._revoked, on_lost=self._revoked
        )

    def run(self, stop: threading.Event) -> None:
        """Raises Retriable when everything has to start afresh."""
        while not stop.is_set():
            first = self._consumer.poll(IDLE_SECONDS)
            if self._failed is not None:
                raise self._failed
            if first is not None:
                self._take([first, *self._consumer.consume(BATCH - 1, 0)])
            if self._leader is not None:
                self._leader.step()

    def close(self) -> None:
        """Leave the group."""
        self._follow()
        self._consumer.close()

    def _assigned(self, _: Any, partitions: list[TopicPartition]) -> None:
        try:
            self._begin(partitions)
        except (
            Exception
        ) as error:  # raised after the poll that called us: the client loses what its callbacks raise
            self._failed = error

    def _begin(self, partitions: Sequence[TopicPartition]) -> None:
        """Partitions come to us: read them from where the database ends. Raises Retriable."""
        if not self._log:
            admin = AdminClient(self._parts.kafka.client(f"{self._client_id}-admin"))
            self._log = log_identity(admin, self._topic)
        held = self._parts.store.offsets(self._log)
        self._consumer.incremental_assign(
            [self._place(p.partition, held.get(p.partition)) for p in partitions]
        )
        if self._leader is None and any(p.partition == 0 for p in partitions):
            self._leader = _Leader(self._parts)
            self._parts.metrics.active.set(1)

    def _revoked(self, _: Any, partitions: list[TopicPartition]) -> None:
        if any(p.partition == 0 for p in partitions):
            self._follow()

    def _follow(self) -> None:
        """Lead no longer."""
        if self._leader is not None:
            self._leader.close()
            self._leader = None
            self._parts.metrics.active.set(0)

    def _place(self, partition: int, held: int | None) -> TopicPartition:
        """Where to read that partition from. Raises Retriable."""
        if held is None:
            return TopicPartition(self._topic, partition, OFFSET_BEGINNING)
        first, end = ends(self._consumer, self._topic, partition)
        if held > end:
            log.error(
                "the log ends before what was taken in",
                partition=partition,
                end=end,
                taken=held,
                remedy="alerts were lost by Kafka (an unclean leader election, a restored copy); their cases remain",
            )
            self._parts.store.rewind(self._log, partition, end)
            return TopicPartition(self._topic, partition, end)
        if first > held:
            self._parts.metrics.lost.inc(first - held)
            log.error(
                "alerts are gone before they were read",
                partition=partition,
                records=first - held,
                remedy="the topic's retention was shorter than the pause of this process: lengthen it",
            )
        return TopicPartition(self._topic, partition, max(first, held))

    def _take(self, messages: Sequence[Any]) -> None:
        arrived = [self._arrived(message) for message in messages if self._good(message)]
        if not arrived:
            return
        self._parts.at("received")
        taken = self._parts.store.take(self._log, arrived)
        self._parts.at("taken")
        count = self._parts.metrics.alerts.labels
        count("opened").inc(taken.opened)
        count("joined").inc(taken.joined)
        count("reopened").inc(taken.reopened)
        count("repeated").inc(taken.repeated)
        count("stranger").inc(sum(one.alert is None for one in arrived))
        self._tell_kafka(arrived)

    def _good(self, message: Any) -> bool:
        error = message.error()
        if error is None:
            return True
        if error.fatal() or error.code() in _REFUSED:
            raise Fatal(
                f"Kafka refuses the caser: {error}",
                remedy="check its Kafka user and the rights on the topic of alerts and the group <pipeline>.cases",
            )
        raise Retriable(f"reading {self._topic} failed: {error}", remedy="check the connection to Kafka")

    def _arrived(self, message: Any) -> ArrivedAlert:
        raw, spec = message.value() or b"", self._parts.pipeline.reviewing
        alert: HeardAlert | None = None
        entity = ("", "")
        try:
            raw.decode()
            alert = _decode(raw)
            # of a time when it was no entity of the pipeline yet: by the key, which always is one
            field = spec.group_by if spec.group_by in alert.entities else self._parts.pipeline.event.key
            entity = field or "", alert.entities[field or ""]
            if "\0" in alert.id or "\0" in entity[1] or b"\0" in raw:
                raise msgspec.ValidationError("no database takes NUL")
        except (msgspec.DecodeError, UnicodeError, RecursionError, KeyError) as error:
            alert = None
            log.error(
                "not_an_alert",
                partition=message.partition(),
                offset=message.offset(),
                error=type(error).__name__,
                remedy="let nobody but Tidegate's workers write to the topic of alerts",
            )
        return ArrivedAlert(message.partition(), message.offset(), raw, alert, entity)

    def _tell_kafka(self, arrived: Sequence[ArrivedAlert]) -> None:
        """For those who watch lag; nobody reads from there."""
        held = {p.partition for p in self._consumer.assignment()}
        last = {one.partition: one.offset + 1 for one in arrived if one.partition in held}
        places = [TopicPartition(self._topic, partition, end) for partition, end in last.items()]
        if places:
            try:
                self._consumer.commit(offsets=places, asynchronous=True)
            except KafkaException as error:
                log.warning("commit_failed", process="caser", error=str(error))


class _Leader:
    """What one process of a pipeline does: labels, and metrics of the queue."""

    def __init__(self, parts: CaserParts) -> None:
        self._clock = parts.clock
        self._watch = QueueWatch(parts.stats, parts.metrics, parts.clock)
        self._writer = LabelWriter(
            parts.kafka,
            parts.pipeline,
            parts.codec,
            parts.labels,
            parts.wire_ids,
            parts.clock,
            parts.metrics,
            parts.at,
        )
        self._next_labels = self._next_count = 0.0

    def step(self) -> None:
        """Do what is due. Raises Retriable."""
        now = self._clock.monotonic()
        if now >= self._next_labels:
            more = self._writer.step()
            self._next_labels = 0.0 if more else now + LABEL_SECONDS
        if now >= self._next_count:
            self._watch.look()
            self._next_count = now + COUNT_SECONDS

    def close(self) -> None:
        """Drop what Kafka has not confirmed; it is written again."""
        self._writer.close()
