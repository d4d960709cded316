"""The archiver: committed verdicts from the topic into the store of recent ones.

At least once, and the store is idempotent, so each verdict is there once: offsets are committed after the
write, never before. While the store is away the archiver waits and keeps its place in the group.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any, Literal, Protocol

import structlog
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from domain.clock import Clock
from domain.errors import Fatal, Retriable
from featurestore.hot_verdicts_port import BadVerdictError, HotVerdicts, record_of
from stream.topics import Topics

__all__ = ["ArchiverMetrics", "run_archiver"]

_LOG = structlog.get_logger(__name__)

BATCH = 1000
"""Verdicts per write: two script calls, about 1.5 MB."""
_IDLE_SECONDS = 0.5
"""Longest wait for a first verdict, and so for noticing that we shall stop."""
_FIRST_WAIT, _LONGEST_WAIT = 0.1, 5.0
"""Seconds between attempts while the store is away: doubling, so that a restarted Redis is not hammered."""
_KEEPALIVE = 0.2
"""Seconds between polls while waiting; anything below max.poll.interval.ms keeps our place in the group."""


class _Consumer(Protocol):
    """What we use of confluent_kafka.Consumer."""

    def poll(self, timeout: float) -> Message[Any, Any] | None: ...
    def consume(self, num_messages: int, timeout: float) -> list[Message[Any, Any]]: ...
    def commit(self, *, offsets: list[TopicPartition], asynchronous: Literal[False]) -> Any: ...
    def assignment(self) -> list[TopicPartition]: ...
    def pause(self, partitions: list[TopicPartition]) -> None: ...
    def resume(self, partitions: list[TopicPartition]) -> None: ...


class ArchiverMetrics:
    """The archiver's metrics, in a registry of the caller's."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.stored = Counter(
            "tidegate_archiver_verdicts", "Verdicts written to the hot store", registry=registry
        )
        self.skipped = Counter(
            "tidegate_archiver_skipped", "Records of the topic that are no verdict", registry=registry
        )
        self.failures = Counter(
            "tidegate_archiver_store_failures", "Writes that the hot store did not take", registry=registry
        )
        self.kafka_errors = Counter(
            "tidegate_archiver_kafka_errors",
            "Errors of Kafka that passed",
            registry=registry,
        )
        self.waiting = Gauge(
            "tidegate_archiver_waiting", "1 while waiting for the hot store", registry=registry
        )
        self.behind = Gauge(
            "tidegate_archiver_behind_seconds",
            "Age of the newest verdict of the last batch when it was written",
            registry=registry,
        )
        self.seconds = Histogram(
            "tidegate_archiver_write_seconds", "Time of one write to the hot store", registry=registry
        )


def run_archiver(
    consumer_config: dict[str, Any],
    pipeline: str,
    hot: HotVerdicts,
    stop: threading.Event,
    clock: Clock,
    *,
    metrics: ArchiverMetrics | None = None,
) -> None:
    """Archive verdicts of the pipeline called ``pipeline`` until ``stop`` is set, then leave within 5 s.

    ``consumer_config`` says where Kafka is (bootstrap.servers, security); isolation, group and commits are
    set here. ``hot``'s time-outs should be at most 2 s, as a call can not be interrupted. Raises Fatal when
    Kafka refuses us for good.
    """
    topics = Topics(pipeline)
    consumer = Consumer(
        {
            **consumer_config,
            "group.id": f"{pipeline}.archiver",
            "isolation.level": "read_committed",
            "enable.auto.commit": False,
            "auto.offset.reset": "earliest",
        }
    )
    try:
        consumer.subscribe([topics.verdicts])
        archiver = Archiver(consumer, hot, stop, clock, metrics or ArchiverMetrics(CollectorRegistry()))
        while not stop.is_set():
            archiver.step()
    finally:
        consumer.close()


