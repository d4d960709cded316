"""The drift monitor: committed verdicts and joined labels in, alarms to ``drift`` exactly once.

State, alarms and the offsets they follow from are one transaction: the state lies in the compacted topic
``drift.state`` as one record, and names the offsets up to which it has counted. Whoever starts reads the newest
record and goes on there, so an alarm is told once, whatever is killed. The record is bounded (bins, cells and columns,
not traffic); the report for the API goes to Redis after the commit and can be lost without harm.

Drift is about all partitions together, so one process monitors and others stand by: the group
``<pipeline>.monitor.lock`` gives the one partition of ``drift`` to one of them. Should two think it is theirs, the
transactional id fences the older.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import msgspec
import structlog
from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, TopicPartition

from domain.clock import Clock
from domain.drift_record import DriftAlarm, DriftState
from domain.errors import Fatal, Retriable, StoreUnavailable
from domain.pipeline import Pipeline
from lifecycle.drift.pipeline import PipelineDrift
from lifecycle.drift.progress import Progress
from lifecycle.drift.report import report
from lifecycle.drift.settings import DriftSettings
from stream.kafka import KafkaConnection
from stream.log_reading import committed_records, ends, reader_conf
from stream.monitor_metrics import MonitorMetrics
from stream.monitor_records import BadRecord, MonitorCodec, VerdictRow
from stream.outbox import Fenced, Outbox, Outgoing
from stream.topics import MAX_MESSAGE_BYTES, Topics, partitions_of

__all__ = ["MonitorConfig", "MonitorParts", "run_monitor"]

log = structlog.get_logger(__name__)

BATCH = 2_000
"""Records looked at before event time is allowed to move on."""
_IDLE_SECONDS = 0.2
"""Longest wait for a record, and so for noticing that we shall stop or lead no more."""
_FIRST_PAUSE, _LONGEST_PAUSE = 0.2, 15.0
"""Seconds between sessions after an error, doubling."""
_STATE_KEY = b"monitor"


@dataclass(frozen=True, slots=True)
class MonitorConfig:
    """``commit_seconds``: how often the state is written while nothing alarms; an alarm is written at once."""

    commit_seconds: float = 10.0


def _nowhere(_: str) -> None:
    """Fault tests pass something else."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MonitorParts:
    """What the monitor is made of. ``publish`` takes the report (JSON of DriftState); may raise StoreUnavailable."""

    kafka: KafkaConnection
    pipeline: Pipeline
    settings: DriftSettings
    publish: Callable[[bytes], None]
    clock: Clock
    metrics: MonitorMetrics
    at: Callable[[str], None] = field(default=_nowhere)


class _Saved(msgspec.Struct, frozen=True):
    """Value of the state topic: by topic and partition the next offset and the newest time; the packed monitors."""

    offsets: dict[str, dict[int, int]]
    times: dict[str, dict[int, int]]
    monitors: bytes


def run_monitor(config: MonitorConfig, parts: MonitorParts, stop: threading.Event) -> None:
    """Monitor, or stand by, until ``stop`` is set. Raises Fatal when only a person can help."""
    pause = _FIRST_PAUSE
    with _Lock(parts) as lock:
        while not stop.is_set():
            if not lock.held(_IDLE_SECONDS):
                continue
            try:
                session = _Session(config, parts)
                try:
                    pause = _FIRST_PAUSE
                    while not stop.is_set() and lock.held(0.0):
                        session.step()
                    if lock.held(0.0):
                        session.commit()
                finally:
                    session.close()
            except (Retriable, Fenced) as error:
                # memory may be ahead of the log: the next session reads what is committed
                log.warning("starting afresh", process="monitor", error=str(error), pause=pause)
                stop.wait(pause)
                pause = min(2 * pause, _LONGEST_PAUSE)
            finally:
                parts.metrics.leading.set(0)


