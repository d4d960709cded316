"""The trainer: drift alarms, the schedule and people in, models trained, proven, promoted and guarded.

What it decides is :mod:`lifecycle.loop_steps`; here are the topics. Any number of trainers may run: the registry's
lease gives the open run to one of them. Nothing is kept but in the registry: where live verdicts are to be read from
stands in the run, and alarms are read from their beginning, as they are few.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec
import structlog
from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition
from prometheus_client import CollectorRegistry, Counter, Gauge

from domain.errors import Retriable
from lifecycle.live import Seen, decode_seen
from lifecycle.loop_parts import LoopParts
from lifecycle.loop_steps import ClosedLoop
from lifecycle.loop_triggers import Alarm, Triggers
from lifecycle.matured_watch import watch_matured
from stream.kafka import KafkaConnection
from stream.log_reading import ends
from stream.topics import Topics, partitions_of

__all__ = ["TopicAlarms", "TopicVerdicts", "TrainerMetrics", "run_trainer"]

_LOG = structlog.get_logger(__name__)

_IDLE_SECONDS = 0.5
"""Between two looks while nothing happens; a guard acts on evidence within about this."""
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 30.0
"""Seconds between attempts while Kafka, the registry or the offline store are away, doubling."""
_BATCH = 10_000
"""Verdicts taken in at once, so that a tick stays short while a backlog is read."""
_LOOK_BACK = 200
"""Records before the end at which reading begins: enough to know what time it is in the stream."""
_HOUR = 3_600_000_000
"""Of stream time, between two looks at matured labels: they come slowly, and the look reads days of events."""


class TrainerMetrics:
    """The trainer's metrics, in a registry of the caller's."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.steps = Counter("tidegate_trainer_steps", "Steps of training runs done", registry=registry)
        self.asked = Counter(
            "tidegate_trainer_requests", "Trainings asked for, by trigger", ["trigger"], registry=registry
        )
        self.errors = Counter("tidegate_trainer_errors", "Errors that passed", registry=registry)
        self.waiting = Gauge(
            "tidegate_trainer_waiting", "1 while the open run waits for something", registry=registry
        )
        self.stream_time = Gauge(
            "tidegate_trainer_stream_seconds", "Newest event time seen, seconds since 1970", registry=registry
        )


class _Follower:
    """A consumer outside of any group, which knows the offset it reads next in each partition."""

    def __init__(self, kafka: KafkaConnection, topic: str, name: str) -> None:
        self._topic = topic
        self._consumer = Consumer(kafka.reader(name, name))
        self._partitions = partitions_of(self._consumer, topic)
        self._next: dict[int, int] = {}

    def _from(self, offsets: Mapping[int, int]) -> None:
        self._next = dict(offsets)
        self._consumer.assign([TopicPartition(self._topic, p, o) for p, o in sorted(self._next.items())])

    def _records(self, most: int) -> list[Any]:
        """What has arrived, without waiting. Raises Retriable."""
        try:
            messages: list[Any] = self._consumer.consume(most, 0.05)
        except KafkaException as away:
            raise Retriable(
                f"Kafka did not give records of {self._topic}: {away.args[0]}", remedy="check Kafka"
            ) from away
        good = []
        for message in messages:
            error = message.error()
            if error is None:
                self._next[message.partition()] = message.offset() + 1
                good.append(message)
            elif error.fatal() or error.code() == KafkaError.TOPIC_AUTHORIZATION_FAILED:
                raise Retriable(
                    f"{self._topic} can not be read: {error}", remedy="check Kafka and our rights"
                )
        return good

    def close(self) -> None:
        """Leave Kafka."""
        self._consumer.close()


class TopicVerdicts(_Follower):
    """:class:`lifecycle.loop_parts.LiveVerdicts` on the topic ``verdicts``, from shortly before its end on."""

    def __init__(self, kafka: KafkaConnection, pipeline: str, name: str) -> None:
        super().__init__(kafka, Topics(pipeline).verdicts, f"{name}-verdicts")
        spans = {p: ends(self._consumer, self._topic, p) for p in range(self._partitions)}
        self._from({p: max(first, end - _LOOK_BACK) for p, (first, end) in spans.items()})

    def position(self) -> dict[str, int]:
        """See the port."""
        return {str(partition): offset for partition, offset in self._next.items()}

    def rewind(self, position: Mapping[str, int]) -> None:
        """See the port; a partition that the position does not know begins at its first record."""
        self._from({p: position.get(str(p), 0) for p in range(self._partitions)})

    def read(self) -> Sequence[Seen]:
        """See the port."""
        found = (decode_seen(message.value()) for message in self._records(_BATCH))
        return [seen for seen in found if seen is not None]


class _AlarmRecord(msgspec.Struct, frozen=True):
    """What is needed of :class:`domain.drift_record.DriftAlarm`."""

    type: str
    id: str
    column: str
    since: int
    raised_at: int


class TopicAlarms(_Follower):
    """The alarms of the topic ``drift``, all of them from the first on."""

    def __init__(self, kafka: KafkaConnection, pipeline: str, name: str) -> None:
        super().__init__(kafka, Topics(pipeline).drift, f"{name}-drift")
        self._from({p: ends(self._consumer, self._topic, p)[0] for p in range(self._partitions)})
        self._decode = msgspec.json.Decoder(_AlarmRecord).decode

    def read(self) -> list[Alarm]:
        """New ones; records of other types are left out."""
        found = []
        for message in self._records(_BATCH):
            try:
                record = self._decode(message.value() or b"")
            except (msgspec.DecodeError, UnicodeError):
                continue
            if record.type == "alarm":
                found.append(Alarm(record.id, record.column, record.since, record.raised_at))
        return found


def run_trainer(
    parts: LoopParts,
    alarms: Callable[[], Sequence[Alarm]],
    stop: threading.Event,
    metrics: TrainerMetrics,
) -> None:
    """Carry the loop on until ``stop`` is set. Raises Fatal when only a person can help."""
    loop = ClosedLoop(parts)
    triggers = Triggers(parts.registry, parts.rules, f"trainer {parts.owner}")
    looked, pause = 0, _FIRST_PAUSE
    while not stop.is_set():
        try:
            for alarm in alarms():
                _LOG.info("drift alarm", id=alarm.id, column=alarm.column)
                triggers.alarm(alarm)
            loop.changed_since = triggers.changed_since()
            went_on = loop.tick()
            if loop.now is not None:
                metrics.stream_time.set(loop.now / 1e6)
                asked = triggers.tick(loop.now)
                if asked is not None:
                    metrics.asked.labels(asked.trigger).inc()
                    _LOG.info("training asked for", run=asked.id, trigger=asked.trigger)
                    went_on = True
                if loop.now - looked >= _HOUR:
                    looked = loop.now
                    watch_matured(
                        parts.pipeline,
                        parts.rules,
                        parts.registry,
                        parts.rows,
                        now=loop.now,
                        by=f"trainer {parts.owner}",
                    )
            pause = _FIRST_PAUSE
        except Retriable as error:
            metrics.errors.inc()
            _LOG.warning("trying again", process="trainer", error=str(error), pause=pause)
            stop.wait(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)
            continue
        metrics.waiting.set(bool(loop.waiting))
        if went_on:
            metrics.steps.inc()
        else:
            stop.wait(_IDLE_SECONDS)
