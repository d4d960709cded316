"""The archiver of the offline store: verdicts, joined labels and dead letters into Delta Lake, each exactly once.

A process of its own, and a consumer group of its own, so that the archiver of recent verdicts keeps its latency
whatever the offline store does. Records are collected for some seconds and written in one commit a table; each
commit says up to which offset of each partition the table now reaches (:mod:`featurestore.offline_table`). Reading
begins there, whatever Kafka remembers of the group: Kafka's offsets are committed after the tables, for those who
watch lag. So nothing is written twice and nothing left out, whoever is killed between which two steps.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
import structlog
from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from domain.clock import Clock
from domain.errors import Fatal, Retriable, StateMismatch
from featurestore.offline import OfflineStore
from featurestore.offline_port import LogRecord
from featurestore.offline_schema import DEAD_LETTERS
from featurestore.offline_table import OfflineTable
from stream.dead_letters import HEADER_FIELD, HEADER_REASON
from stream.kafka import KafkaConnection
from stream.log_identity import log_identity
from stream.topics import Topics

__all__ = ["OfflineArchiverMetrics", "OfflineArchiverSettings", "run_offline_archiver"]

log = structlog.get_logger(__name__)

_POLL_SECONDS = 0.2
"""Longest wait for a record, and so for noticing that we shall stop."""
_FIRST_WAIT, _LONGEST_WAIT = 0.2, 10.0
"""Seconds between attempts while the offline store is away."""
_ASK_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class OfflineArchiverSettings:
    """When collected records are written: after ``seconds``, or ``rows`` of them, or ``megabytes``.

    Each write makes a file for each day that it touches, and a version of the table: a few seconds are a compromise
    between how late the store is and how many small files wait for compaction.
    """

    seconds: float = 10.0
    rows: int = 10_000
    megabytes: int = 64


class OfflineArchiverMetrics:
    """Metrics, in a registry of the caller's. Table is ``verdicts``, ``labels`` or ``dead_letters``."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def counter(name: str, text: str) -> Counter:
            return Counter(f"tidegate_offline_{name}", text, ["table"], registry=registry)

        def gauge(name: str, text: str) -> Gauge:
            return Gauge(f"tidegate_offline_{name}", text, ["table"], registry=registry)

        self.rows = counter("rows", "Rows written to the offline store")
        self.repeated = counter("repeated", "Records not written because the table held them already")
        self.strangers = counter("strangers", "Records of the topic that can not be read")
        self.lost = counter("lost", "Records that the topic no longer had when they were to be read")
        self.version = gauge("version", "Version of the table after the last write")
        self.failures = Counter(
            "tidegate_offline_failures", "Calls that the offline store did not take", registry=registry
        )
        self.kafka_errors = Counter(
            "tidegate_offline_kafka_errors", "Errors of Kafka that passed", registry=registry
        )
        self.waiting = Gauge(
            "tidegate_offline_waiting", "1 while waiting for the offline store", registry=registry
        )
        self.behind = Gauge(
            "tidegate_offline_behind_seconds",
            "Age of the oldest record of the last write when it was in the table",
            registry=registry,
        )
        self.seconds = Histogram(
            "tidegate_offline_write_seconds", "Time of one write to a table", registry=registry
        )


def run_offline_archiver(
    kafka: KafkaConnection,
    pipeline: str,
    store: OfflineStore,
    stop: threading.Event,
    clock: Clock,
    *,
    settings: OfflineArchiverSettings | None = None,
    metrics: OfflineArchiverMetrics | None = None,
    leads: threading.Event | None = None,
    client_id: str = "tidegate-archiver-offline",
    at: Callable[[str], None] = lambda _: None,
) -> None:
    """Archive until ``stop`` is set; what was collected by then is written.

    ``leads`` is set while partition 0 of the verdicts is ours: one process of a deployment, for what only one should
    do. ``at`` hears each step (for fault tests).

    Raises Fatal when Kafka refuses us for good, StateMismatch when a log ends before what the store holds of it.
    """
    topics = Topics(pipeline)
    tables = {
        topics.verdicts: store.verdicts,
        topics.labels_joined: store.labels,
        topics.dead_letters: store.dead_letters,
    }
    consumer = Consumer(kafka.group_member(client_id, f"{pipeline}.archiver-offline"))
    archiver = OfflineArchiver(
        consumer,
        # a client for each question: they are few
        lambda topic: log_identity(AdminClient(kafka.client(f"{client_id}-admin")), topic),
        tables,
        stop,
        clock,
        settings or OfflineArchiverSettings(),
        metrics or OfflineArchiverMetrics(CollectorRegistry()),
        leads or threading.Event(),
        at,
    )
    try:
        consumer.subscribe(list(tables), on_assign=archiver.assigned, on_revoke=archiver.revoked)
        while not stop.is_set():
            archiver.step()
        archiver.write(attempts=1)
    finally:
        consumer.close()