class _Lock:
    """Membership of the group that decides who monitors."""

    def __init__(self, parts: MonitorParts) -> None:
        self._topics = Topics(parts.pipeline.name)
        name = f"{parts.pipeline.name}.monitor.lock"
        # calibration takes minutes for hundreds of columns; the heartbeat goes on meanwhile
        conf = parts.kafka.reader(f"tidegate-{name}", name) | {"max.poll.interval.ms": 900_000}
        self._consumer = Consumer(conf)
        self._held = False

    def __enter__(self) -> _Lock:
        self._consumer.subscribe(
            [self._topics.drift], on_assign=self._given, on_revoke=self._taken, on_lost=self._taken
        )
        return self

    def __exit__(self, *_: object) -> None:
        self._consumer.close()

    def held(self, seconds: float) -> bool:
        """Whether we are to monitor; waits at most so long for news."""
        message = self._consumer.poll(seconds)
        if message is not None and (error := message.error()) is not None:
            log.warning("monitor lock", error=str(error))
            if error.fatal() or error.code() == KafkaError._MAX_POLL_EXCEEDED:
                self._held = False
        return self._held

    def _given(self, consumer: Any, partitions: list[TopicPartition]) -> None:
        consumer.assign(partitions)
        consumer.pause(partitions)
        self._held = any(place.partition == 0 for place in partitions)

    def _taken(self, consumer: Any, _: list[TopicPartition]) -> None:
        consumer.unassign()
        self._held = False


