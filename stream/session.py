"""One life of a worker's Kafka clients: from joining the group until leaving it or until an outcome is unknown.

A micro-batch goes: records -> events and dead letters -> features and scores -> one transaction -> (commit) ->
later, state to the store. Nothing that is not committed reaches the store (promise P2), and whatever goes
wrong in between, the partition's state is dropped and recovered from store and log (``stream.recovery``).
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
import structlog
from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from domain.clock import Clock
from domain.codec import EventCodec
from domain.errors import Fatal, Retriable, StateFenced, StoreUnavailable
from domain.pipeline import Pipeline
from featurestore.ports import StateStore
from featurestore.tables import FeatureTables
from scoring.engine import PartitionScorer
from scoring.scored import ScoredBatch, flags_of
from scoring.verdicts import VerdictEncoder
from stream.dead_letters import dead_letter, reply_body
from stream.decoding import Decoded, decode_messages
from stream.kafka import KafkaConnection
from stream.outbox import Headers, Outbox, Outgoing, TransactionAborted
from stream.recovery import Recovery
from stream.task import PartitionTask
from stream.topics import (
    HEADER_REPLY_PARTITION,
    HEADER_REQUEST_ID,
    HEADER_TRACEPARENT,
    Topics,
    partitions_of,
)
from stream.worker_metrics import WorkerMetrics

__all__ = ["Session", "WorkerConfig", "WorkerParts"]

log = structlog.get_logger(__name__)

KAFKA_SECONDS = 30.0
"""For questions to the group coordinator; longer than a broker's restart takes."""
MAX_TAG_BYTES = 128
"""Longest request id (ours have 32 bytes) and traceparent (55) passed on: other people's headers may be huge."""
IDLE_SECONDS = 0.05
"""How long a poll waits for the first record: bounds how late flushes and the stop signal are noticed."""


@dataclass(frozen=True, slots=True)
class WorkerConfig:
    """Settings of a worker; durations in seconds."""

    worker_id: str
    max_batch: int = 1_000
    max_entities: int = 200_000
    flush_seconds: float = 0.2
    snapshot_seconds: float = 10.0
    report_seconds: float = 2.0


@dataclass(frozen=True, slots=True)
class WorkerParts:
    """The ports and helpers a worker is made of."""

    kafka: KafkaConnection
    pipeline: Pipeline
    codec: EventCodec
    encoder: VerdictEncoder
    store: StateStore
    publish_report: Callable[[bytes], None]
    clock: Clock
    metrics: WorkerMetrics
    at: Callable[[str], None]


@dataclass(slots=True)
class _Part:
    """The records of one partition in a micro-batch, on their way through the stages."""

    task: PartitionTask
    messages: list[Any]
    decoded: Decoded