@dataclass(slots=True)
class _Collected:
    """Records of one topic that wait to be written."""

    records: list[LogRecord] = field(default_factory=list)
    bytes: int = 0
    oldest: int = 0


class OfflineArchiver:
    """One step at a time; :func:`run_offline_archiver` drives it."""

    def __init__(
        self,
        consumer: Any,
        identify: Callable[[str], str],
        tables: dict[str, OfflineTable],
        stop: threading.Event,
        clock: Clock,
        settings: OfflineArchiverSettings,
        metrics: OfflineArchiverMetrics,
        leads: threading.Event,
        at: Callable[[str], None],
    ) -> None:
        self._consumer = consumer
        self._identify = identify
        self._tables = tables
        self._first = (next(iter(tables)), 0)
        self._stop = stop
        self._clock = clock
        self._settings = settings
        self._metrics = metrics
        self._leads = leads
        self._at = at
        self._logs: dict[str, str] = {}
        self._collected = {topic: _Collected() for topic in tables}
        self._since: float | None = None
        self._paused = False

    def step(self) -> None:
        """Take what is there (waiting a moment when nothing is); write when it is time."""
        first = self._consumer.poll(_POLL_SECONDS)
        if first is not None:
            self._at("received")
            self._collect([first, *self._consumer.consume(self._settings.rows, 0)])
        if self._due():
            self.write()

    def write(self, *, attempts: int | None = None) -> None:
        """Write what is collected, then tell Kafka. Tries until it works or we shall stop."""
        wait, tried = _FIRST_WAIT, 0
        while self._since is not None:
            try:
                self._write()
            except Retriable as error:
                tried += 1
                self._refused(error, wait)
                if tried == attempts or not self._wait(wait):
                    return  # not lost: the tables say where to go on
                wait = min(2 * wait, _LONGEST_WAIT)
            else:
                self._working()
                return

    def assigned(self, _: Any, partitions: Sequence[TopicPartition]) -> None:
        """Partitions come to us: read them from where the tables end."""
        wait = _FIRST_WAIT
        while not self._stop.is_set():
            try:
                places = [self._place(p.topic, p.partition) for p in partitions]
            except Retriable as error:
                self._refused(error, wait)
                self._stop.wait(wait)
                wait = min(2 * wait, _LONGEST_WAIT)
            else:
                self._working()
                self._consumer.incremental_assign(places)
                if self._first in {(p.topic, p.partition) for p in partitions}:
                    self._leads.set()
                return

    def revoked(self, _: Any, partitions: Sequence[TopicPartition]) -> None:
        """Partitions go: whoever gets them reads from where the tables end, so what is collected of them is dropped."""
        gone = {(p.topic, p.partition) for p in partitions}
        if self._first in gone:
            self._leads.clear()
        for topic, collected in self._collected.items():
            collected.records = [r for r in collected.records if (topic, r.partition) not in gone]
        if not any(collected.records for collected in self._collected.values()):
            self._clear()

    def _place(self, topic: str, partition: int) -> TopicPartition:
        """Where to read that partition from. Raises Retriable, StateMismatch."""
        if topic not in self._logs:
            self._logs[topic] = self._identify(topic)
        held = self._tables[topic].position(self._logs[topic], partition)
        if held is None:
            return TopicPartition(topic, partition, OFFSET_BEGINNING)
        try:
            first, end = self._consumer.get_watermark_offsets(
                TopicPartition(topic, partition), timeout=_ASK_SECONDS, cached=False
            )
        except KafkaException as error:
            raise Retriable(
                f"Kafka did not say where {topic}[{partition}] begins and ends: {error.args[0]}",
                remedy="check the connection to Kafka",
            ) from error
        if held >= end:
            raise StateMismatch(
                f"{topic}[{partition}] ends at {end}, but the offline store holds it up to {held}",
                remedy="the log has lost records (an unclean leader election, a restored copy): set "
                "TIDEGATE_OFFLINE_URL to another place, or restore the log",
            )
        if first > held + 1:
            self._metrics.lost.labels(self._tables[topic].kind.name).inc(first - held - 1)
            log.error(
                "offline_store_misses_records",
                topic=topic,
                partition=partition,
                offsets=f"{held + 1} to {first - 1}",
                remedy="the topic's retention was shorter than the archiver's pause: lengthen it",
            )
        return TopicPartition(topic, partition, held + 1)

    def _collect(self, messages: Sequence[Any]) -> None:
        for message in messages:
            error = message.error()
            if error is None:
                self._keep(message)
            elif error.fatal() or error.code() in _REFUSED:
                raise Fatal(
                    f"Kafka refuses the archiver of the offline store: {error}",
                    remedy="check its Kafka user, and the rights on topics and group "
                    "<pipeline>.archiver-offline",
                )
            else:
                self._metrics.kafka_errors.inc()
                log.warning("kafka_error", process="archiver-offline", error=str(error))

    def _keep(self, message: Any) -> None:
        collected = self._collected[message.topic()]
        letters = self._tables[message.topic()].kind is DEAD_LETTERS
        value = _letter(message) if letters else message.value() or b""
        if not collected.records:
            collected.oldest = message.timestamp()[1] * 1_000
        collected.records.append(LogRecord(message.partition(), message.offset(), value))
        collected.bytes += len(value)
        if self._since is None:
            self._since = self._clock.monotonic()

    def _due(self) -> bool:
        if self._since is None:
            return False
        return (
            self._clock.monotonic() - self._since >= self._settings.seconds
            or sum(len(c.records) for c in self._collected.values()) >= self._settings.rows
            or sum(c.bytes for c in self._collected.values()) >= self._settings.megabytes << 20
        )

    def _write(self) -> None:
        self._at("before")
        for topic, collected in self._collected.items():
            if not collected.records:
                continue
            table = self._tables[topic]
            with self._metrics.seconds.time():
                done = table.append(collected.records, self._logs[topic])
            name = table.kind.name
            self._metrics.rows.labels(name).inc(done.written)
            self._metrics.repeated.labels(name).inc(done.repeated)
            self._metrics.strangers.labels(name).inc(done.strangers)
            self._metrics.version.labels(name).set(done.version)
            self._metrics.behind.set(max(0.0, (self._clock.now() - collected.oldest) / 1e6))
            if done.strangers:
                log.error(
                    "not_readable",
                    topic=topic,
                    records=done.strangers,
                    remedy="let nobody but Tidegate's processes write to this topic",
                )
            self._at(f"appended {name}")
        self._commit()
        self._at("committed")
        self._clear()

    def _commit(self) -> None:
        ends: dict[tuple[str, int], int] = {}
        for topic, collected in self._collected.items():
            for record in collected.records:
                ends[topic, record.partition] = record.offset + 1
        ours = {(p.topic, p.partition) for p in self._consumer.assignment()}
        offsets = [TopicPartition(t, p, end) for (t, p), end in ends.items() if (t, p) in ours]
        if offsets:
            try:
                self._consumer.commit(offsets=offsets, asynchronous=False)
            except KafkaException as error:
                # a hint only; the next commit covers it
                self._metrics.kafka_errors.inc()
                log.warning("commit_failed", process="archiver-offline", error=str(error))

    def _clear(self) -> None:
        for topic in self._collected:
            self._collected[topic] = _Collected()
        self._since = None

    def _refused(self, error: Retriable, wait: float) -> None:
        self._metrics.failures.inc()
        self._metrics.waiting.set(1)
        log.warning("offline_store_away", error=str(error), retry_seconds=wait)

    def _working(self) -> None:
        self._metrics.waiting.set(0)
        if self._paused:
            self._paused = False
            self._consumer.resume(self._consumer.assignment())

    def _wait(self, seconds: float) -> bool:
        """Stay in the group for ``seconds`` without fetching; False when told to stop."""
        until = self._clock.monotonic() + seconds
        while not self._stop.is_set():
            # again each time: partitions that a rebalance brings are not paused
            self._paused = True
            self._consumer.pause(self._consumer.assignment())
            message = self._consumer.poll(_POLL_SECONDS)
            if message is not None:
                self._collect([message])
            if self._clock.monotonic() >= until:
                return True
        return False


def _letter(message: Any) -> bytes:
    """What the table keeps of a dead letter; its headers may be anybody's."""
    headers = dict(message.headers() or [])

    def text(name: str) -> str | None:
        value = headers.get(name)
        return value.decode(errors="replace") if isinstance(value, bytes) else None

    return msgspec.json.encode(
        {
            "reason": text(HEADER_REASON) or "unknown",
            "field": text(HEADER_FIELD),
            "received_at": message.timestamp()[1] * 1_000,
        }
    )


_REFUSED = frozenset(
    {
        KafkaError.TOPIC_AUTHORIZATION_FAILED,
        KafkaError.GROUP_AUTHORIZATION_FAILED,
        KafkaError.SASL_AUTHENTICATION_FAILED,
    }
)