class _Session:
    """One time of monitoring: from the state in the log until an error, a stop, or another's turn."""

    def __init__(self, config: MonitorConfig, parts: MonitorParts) -> None:
        self._config = config
        self._parts = parts
        self._topics = Topics(parts.pipeline.name)
        self._codec = MonitorCodec(parts.pipeline)
        group = f"{parts.pipeline.name}.monitor"
        # fences whoever led before us and ends their open transaction, so that the state read below is the last
        self._outbox = Outbox(
            parts.kafka.transactional_producer(f"tidegate-{group}", f"tidegate-{group}"),
            self._topics.verdicts,
            parts.at,
        )
        conf = parts.kafka.reader(f"tidegate-{group}", group) | {"enable.partition.eof": True}
        self._consumer = Consumer(conf)
        try:
            self._drift = PipelineDrift(parts.pipeline, parts.settings)
            saved = self._restore()
            self._next = saved.offsets
            sources = (self._topics.verdicts, self._topics.labels_joined)
            counts = {topic: partitions_of(self._consumer, topic) for topic in sources}
            self._progress = {
                topic: Progress(range(count), saved.times.get(topic, {})) for topic, count in counts.items()
            }
            self._consumer.assign(
                [
                    TopicPartition(topic, number, self._next.get(topic, {}).get(number, OFFSET_BEGINNING))
                    for topic, count in counts.items()
                    for number in range(count)
                ]
            )
        except BaseException:
            self.close()
            raise
        self._dirty = False
        self._next_commit = parts.clock.monotonic()
        parts.metrics.leading.set(1)
        log.info("monitoring", pipeline=parts.pipeline.name, as_of=self._drift.as_of)
        self._tell()

    def _restore(self) -> _Saved:
        kafka, topic = self._parts.kafka, self._topics.drift_state
        group = f"{self._parts.pipeline.name}.monitor"
        newest: bytes | None = None
        with _reading(reader_conf(kafka, f"tidegate-{group}-state", group)) as consumer:
            span = ends(consumer, topic, 0)
            for message in committed_records(consumer, topic, {0: span}):
                newest = message.value() if message.key() == _STATE_KEY else newest
        if newest is None:
            return _Saved({}, {}, b"")
        saved = msgspec.msgpack.decode(newest, type=_Saved)
        try:
            self._drift.restore(saved.monitors)
        except ValueError as error:
            # the offsets stay: what is behind them was judged under another pipeline or other settings
            log.warning("monitors begin anew", reason=str(error))
            self._drift = PipelineDrift(self._parts.pipeline, self._parts.settings)
        return saved

    def step(self) -> None:
        """Read what is there (waiting a moment when nothing is), judge what is complete, write what is due."""
        first = self._consumer.poll(_IDLE_SECONDS)
        if first is not None:
            self._take([first, *self._consumer.consume(BATCH - 1, 0)])
        before = self._drift.as_of
        alarms = self._drift.close(*(progress.value() for progress in self._progress.values()))
        # that a partition ends tells something, too
        self._dirty = self._dirty or self._drift.as_of != before
        if alarms or (self._dirty and self._parts.clock.monotonic() >= self._next_commit):
            self.commit(alarms)

    def commit(self, alarms: list[DriftAlarm] | None = None) -> None:
        """Write state, offsets and ``alarms`` as one transaction, then tell everybody."""
        alarms = alarms or []
        if not self._dirty and not alarms:
            return
        times = {topic: progress.times for topic, progress in self._progress.items()}
        value = msgspec.msgpack.encode(_Saved(self._next, times, self._drift.snapshot()))
        if len(value) > MAX_MESSAGE_BYTES - 1024:
            raise Fatal(
                f"the drift state has {len(value):,} bytes, more than a record may have",
                remedy="shorten the reference (TIDEGATE_DRIFT_REFERENCE_DAYS), or declare fewer features",
            )
        outgoing = Outgoing()
        for alarm in alarms:
            record = msgspec.json.encode(alarm)
            outgoing.others.append((self._topics.drift, 0, alarm.id.encode(), record, []))
        outgoing.others.append((self._topics.drift_state, 0, _STATE_KEY, value, []))
        offsets = [
            TopicPartition(topic, partition, offset)
            for topic, own in self._next.items()
            for partition, offset in own.items()
        ]
        try:
            self._outbox.send(outgoing, offsets, self._consumer.consumer_group_metadata())
        except Retriable:
            self._parts.metrics.transactions.labels("failed").inc()
            raise
        self._parts.metrics.transactions.labels("committed").inc()
        self._dirty = False
        self._next_commit = self._parts.clock.monotonic() + self._config.commit_seconds
        for alarm in alarms:
            self._parts.metrics.raised(alarm)
            log.warning("drift", id=alarm.id, column=alarm.column, text=alarm.text)
        self._tell()

    def close(self) -> None:
        """Drop what is not committed."""
        self._consumer.close()
        self._outbox.close()

    def _tell(self) -> None:
        state: DriftState = report(self._drift, self._parts.clock.now())
        self._parts.metrics.show(state)
        try:
            self._parts.publish(msgspec.json.encode(state))
        except StoreUnavailable as error:
            # the next commit brings it
            self._parts.metrics.report_failures.inc()
            log.warning("drift report not written", error=str(error))

    def _take(self, messages: list[Any]) -> None:
        rows: list[VerdictRow] = []
        labels = []
        metrics = self._parts.metrics
        for message in messages:
            topic, partition = message.topic(), message.partition()
            if (error := message.error()) is not None:
                if error.code() == KafkaError._PARTITION_EOF:
                    self._progress[topic].at_end(partition)
                    continue
                raise Retriable(f"reading {topic}: {error}", remedy="check the connection to Kafka")
            self._dirty = True
            self._next.setdefault(topic, {})[partition] = message.offset() + 1
            value = message.value() or b""
            try:
                if topic == self._topics.verdicts:
                    row = self._codec.verdict(value)
                    self._progress[topic].seen(partition, row.event_time)
                    rows.append(row)
                else:
                    label = self._codec.label(value)
                    self._progress[topic].seen(partition, label.known_at)
                    labels.append(label)
            except BadRecord as error:
                metrics.skipped.labels("unreadable").inc()
                log.error(
                    "not readable", topic=topic, partition=partition, offset=message.offset(), why=str(error)
                )
        counted = [row for row in rows if self._codec.counts(row)]
        metrics.skipped.labels("other_pipeline_or_duplicate").inc(len(rows) - len(counted))
        metrics.verdicts.inc(len(counted))
        metrics.labels.inc(len(labels))
        if counted:
            self._drift.verdicts(*self._codec.columns(counted))
        self._drift.labels(labels)


@contextmanager
def _reading(conf: dict[str, Any]) -> Iterator[Any]:
    consumer = Consumer(conf)
    try:
        yield consumer
    except KafkaException as error:
        raise Retriable(f"reading the drift state: {error.args[0]}", remedy="check Kafka") from error
    finally:
        consumer.close()