class Session:
    """Group membership, transactional producer and partition tasks; see the module's docstring."""

    def __init__(self, config: WorkerConfig, parts: WorkerParts) -> None:
        self._config = config
        self._parts = parts
        self._topics = Topics(parts.pipeline.name)
        client_id = f"tidegate-{parts.pipeline.name}-{config.worker_id}"
        self._outbox = Outbox(
            parts.kafka.transactional_producer(client_id, client_id), self._topics.verdicts, parts.at
        )
        self._consumer = Consumer(parts.kafka.group_member(client_id, f"{parts.pipeline.name}.worker"))
        partitions = partitions_of(self._consumer, self._topics.events)
        if partitions_of(self._consumer, self._topics.verdicts) != partitions:
            raise Fatal(
                f"{self._topics.verdicts} has not as many partitions as {self._topics.events}",
                remedy="create it with `tidegate topics create`, or add partitions before the first event",
            )
        self._reply_partitions = partitions_of(self._consumer, self._topics.replies)
        self._tables = FeatureTables(parts.pipeline, partitions=partitions, max_entities=config.max_entities)
        self._recovery = Recovery(parts.kafka, parts.pipeline, parts.codec, parts.store)
        self._tasks: dict[int, PartitionTask] = {}
        now = parts.clock.monotonic()
        self._next_flush = now + config.flush_seconds
        self._next_snapshot = now + config.snapshot_seconds
        self._next_report = now
        self._consumer.subscribe(
            [self._topics.events], on_assign=self._assigned, on_revoke=self._revoked, on_lost=self._lost
        )

    def run(self, stop: threading.Event) -> None:
        """Score until ``stop`` is set. Raises Retriable when everything has to start afresh, or Fatal."""
        while not stop.is_set():
            messages = self._poll()
            if messages:
                try:
                    self._handle(messages)
                except TransactionAborted as error:
                    log.warning("transaction aborted", error=str(error))
                    self._parts.metrics.transactions.labels("aborted").inc()
                    self._recover_all()
                    stop.wait(IDLE_SECONDS)
                except StoreUnavailable as error:
                    self._wait_for_store(error, stop)
            self._housekeeping(stop)

    def close(self) -> None:
        """Write what is committed, leave the group, drop the producer."""
        try:
            self._consumer.close()  # calls _revoked
        except KafkaException as error:
            log.warning("leaving the group failed", error=str(error))
        finally:
            self._outbox.close()

    # -- records in

    def _poll(self) -> list[Any]:
        first = self._consumer.poll(IDLE_SECONDS)
        if first is None:
            return []
        messages = [first]
        if self._config.max_batch > 1:
            messages += self._consumer.consume(self._config.max_batch - 1, 0)
        good = []
        for message in messages:
            error = message.error()
            if error is None:
                good.append(message)
            elif error.code() == KafkaError._MAX_POLL_EXCEEDED or error.fatal():
                raise Retriable(f"reading events: {error}", remedy="none needed; the worker joins again")
            else:
                log.warning("reading events", error=str(error))
        return good

    def _handle(self, messages: list[Any]) -> None:
        parts = self._decode(messages)
        if not parts:
            return
        clock, metrics = self._parts.clock, self._parts.metrics
        started = clock.monotonic()
        batches = []
        requests = []
        for part in parts:
            batch = self._parts.codec.to_batch(
                part.decoded.events, [part.messages[i].offset() for i in part.decoded.accepted]
            )
            batches.append(batch)
            requests += part.task.scorer.requests(batch)
        decoded_at = clock.monotonic()
        if requests:
            # nothing has changed yet: when the store is away, the batch is simply read again
            self._tables.load(requests, self._parts.store.load_entities(requests))
        loaded_at = clock.monotonic()
        outgoing = Outgoing()
        scored_batches = []
        for part, batch in zip(parts, batches, strict=True):
            if len(batch):
                part.task.ahead = True
                scored = part.task.scorer.process(batch, loaded=True, degraded=part.task.incomplete)
                scored_batches.append(scored)
                self._write_verdicts(part, scored, outgoing)
            self._write_dead_letters(part, outgoing)
        scored_at = clock.monotonic()
        offsets = [
            TopicPartition(self._topics.events, part.task.partition, part.messages[-1].offset() + 1)
            for part in parts
        ]
        ends = self._outbox.send(outgoing, offsets, self._consumer.consumer_group_metadata())
        committed_at = clock.monotonic()
        for part, position in zip(parts, offsets, strict=True):
            part.task.next_offset = position.offset
            part.task.ahead = False
            part.task.verdict_position = ends.get(part.task.partition, part.task.verdict_position)
        for stage, begin, end in (
            ("decode", started, decoded_at),
            ("load", decoded_at, loaded_at),
            ("score", loaded_at, scored_at),
            ("commit", scored_at, committed_at),
        ):
            metrics.stage_seconds.labels(stage).inc(end - begin)
        self._count(parts, scored_batches)

    def _decode(self, messages: list[Any]) -> list[_Part]:
        started = self._parts.clock.monotonic()
        by_partition: dict[int, list[Any]] = {}
        for message in messages:
            by_partition.setdefault(message.partition(), []).append(message)
        parts = []
        for partition, records in sorted(by_partition.items()):
            task = self._tasks.get(partition)
            if task is None:
                continue  # revoked between fetch and now; its new owner reads them
            # after a seek, records fetched before it may still come out of the queue
            fresh = [m for m in records if m.offset() >= task.next_offset]
            if fresh:
                parts.append(_Part(task, fresh, decode_messages(self._parts.codec, fresh)))
        self._parts.metrics.stage_seconds.labels("decode").inc(self._parts.clock.monotonic() - started)
        return parts

    # -- records out

    def _write_verdicts(self, part: _Part, scored: ScoredBatch, outgoing: Outgoing) -> None:
        encoder, partition = self._parts.encoder, part.task.partition
        now = self._parts.clock.now()
        verdicts = encoder.verdicts(scored, partition=partition, scored_at=now)
        encode = encoder.encode
        values = [encode(verdict) for verdict in verdicts]
        keys = [part.messages[i].key() for i in part.decoded.accepted]
        plain: list[tuple[bytes | None, bytes]] = list(zip(keys, values, strict=True))
        outgoing.verdicts[partition] = plain
        for row, index in enumerate(part.decoded.accepted):
            headers = part.messages[index].headers()
            if headers:
                self._reply(headers, values[row], [], outgoing)
        for row in np.flatnonzero((scored.decision > 0) & (scored.first_offset < 0)).tolist():
            headers = part.messages[part.decoded.accepted[row]].headers()
            alert = encode(encoder.alert(verdicts[row]))
            outgoing.others.append((self._topics.alerts, -1, keys[row], alert, _trace(headers)))

    def _write_dead_letters(self, part: _Part, outgoing: Outgoing) -> None:
        for index, why in part.decoded.rejected:
            message = part.messages[index]
            letter = dead_letter(message, why)
            outgoing.others.append((self._topics.dead_letters, part.task.partition, *letter))
            if message.headers():
                body, extra = reply_body(why)
                self._reply(message.headers(), body, extra, outgoing)
            self._parts.metrics.dead_letters.labels(why.reason.value).inc()

    def _reply(self, headers: Headers, value: bytes, extra: Headers, outgoing: Outgoing) -> None:
        """Answer a waiting API request; headers that ours never look like are some stranger's, ignored.

        Kafka would refuse what they ask for, and with it the whole transaction, for ever.
        """
        found = dict(headers)
        request, where = found.get(HEADER_REQUEST_ID), found.get(HEADER_REPLY_PARTITION)
        if (
            isinstance(request, bytes)
            and len(request) <= MAX_TAG_BYTES
            and isinstance(where, bytes)
            and where.isdigit()
            and len(where) < 4
            and int(where) < self._reply_partitions
        ):
            outgoing.others.append(
                (self._topics.replies, int(where), None, value, [(HEADER_REQUEST_ID, request), *extra])
            )

    def _count(self, parts: list[_Part], scored_batches: list[ScoredBatch]) -> None:
        metrics = self._parts.metrics
        now = self._parts.clock.now()
        count = sum(len(part.messages) for part in parts)
        metrics.events.inc(count)
        metrics.batch_size.observe(count)
        metrics.transactions.labels("committed").inc()
        stamps = np.array([m.timestamp()[1] for part in parts for m in part.messages], dtype=np.float64)
        metrics.latency.observe(np.maximum(now / 1e6 - stamps / 1e3, 0.0))
        for scored in scored_batches:
            for code, number in enumerate(np.bincount(scored.decision, minlength=3).tolist()):
                if number:
                    metrics.verdicts.labels(("allow", "review", "block")[code]).inc(number)
            for mask, number in zip(*np.unique(scored.flags, return_counts=True), strict=True):
                for flag in flags_of(int(mask)):
                    metrics.flagged.labels(flag.value).inc(int(number))
            for segment in scored.segments:
                for name in segment.abstained:
                    metrics.abstentions.labels(name).inc(segment.stop - segment.start)

    # -- partitions come and go

    def _assigned(self, _: Any, partitions: list[TopicPartition]) -> None:
        for place in partitions:
            self._recover(place.partition)
        self._consumer.incremental_assign(
            [TopicPartition(p.topic, p.partition, self._tasks[p.partition].next_offset) for p in partitions]
        )
        self._next_report = 0.0

    def _revoked(self, _: Any, partitions: list[TopicPartition]) -> None:
        gone = [self._tasks[p.partition] for p in partitions if p.partition in self._tasks]
        try:
            self._flush(gone)
            self._snapshot(gone)
        except (StoreUnavailable, StateFenced) as error:
            log.warning(
                "state of revoked partitions not written; the next owner rebuilds it", error=str(error)
            )
        for task in gone:
            self._drop(task.partition)

    def _lost(self, _: Any, partitions: list[TopicPartition]) -> None:
        for place in partitions:
            self._drop(place.partition)

    def _drop(self, partition: int) -> None:
        self._tasks.pop(partition, None)
        self._tables.drop(partition)
        self._parts.metrics.partitions.set(len(self._tasks))

    def _recover(self, partition: int) -> None:
        metrics, clock = self._parts.metrics, self._parts.clock
        started = clock.monotonic()
        self._drop(partition)
        try:
            [place] = self._consumer.committed(
                [TopicPartition(self._topics.events, partition)], KAFKA_SECONDS
            )
        except KafkaException as error:
            raise Retriable(
                f"asking for the committed offset of partition {partition} failed: {error.args[0]}",
                remedy="check the connection to Kafka",
            ) from error
        if place.error is not None:
            raise Retriable(
                f"the committed offset of partition {partition} is not known: {place.error}",
                remedy="check the connection to Kafka and the rights of our group",
            )
        scorer = PartitionScorer(
            self._parts.pipeline, partition, tables=self._tables, fetch=self._parts.store.load_entities
        )
        found = self._recovery.recover(scorer, place.offset if place.offset >= 0 else None)
        task = PartitionTask(
            partition=partition,
            scorer=scorer,
            next_offset=found.next_offset,
            applied=found.applied,
            verdict_position=found.verdict_position,
            snapshot_offset=-1,
            incomplete=found.incomplete,
        )
        self._tasks[partition] = task
        seconds = clock.monotonic() - started
        metrics.recoveries.inc()
        metrics.recovery_seconds.set(seconds)
        metrics.rebuilt_events.inc(found.rebuilt_events)
        metrics.recovery_mismatches.inc(found.mismatches)
        metrics.partitions.set(len(self._tasks))
        metrics.incomplete_state.set(sum(t.incomplete for t in self._tasks.values()))
        log.info(
            "partition recovered",
            partition=partition,
            offset=found.next_offset,
            rebuilt=found.rebuilt_events,
            relearned=found.relearned,
            seconds=round(seconds, 3),
        )
        if found.mismatches:
            log.error("scores differ when learned again", partition=partition, count=found.mismatches)
        if found.incomplete:
            log.error(
                "the log no longer holds all events that state needs; verdicts are flagged degraded",
                partition=partition,
                remedy="keep events at least as long as the longest window, or restore Redis from a backup",
            )
        self._flush([task])

    def _recover_all(self) -> None:
        """After an abort: state in memory is ahead of the log, so drop all of it and read on from the commit."""
        for partition in list(self._tasks):
            self._recover(partition)
            self._seek(partition)

    def _seek(self, partition: int) -> None:
        try:
            self._consumer.seek(
                TopicPartition(self._topics.events, partition, self._tasks[partition].next_offset)
            )
        except KafkaException as error:
            raise Retriable(
                f"going back in partition {partition} failed: {error.args[0]}", remedy="none needed"
            ) from error

    # -- state to the store, reports

    def _housekeeping(self, stop: threading.Event) -> None:
        now = self._parts.clock.monotonic()
        try:
            if now >= self._next_flush:
                self._next_flush = now + self._config.flush_seconds
                self._flush(list(self._tasks.values()))
            if now >= self._next_snapshot:
                self._next_snapshot = now + self._config.snapshot_seconds
                self._snapshot(list(self._tasks.values()))
            if now >= self._next_report:
                self._next_report = now + self._config.report_seconds
                self._report()
        except StoreUnavailable as error:
            self._wait_for_store(error, stop)
        except StateFenced as error:
            # either another owner is at work (then the group takes the partition from us), or the store lost
            # data under us: both ways store and log know better than our memory
            log.error("online state moved under us; recovering", error=str(error))
            self._recover_all()

    def _flush(self, tasks: list[PartitionTask]) -> None:
        flushes = [(task, flush) for task in tasks if (flush := task.flush()) is not None]
        if not flushes:
            return
        started = self._parts.clock.monotonic()
        self._parts.at("before_flush")
        self._parts.store.flush([flush for _, flush in flushes])
        for task, flush in flushes:
            task.flushed(flush)
        self._parts.at("after_flush")
        self._parts.metrics.stage_seconds.labels("flush").inc(self._parts.clock.monotonic() - started)

    def _snapshot(self, tasks: list[PartitionTask]) -> None:
        started = self._parts.clock.monotonic()
        for task in tasks:
            snapshot = task.snapshot()
            if snapshot is not None:
                self._parts.store.save_model(task.partition, snapshot)
                task.snapshot_offset = snapshot.next_offset
        self._parts.metrics.stage_seconds.labels("snapshot").inc(self._parts.clock.monotonic() - started)

    def _wait_for_store(self, error: StoreUnavailable, stop: threading.Event) -> None:
        """The store is away: stay in the group, read nothing, try again until it answers (promise P6)."""
        log.warning("online store away; waiting", error=str(error))
        clock = self._parts.clock
        started = clock.monotonic()
        self._consumer.pause(self._consumer.assignment())
        while not stop.is_set():
            self._consumer.poll(IDLE_SECONDS)  # keeps the membership; paused partitions give nothing
            stop.wait(0.2)
            try:
                self._flush(list(self._tasks.values()))
                self._parts.store.load_applied(next(iter(self._tasks), 0))
                break
            except StoreUnavailable:
                continue
        self._parts.metrics.store_waits.inc(clock.monotonic() - started)
        for partition in self._tasks:
            self._seek(partition)
        self._consumer.resume(self._consumer.assignment())
        log.info("online store is back", seconds=round(clock.monotonic() - started, 1))

    def _report(self) -> None:
        metrics = self._parts.metrics
        metrics.entities.set(self._tables.entities)
        metrics.arena_bytes.set(self._tables.arena_bytes)
        metrics.unflushed.set(sum(task.behind for task in self._tasks.values()))
        models: dict[str, str] = {}
        progress: dict[str, Any] = {}
        for partition, task in sorted(self._tasks.items()):
            place = TopicPartition(self._topics.events, partition)
            _, high = self._consumer.get_watermark_offsets(place, cached=True)
            lag = max(high - task.next_offset, 0) if high >= 0 else None
            if lag is not None:
                metrics.lag.labels(str(partition)).set(lag)
            ensemble = task.scorer.ensemble
            # detectors follow each partition's own traffic, so a version belongs to a partition
            models |= {f"{name}@{partition}": version for name, version in ensemble.versions().items()}
            progress[str(partition)] = {
                "next_offset": task.next_offset,
                "lag": lag,
                "learned": ensemble.seen,
                "abstained": ensemble.abstained(),
            }
        report = {
            "worker": self._config.worker_id,
            "reported_at": self._parts.clock.now(),
            "partitions": sorted(self._tasks),
            "code": self._parts.encoder.code_version,
            "pipeline": self._parts.pipeline.version,
            "pipeline_digest": self._parts.pipeline.digest,
            "models": models,
            "progress": progress,
        }
        self._parts.publish_report(msgspec.json.encode(report))


def _trace(headers: Headers | None) -> Headers:
    return [
        (name, value)
        for name, value in headers or []
        if name == HEADER_TRACEPARENT and len(value or b"") <= MAX_TAG_BYTES
    ]