class Archiver:
    """One batch at a time; ``run_archiver`` drives it."""

    def __init__(
        self,
        consumer: _Consumer,
        hot: HotVerdicts,
        stop: threading.Event,
        clock: Clock,
        metrics: ArchiverMetrics,
    ) -> None:
        self._consumer = consumer
        self._hot = hot
        self._stop = stop
        self._clock = clock
        self._metrics = metrics

    def step(self) -> None:
        """Take what is there (waiting a moment when nothing is), write it, commit it."""
        first = self._consumer.poll(_IDLE_SECONDS)
        if first is None:
            return
        # consume() with a time-out would wait all of it unless the batch fills up
        batch = self._good([first, *self._consumer.consume(BATCH - 1, 0)])
        if batch and self._write(batch):
            self._commit(batch)

    def _good(self, messages: Sequence[Message[Any, Any]]) -> list[Message[Any, Any]]:
        good = []
        for message in messages:
            error = message.error()
            if error is None:
                good.append(message)
            elif error.fatal() or error.code() in _REFUSED:
                raise Fatal(
                    f"Kafka refuses the archiver: {error}",
                    remedy="check the archiver's Kafka user, its rights on the topic and on its group",
                )
            else:
                self._metrics.kafka_errors.inc()
                _LOG.warning("kafka_error", process="archiver", error=str(error))
        return good

    def _write(self, batch: list[Message[Any, Any]]) -> bool:
        """Write until it works; False when told to stop first. ``batch`` grows when partitions come to us."""
        wait = _FIRST_WAIT
        while True:
            try:
                self._put(batch)
            except Retriable as error:
                self._metrics.failures.inc()
                self._metrics.waiting.set(1)
                _LOG.warning("hot_store_away", error=str(error), retry_seconds=wait)
                if not self._wait(wait, batch):
                    return False
                wait = min(2 * wait, _LONGEST_WAIT)
            else:
                self._metrics.waiting.set(0)
                self._consumer.resume(self._consumer.assignment())
                return True

    def _put(self, batch: Sequence[Message[Any, Any]]) -> None:
        values = [message.value() or b"" for message in batch]
        with self._metrics.seconds.time():
            try:
                self._hot.put_many(values)
            except BadVerdictError:
                values = self._without_strangers(batch)
                self._hot.put_many(values)
        self._metrics.stored.inc(len(values))
        if values:
            self._metrics.behind.set((self._clock.now() - record_of(values[-1]).scored_at) / 1e6)

    def _without_strangers(self, batch: Sequence[Message[Any, Any]]) -> list[bytes]:
        kept = []
        for message in batch:
            value = message.value() or b""
            try:
                record_of(value)
            except BadVerdictError as error:
                self._metrics.skipped.inc()
                _LOG.error(
                    "not_a_verdict",
                    partition=message.partition(),
                    offset=message.offset(),
                    remedy=error.remedy,
                )
            else:
                kept.append(value)
        return kept

    def _wait(self, seconds: float, batch: list[Message[Any, Any]]) -> bool:
        """Stay in the group for ``seconds`` without fetching; False when told to stop."""
        until = self._clock.monotonic() + seconds
        while not self._stop.is_set():
            # again each time: partitions that a rebalance brings are not paused
            self._consumer.pause(self._consumer.assignment())
            message = self._consumer.poll(_KEEPALIVE)
            if message is not None:
                batch += self._good([message])
            if self._clock.monotonic() >= until:
                return True
        return False

    def _commit(self, batch: Sequence[Message[Any, Any]]) -> None:
        ours = {(p.topic, p.partition) for p in self._consumer.assignment()}
        ends: dict[tuple[str, int], int] = {}
        for message in batch:
            where = (str(message.topic()), int(message.partition() or 0))
            ends[where] = max(ends.get(where, 0), int(message.offset() or 0) + 1)
        # what a rebalance took away is the new owner's to commit; it writes the same verdicts again
        offsets = [TopicPartition(t, p, end) for (t, p), end in ends.items() if (t, p) in ours]
        if not offsets:
            return
        try:
            self._consumer.commit(offsets=offsets, asynchronous=False)
        except KafkaException as error:
            # the next commit covers it; until then a restart writes a few verdicts again
            self._metrics.kafka_errors.inc()
            _LOG.warning("commit_failed", process="archiver", error=str(error))


_REFUSED = frozenset(
    {
        KafkaError.TOPIC_AUTHORIZATION_FAILED,
        KafkaError.GROUP_AUTHORIZATION_FAILED,
        KafkaError.SASL_AUTHENTICATION_FAILED,
    }
)
