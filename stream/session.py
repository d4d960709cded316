"""One life of a worker's Kafka clients: from joining the group until leaving it or until an outcome is unknown.

A micro-batch goes: records -> events and dead letters -> features and scores -> one transaction -> (commit) ->
state to the store. While one is being committed, the next is already scored. Nothing that is not committed
reaches the store (promise P2), and whatever goes wrong in between, the partition's state is dropped and
recovered from store and log (``stream.recovery``).
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import structlog
from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from domain.erasure import Erasure
from domain.errors import Fatal, Retriable, StateFenced, StoreUnavailable
from domain.label_codec import LabelCodec
from featurestore.tables import FeatureTables
from scoring.engine import PartitionScorer
from scoring.models_in_use import NO_MODELS
from scoring.rules_in_use import NO_RULES
from stream.committer import Committer, Outcome, StateWrites
from stream.label_feed import LabelFeed
from stream.micro_batch import MicroBatcher
from stream.outbox import Fenced, Outbox, OutcomeUnknown, TransactionAborted
from stream.recovery import Recovery
from stream.takeover import Progress
from stream.task import PartitionTask
from stream.topics import Topics, partitions_of
from stream.worker_parts import WorkerConfig, WorkerParts
from stream.worker_reporting import count, report, tell_recovered

__all__ = ["Session"]

log = structlog.get_logger(__name__)

IDLE_SECONDS = 0.05
"""How long a poll waits for the first record: bounds how late flushes and the stop signal are noticed."""
LOOK_SECONDS = 2.0
"""How often to see whether Redis still has the state of partitions without traffic, which other partitions read:
a flush would notice, but there is none. One GET for each partition."""


class Session:
    """Group membership, transactional producer and partition tasks; see the module's docstring."""

    def __init__(self, config: WorkerConfig, parts: WorkerParts) -> None:
        self._config = config
        self._parts = parts
        self._topics = Topics(parts.pipeline.name)
        self._models = NO_MODELS
        self._rules = NO_RULES
        client_id = f"tidegate-{parts.pipeline.name}-{config.worker_id}"
        self._owner = client_id
        self._outbox = Outbox(
            parts.kafka.transactional_producer(client_id, client_id), self._topics.verdicts, parts.at
        )
        self._committer = Committer(self._outbox, parts.store, parts.clock, parts.metrics, parts.at)
        group = f"{parts.pipeline.name}.worker"
        self._consumer = Consumer(parts.kafka.group_member(client_id, group))
        partitions = partitions_of(self._consumer, self._topics.events)
        beside = [
            self._topics.verdicts,
            *([self._topics.labels_joined] if parts.pipeline.follows_labels else []),
        ]
        for topic in beside:
            if partitions_of(self._consumer, topic) != partitions:
                raise Fatal(
                    f"{topic} has not as many partitions as {self._topics.events}",
                    remedy="create it with `tidegate topics create`, or add partitions before the first event",
                )
        self._tables = FeatureTables(
            parts.pipeline,
            partitions=partitions,
            max_entities=config.max_entities,
            state_bytes=config.state_bytes,
        )
        self._labels = (
            LabelFeed(
                parts.kafka,
                self._topics.labels_joined,
                group,
                client_id,
                LabelCodec(parts.pipeline),
                parts.clock,
            )
            if parts.pipeline.follows_labels
            else None
        )
        self._batcher = MicroBatcher(
            parts, self._tables, self._labels, client_id, partitions_of(self._consumer, self._topics.replies)
        )
        self._recovery = Recovery(parts.kafka, parts.pipeline, parts.codec, parts.store, parts.clock)
        self._progress = Progress(parts.kafka, self._consumer, group, self._owner)
        self._tasks: dict[int, PartitionTask] = {}
        self._unwritten = StateWrites()
        self._closing = False
        now = parts.clock.monotonic()
        self._next_flush = now + config.flush_seconds
        self._next_snapshot = now + config.snapshot_seconds
        self._next_report = now
        self._next_look = now + LOOK_SECONDS
        self._consumer.subscribe(
            [self._topics.events], on_assign=self._assigned, on_revoke=self._revoked, on_lost=self._lost
        )

    def run(self, stop: threading.Event) -> None:
        """Score until ``stop`` is set. Raises Retriable when everything has to start afresh, or Fatal."""
        if self._parts.models is not None:
            # before partitions are assigned: a worker that starts runs what is in force, not what was before
            self._parts.models.begin()
            self._models = self._parts.models.models
        if self._parts.rules is not None:
            self._parts.rules.begin()
            self._rules = self._parts.rules.rules
        while not stop.is_set():
            try:
                self._follow_models()
                self._follow_rules()
                messages = self._poll()
                if messages:
                    for piece, erasure in self._batcher.cut(messages):
                        self._handle(piece, erasure)
                elif (away := self._settle()) is not None:
                    raise away
                else:
                    self._write_now(self._due(self._tasks.values()))
                if self._parts.clock.monotonic() >= self._next_look:
                    self._next_look = self._parts.clock.monotonic() + LOOK_SECONDS
                    with self._settled_when_fenced():
                        self._batcher.check_nothing_lost(self._tasks, self._tasks)
            except TransactionAborted as error:
                log.warning("transaction aborted", error=str(error))
                self._parts.metrics.transactions.labels("aborted").inc()
                self._recover_all()
                stop.wait(IDLE_SECONDS)
            except StoreUnavailable as error:
                self._wait_for_store(error, stop)
            except StateFenced as error:
                # either another owner is at work (then the group takes the partition from us), or the store
                # lost data under us: both ways store and log know better than our memory
                log.error("online state moved under us; recovering", error=str(error))
                self._recover_all()
            if self._parts.clock.monotonic() >= self._next_report:
                self._next_report = self._parts.clock.monotonic() + self._config.report_seconds
                report(self._config, self._parts, self._consumer, self._tables, self._tasks)

    def close(self) -> None:
        """Write what is committed, leave the group, drop the producer."""
        self._closing = True
        try:
            self._consumer.close()  # calls _revoked
        except KafkaException as error:
            log.warning("leaving the group failed", error=str(error))
        finally:
            self._committer.close()
            self._outbox.close()
            if self._labels is not None:
                self._labels.close()

    # -- micro-batches

    def _follow_models(self) -> None:
        """Between two batches: what is scored from here on is scored by the models that are in force now."""
        follower = self._parts.models
        if follower is None or not follower.poll():
            return
        self._models = follower.models
        for task in self._tasks.values():
            task.scorer.models = self._models
        self._parts.metrics.model_swaps.inc()
        self._parts.at("models_changed")
        self._next_report = 0.0

    def _follow_rules(self) -> None:
        """Likewise for rules and lists."""
        follower = self._parts.rules
        if follower is None or not follower.poll():
            return
        self._rules = follower.rules
        for task in self._tasks.values():
            task.scorer.rules = self._rules
        self._parts.metrics.rules.swaps.inc()
        self._parts.at("rules_changed")
        self._next_report = 0.0

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

    def _handle(self, messages: list[Any], erasure: Erasure | None) -> None:
        parts = self._batcher.decode(messages, self._tasks, erasure)
        if not parts:
            return
        with self._settled_when_fenced():
            batch = self._batcher.score(parts, self._tasks)
        # only what is written can leave memory, so a backlog must not run ahead of a store that is slower than we are
        away = self._settle(wait=self._tables.crowded)
        # memory now stands exactly at the end of this batch, and everything before it is committed
        writes = self._due(self._tasks.values())
        self._committer.submit(batch, self._consumer.consumer_group_metadata(), writes)
        if away is not None:
            raise away

    @contextmanager
    def _settled_when_fenced(self) -> Iterator[None]:
        """Recovery begins at what is committed, so nothing may be under way when it becomes necessary."""
        try:
            yield
        except StateFenced:
            self._settle(wait=True)
            raise

    def _settle(self, *, wait: bool = False) -> StoreUnavailable | None:
        """Take note of the transaction under way and of state written. Raises what the former failed with.

        ``wait`` also for state that is still being written. Returns the error when state could not be written
        (see ``_unwritten``): what was scored since is as valid as ever, and must be committed before anybody
        waits for the store. Raises StateFenced when store and memory disagree.
        """
        outcome = self._committer.settle()
        if outcome is not None:
            for position in outcome.batch.offsets:
                task = self._tasks[position.partition]
                if position.topic == self._topics.labels_joined:
                    task.next_labels = position.offset
                else:
                    task.next_offset = position.offset
                task.verdict_position = outcome.ends.get(task.partition, task.verdict_position)
            self._note_standstill(outcome)
            count(self._parts.metrics, outcome)
        written = self._committer.written(wait=wait)
        if written is None:
            return None
        if isinstance(written.failure, StateFenced):
            raise written.failure
        if written.failure is not None:
            self._unwritten = written.writes
            return written.failure
        self._written(written.writes)
        return None

    def _note_standstill(self, outcome: Outcome) -> None:
        """After the first commit of a partition taken over: how long it had work and nobody who did it."""
        for part in outcome.batch.parts:
            task = part.task
            if task.taken_over is not None:
                idle_until = max(task.taken_over, part.messages[0].timestamp()[1] * 1000)
                seconds = max(outcome.committed_at - idle_until, 0) / 1e6
                task.taken_over = None
                self._parts.metrics.standstill_seconds.set(seconds)
                log.info("partition goes on", partition=task.partition, standstill_seconds=round(seconds, 3))

    # -- state to the store

    def _due(self, tasks: Iterable[PartitionTask]) -> StateWrites:
        """State to write now, if it is time for it; nothing while older state waits to be written."""
        if self._unwritten or self._committer.writing:
            return StateWrites()
        now = self._parts.clock.monotonic()
        flush = now >= self._next_flush or self._tables.crowded
        snapshot = now >= self._next_snapshot
        if flush:
            self._next_flush = now + self._config.flush_seconds
        if snapshot:
            self._next_snapshot = now + self._config.snapshot_seconds
        return _captured(tasks, flush=flush, snapshot=snapshot)

    def _write_now(self, writes: StateWrites) -> None:
        """Write state in which everything is committed, after what still waits to be written."""
        waiting = StateWrites(
            self._unwritten.flushes + writes.flushes, self._unwritten.snapshots + writes.snapshots
        )
        if not waiting:
            return
        self._unwritten = waiting
        self._committer.write(waiting)
        self._unwritten = StateWrites()
        self._written(waiting)

    def _written(self, writes: StateWrites) -> None:
        for task, flush in writes.flushes:
            task.flushed(flush)
        for task, snapshot in writes.snapshots:
            task.snapshot_offset = snapshot.next_offset
        if writes.flushes and not self._committer.writing:
            self._tables.evict()

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
                self._settle(wait=True)
                self._write_now(StateWrites())
                self._parts.store.load_applied(next(iter(self._tasks), 0))
                break
            except StoreUnavailable:
                continue
            except StateFenced as fenced:
                log.error("online state went back while it was away; recovering", error=str(fenced))
                self._recover_all()
                break
        self._parts.metrics.store_waits.inc(clock.monotonic() - started)
        for partition in self._tasks:
            self._seek(partition)  # the batch in hand was dropped before it changed anything
        self._consumer.resume(self._consumer.assignment())
        log.info("online store is back", seconds=round(clock.monotonic() - started, 1))

    # -- partitions come and go

    def _assigned(self, _: Any, partitions: list[TopicPartition]) -> None:
        if self._closing:
            return  # given to us while we leave: Kafka would answer no question any more
        for place in partitions:
            self._recover(place.partition)
        self._consumer.incremental_assign(
            [TopicPartition(p.topic, p.partition, self._tasks[p.partition].next_offset) for p in partitions]
        )
        self._next_report = 0.0

    def _revoked(self, _: Any, partitions: list[TopicPartition]) -> None:
        gone = [self._tasks[p.partition] for p in partitions if p.partition in self._tasks]
        try:
            self._settle(wait=True)
            self._write_now(StateWrites())
            self._write_now(_captured([t for t in gone if t.writable], flush=True, snapshot=True))
        except (StoreUnavailable, StateFenced, TransactionAborted, OutcomeUnknown, Fenced) as error:
            log.warning(
                "state of revoked partitions not written; the next owner rebuilds it", error=str(error)
            )
        for task in gone:
            self._drop(task.partition)
        self._recover_if_astray()

    def _lost(self, _: Any, partitions: list[TopicPartition]) -> None:
        try:
            self._settle(wait=True)
        except (StateFenced, TransactionAborted, OutcomeUnknown, Fenced) as error:
            log.warning("partitions are lost, and with them a transaction", error=str(error))
        for place in partitions:
            self._drop(place.partition)
        self._recover_if_astray()

    def _recover_if_astray(self) -> None:
        """After a transaction or a write failed while partitions went: so may what is left, and it must not go on.

        Nothing is under way now, so captured state either waits in ``_unwritten`` or was lost with its transaction.
        """
        waiting = {task.partition for task, _ in self._unwritten.flushes}
        astray = (t.ahead or (t.captured and t.partition not in waiting) for t in self._tasks.values())
        if not self._closing and any(astray):
            self._recover_all()

    def _drop(self, partition: int) -> None:
        self._tasks.pop(partition, None)
        self._tables.drop(partition)
        if self._labels is not None:
            self._labels.end(partition)
        kept = self._unwritten
        self._unwritten = StateWrites(
            [(task, flush) for task, flush in kept.flushes if task.partition != partition],
            [(task, snapshot) for task, snapshot in kept.snapshots if task.partition != partition],
        )
        self._parts.metrics.partitions.set(len(self._tasks))

    def _recover(self, partition: int) -> None:
        metrics, clock = self._parts.metrics, self._parts.clock
        started = clock.monotonic()
        self._drop(partition)
        scorer = PartitionScorer(
            self._parts.pipeline,
            partition,
            tables=self._tables,
            fetch=self._parts.store.load_entities,
            models=self._models,
            rules=self._rules,
        )
        committed, note = self._progress.committed(self._topics.events, partition)
        labels, _ = (
            (None, None)
            if self._labels is None
            else self._progress.committed(self._topics.labels_joined, partition)
        )
        former = None if note is None or note.owner == self._owner else note.owner
        found = self._recovery.recover(scorer, committed, labels, former)
        task = PartitionTask(
            partition=partition,
            scorer=scorer,
            scored_offset=found.next_offset,
            next_offset=found.next_offset,
            applied=found.applied,
            verdict_position=found.verdict_position,
            snapshot_offset=-1,
            incomplete_until=found.incomplete_until,
            taken_over=None if note is None else note.at * 1000,
            scored_labels=found.next_labels,
            next_labels=found.next_labels,
        )
        if self._labels is not None:
            self._labels.begin(partition, found.next_labels)
        self._tasks[partition] = task
        seconds = clock.monotonic() - started
        metrics.partitions.set(len(self._tasks))
        metrics.incomplete_state.set(sum(t.incomplete for t in self._tasks.values()))
        tell_recovered(metrics, partition, found, seconds)
        self._write_now(_captured([task], flush=True, snapshot=False))

    def _recover_all(self) -> None:
        """State in memory is ahead of the log: drop all of it and read on from what is committed."""
        # so that recovery reads what it leaves behind, whatever came of it
        written = self._committer.written(wait=True)
        if written is not None and written.failure is not None:
            log.warning("state not written; recovering anyway", error=str(written.failure))
        self._unwritten = StateWrites()
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


def _captured(tasks: Iterable[PartitionTask], *, flush: bool, snapshot: bool) -> StateWrites:
    writes = StateWrites()
    for task in tasks:
        if flush and (state := task.capture_flush()) is not None:
            writes.flushes.append((task, state))
        if snapshot and (detectors := task.capture_snapshot()) is not None:
            writes.snapshots.append((task, detectors))
    return writes
