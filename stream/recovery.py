"""Bringing a partition's state to its committed offset: the one path for start, rebalance, abort and crash.

Online state in Redis reflects some prefix of the input (``applied``), the detectors' snapshot another one; both may
lag behind the offset that the group has committed, never lead. The difference is read again:

- feature state from the input topic, with results of the committed verdicts (for later duplicates);
- detectors from the vectors in the committed verdicts themselves, so they learn exactly what they had learned,
  even where an entity is fed by several partitions; budgets and thresholds from the scores that decided.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
import structlog
from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from detectors.lessons import Lesson
from domain.batch import Floats, Ints
from domain.clock import Clock
from domain.codec import EventCodec
from domain.errors import EventRejected, Retriable, StateMismatch
from domain.label import LabelBatch
from domain.label_codec import JoinedLabel, LabelCodec
from domain.pipeline import Pipeline
from domain.verdict import DECISIONS, DecisionName, ModelOutput, Source
from featurestore.plan import memory_of
from featurestore.ports import Applied, StateStore
from scoring.engine import PartitionScorer
from scoring.models_in_use import OWN
from stream.decoding import cut_at_erasures, decode_messages
from stream.kafka import KafkaConnection
from stream.takeover import Patience, end_transactions_of
from stream.topics import Topics

__all__ = ["Recovered", "Recovery"]

log = structlog.get_logger(__name__)

CHUNK = 2_000
"""Events per step of a rebuild: bounds memory."""
SILENCE_SECONDS = 30.0
"""A broker that sends nothing for so long, though the log goes on, is away."""
_ALL = 2**62
HIDDEN_SECONDS = 0.1
"""How often to look at the time while records are hidden behind an open transaction."""


class CommittedVerdict(msgspec.Struct, frozen=True, gc=False):
    """The part of a verdict that state is rebuilt from."""

    event_time: int
    score: float | None
    decision: DecisionName
    features: dict[str, float | None] | None
    source: Source
    entities: dict[str, str]
    labels_offset: int = 0
    models: dict[str, ModelOutput] | None = None

    @property
    def own_score(self) -> float | None:
        """What the pipeline's own detectors said, whoever decided."""
        return self.score if self.models is None else self.models[OWN].score


@dataclass(frozen=True, slots=True)
class Recovered:
    """Where a partition stands after recovery.

    ``next_labels`` is the first offset of ``labels.joined`` that is not counted.
    ``incomplete_until``: the log no longer reached back to where the state ended, now or in an earlier recovery, so
    windows miss events until stream time has come so far (0: they never did).
    """

    next_offset: int
    applied: Applied | None
    verdict_position: int
    rebuilt_events: int
    relearned: int
    mismatches: int
    stream_time: int
    incomplete_until: int
    next_labels: int = 0


class Recovery:
    """Recovers partitions of one pipeline with a consumer of its own (never a group member)."""

    def __init__(
        self, kafka: KafkaConnection, pipeline: Pipeline, codec: EventCodec, store: StateStore, clock: Clock
    ) -> None:
        self._kafka = kafka
        self._clock = clock
        conf = kafka.reader(f"tidegate-recovery-{pipeline.name}", f"{pipeline.name}.recovery")
        self._conf = {**conf, "enable.partition.eof": True, "auto.offset.reset": "error"}
        self._uncommitted = {**self._conf, "isolation.level": "read_uncommitted"}
        self._codec = codec
        self._labels = LabelCodec(pipeline)
        self._store = store
        self._topics = Topics(pipeline.name)
        self._names = pipeline.feature_names
        self._decode = msgspec.json.Decoder(CommittedVerdict).decode
        self._pipeline = pipeline

    def recover(
        self,
        scorer: PartitionScorer,
        committed: int | None,
        committed_labels: int | None = None,
        former: str | None = None,
    ) -> Recovered:
        """Fill an empty ``scorer`` with the state at ``committed`` (None: the group never committed).

        ``committed_labels`` is the same of ``labels.joined``. ``former`` is the transactional id of another worker
        that committed last; a transaction that it left open is ended (``stream.takeover``).

        Raises StateMismatch when stored state is ahead of the log, StoreUnavailable, Retriable (Kafka away).
        """
        partition = scorer.partition
        applied = self._store.load_applied(partition)
        snapshot = self._store.load_model(partition)
        consumer = Consumer(self._conf)
        try:
            first, _ = self._ends(consumer, self._topics.events, partition)
            first_verdict, last_verdict = self._ends(consumer, self._topics.verdicts, partition)
            target = first if committed is None else committed
            label_target, label_start, labels_lost = self._label_range(
                consumer, partition, committed_labels, applied
            )
            reflected: list[tuple[str, str, int | None, int]] = [
                ("feature state", "events", applied.next_offset if applied else None, target),
                ("detector state", "events", snapshot.next_offset if snapshot else None, target),
                ("feature state", "labels", applied.labels_offset if applied else None, label_target),
            ]
            for what, of, at, end in reflected:
                if at is not None and at > end:
                    raise StateMismatch(
                        f"{what} of partition {partition} reflects {of} up to offset {at}, but only {end} are "
                        "committed: the topic or the group was reset, or Redis belongs to another cluster",
                        remedy=f"if the log is right: `tidegate state reset --partition {partition}` and start "
                        "again; state is then rebuilt from the log",
                    )
            if snapshot is not None:
                try:
                    scorer.restore(snapshot.blob)
                except ValueError as error:
                    raise StateMismatch(
                        f"the detectors' snapshot of partition {partition} can not be used: {error}",
                        remedy="`tidegate state reset` rebuilds state from the log; or go back to the pipeline "
                        "file that wrote it",
                    ) from error
            start = first if applied is None else applied.next_offset
            # without a snapshot from the first verdict there is, which may be about an event that is deleted by now
            learn_from = 0 if snapshot is None else snapshot.next_offset
            if applied is not None:
                scorer.stream_time = applied.stream_time
                scorer.tables.restore_erased(partition, applied.erased)
            lost = labels_lost or start < first or (applied is None and committed is not None and first > 0)
            positions = [first_verdict if s is None else s.verdict_position for s in (applied, snapshot)]
            verdicts = _Verdicts(
                self._visible_verdicts(consumer, partition, max(min(positions), first_verdict), former),
                self._decode,
            )
            lessons = scorer.ensemble.lessons
            labels = (
                None
                if lessons is None
                else _Labels(self._joined(partition, lessons.offset, label_target), self._labels)
            )
            rebuilt = relearned = mismatches = 0
            if min(start, learn_from) < target:
                verdicts.skip_to(min(start, learn_from))
                if learn_from < start:
                    for known in _steps(verdicts, learn_from, min(start, target)):
                        count, wrong = self._relearn(scorer, known, learn_from, labels)
                        relearned, mismatches = relearned + count, mismatches + wrong
                for messages, known in self._chunks(verdicts, partition, max(start, first), target):
                    rebuilt += self._rebuild(scorer, messages, known)
                    count, wrong = self._relearn(scorer, known, learn_from, labels)
                    relearned, mismatches = relearned + count, mismatches + wrong
            # features count labels and events in any order, so the labels come last
            self._count_labels(scorer, consumer, label_start, label_target)
            if labels is not None:
                labels.teach_rest(scorer, label_target)
        finally:
            consumer.close()
        return Recovered(
            next_offset=target,
            applied=applied,
            verdict_position=last_verdict,
            rebuilt_events=rebuilt,
            relearned=relearned,
            mismatches=mismatches,
            stream_time=scorer.stream_time,
            incomplete_until=self._complete_again(scorer, applied, lost=lost),
            next_labels=label_target,
        )

    def _complete_again(self, scorer: PartitionScorer, applied: Applied | None, *, lost: bool) -> int:
        """The stream time at which no window reaches back to where the log has a gap."""
        before = 0 if applied is None else applied.incomplete_until
        if not lost:
            return before
        # lost events may lie ahead of those that are left; without any, the time of day is the best guess
        newest = scorer.stream_time or self._clock.now()
        return max(before, newest + self._pipeline.event.max_future + memory_of(self._pipeline))

    def _label_range(
        self, consumer: Consumer, partition: int, committed: int | None, applied: Applied | None
    ) -> tuple[int, int, bool]:
        """The committed offset of labels, where counting them again begins, and whether some of those are gone."""
        if not self._pipeline.follows_labels:
            return 0, 0, False
        first, _ = self._ends(consumer, self._topics.labels_joined, partition)
        start = first if applied is None else applied.labels_offset
        if committed is None:
            # never committed: all labels still lie before us
            return first, first, False
        # a former life may have counted labels that retention has deleted since, or deleted before they were read
        lost = start < first or (applied is None and first > 0)
        return max(committed, first), max(start, first), lost

    def _count_labels(self, scorer: PartitionScorer, consumer: Consumer, start: int, target: int) -> None:
        if start >= target:
            scorer.labels_offset = target
            return
        records = self._read(consumer, self._topics.labels_joined, scorer.partition, start, stop=target)
        labels = _Labels(records, self._labels)
        while len(batch := labels.next(CHUNK)):
            scorer.apply_labels(batch, teach=False)
        scorer.labels_offset = target

    def _joined(self, partition: int, start: int, target: int) -> Iterator[Any]:
        """Joined labels [start, target), as far as the log still has them, read by a consumer of its own."""
        reader = Consumer(self._conf)
        try:
            first, _ = self._ends(reader, self._topics.labels_joined, partition)
            yield from self._read(
                reader, self._topics.labels_joined, partition, max(start, first), stop=target
            )
        finally:
            reader.close()

    def _chunks(
        self, verdicts: _Verdicts, partition: int, start: int, target: int
    ) -> Iterator[tuple[list[Any], list[CommittedVerdict]]]:
        """Input records [start, target) in chunks, each with the verdicts of the same offsets.

        The two topics are read by two consumers, so that neither waits for the other's prefetch.
        """
        reader = Consumer(self._conf)
        try:
            chunk: list[Any] = []
            for message in self._read(reader, self._topics.events, partition, start, stop=target):
                chunk.append(message)
                if len(chunk) == CHUNK:
                    yield chunk, verdicts.until(chunk[-1].offset() + 1)
                    chunk = []
            yield chunk, verdicts.until(target)
        finally:
            reader.close()

    def _rebuild(self, scorer: PartitionScorer, messages: list[Any], known: list[CommittedVerdict]) -> int:
        rebuilt = 0
        for piece, erasure in cut_at_erasures(self._codec, messages):
            if erasure is None:
                rebuilt += self._rebuild_events(scorer, piece, known)
            else:
                scorer.erase(erasure, piece[0].offset())
        return rebuilt

    def _rebuild_events(
        self, scorer: PartitionScorer, messages: list[Any], known: list[CommittedVerdict]
    ) -> int:
        decoded = decode_messages(self._codec, messages)
        if not decoded.events:
            return 0
        batch = self._codec.to_batch(decoded.events, [messages[i].offset() for i in decoded.accepted])
        score: Floats = np.full(len(batch), np.nan)
        decision: Ints = np.zeros(len(batch), dtype=np.int64)
        repeated = np.zeros(len(batch), dtype=np.bool_)
        row_of = {offset: row for row, offset in enumerate(batch.offsets.tolist())}
        for verdict in known:
            row = row_of.get(verdict.source.offset)
            if row is not None:
                score[row] = np.nan if verdict.score is None else verdict.score
                decision[row] = DECISIONS.index(verdict.decision)
                repeated[row] = verdict.features is None
        scorer.rebuild(batch, score, decision, repeated)
        return len(batch)

    def _relearn(
        self, scorer: PartitionScorer, known: list[CommittedVerdict], learn_from: int, labels: _Labels | None
    ) -> tuple[int, int]:
        """Let the detectors learn vectors again, and the labels that were known between them.

        Returns how many vectors, and how many scores came out different.
        """
        again_known = [v for v in known if v.source.offset >= learn_from]
        vectors = [v for v in again_known if v.features is not None]
        if not again_known:
            return 0, 0
        lessons: list[Lesson] = []
        if labels is not None:
            fresh = np.flatnonzero(np.array([v.features is not None for v in again_known]))
            lessons = labels.lessons(
                scorer,
                np.array([v.event_time for v in again_known], dtype=np.int64),
                fresh.astype(np.int64),
                np.array([v.labels_offset for v in again_known], dtype=np.int64),
            )
        x: Floats = np.empty((len(vectors), len(self._names)))
        for row, verdict in enumerate(vectors):
            values = verdict.features or {}
            x[row] = [_number(values.get(name)) for name in self._names]
        times = np.array([v.event_time for v in vectors], dtype=np.int64)
        # models and rules are not asked again: what decided stands in the verdicts, and they may be gone
        led = np.flatnonzero(np.array([v.models is not None for v in vectors], dtype=np.bool_))
        decided = (led, np.array([_number(vectors[row].score) for row in led.tolist()])) if len(led) else None
        keys = [v.entities[self._pipeline.event.key] for v in vectors]
        again = scorer.relearn(x, times, keys, lessons, decided=decided)
        was: Floats = np.array([_number(v.own_score) for v in vectors])
        wrong = int(np.sum(~((again == was) | (np.isnan(again) & np.isnan(was)))))
        return len(vectors), wrong

    def _ends(self, consumer: Consumer, topic: str, partition: int) -> tuple[int, int]:
        try:
            low, high = consumer.get_watermark_offsets(
                TopicPartition(topic, partition), timeout=SILENCE_SECONDS, cached=False
            )
        except KafkaException as error:
            raise _away(error, topic) from error
        return low, high

    def _visible_verdicts(
        self, consumer: Consumer, partition: int, start: int, former: str | None
    ) -> Iterator[Any]:
        """Committed verdicts from ``start`` to the end of the log, whatever holds readers up before it.

        All verdicts below the committed offset are in the log, but committed readers see none behind an open
        transaction, such as that of a former owner that fell silent. Taking what is visible for all there is
        would make the detectors forget.
        """
        probe = Consumer(self._uncommitted)
        try:
            _, end = self._ends(probe, self._topics.verdicts, partition)
        finally:
            probe.close()
        yield from self._read(
            consumer, self._topics.verdicts, partition, start, seen=end, hidden=Patience(self._clock, former)
        )

    def _read(
        self,
        consumer: Consumer,
        topic: str,
        partition: int,
        start: int,
        stop: int | None = None,
        seen: int = 0,
        hidden: Patience | None = None,
    ) -> Iterator[Any]:
        """Committed records of one partition from ``start`` up to ``stop`` or the end of the log.

        The end is not before ``seen``: until readers are let so far, it waits, and ``hidden`` acts.
        """
        if stop is not None and start >= stop:
            return
        consumer.assign([TopicPartition(topic, partition, start)])
        silent_since = self._clock.monotonic()
        waiting = False
        while True:
            message = consumer.poll(HIDDEN_SECONDS if waiting else SILENCE_SECONDS)
            if message is None:
                if self._clock.monotonic() - silent_since >= SILENCE_SECONDS:
                    raise Retriable(
                        f"Kafka sent nothing of {topic} for {SILENCE_SECONDS:.0f} s during recovery",
                        remedy="check the connection to Kafka and whether a transaction hangs there",
                    )
                if waiting and hidden is not None and hidden.is_over():
                    end_transactions_of(self._kafka, hidden.give_up())
                continue
            silent_since = self._clock.monotonic()
            error = message.error()
            if error is not None:
                if error.code() == KafkaError._PARTITION_EOF:
                    if (message.offset() or 0) >= seen:
                        return
                    if not waiting:
                        waiting = True
                        log.info(
                            "verdicts are not yet visible behind an open transaction; waiting",
                            topic=topic,
                            partition=partition,
                            visible=message.offset(),
                            end=seen,
                        )
                    continue
                raise _away(KafkaException(error), topic)
            offset = message.offset() or 0
            if stop is not None and offset >= stop:
                return
            yield message
            if stop is not None and offset == stop - 1:
                return


class _Verdicts:
    """The verdicts of one partition as a stream that can be read up to a source offset, then further."""

    def __init__(self, messages: Iterator[Any], decode: Any) -> None:
        self._messages = messages
        self._decode = decode
        self._next: CommittedVerdict | None = None

    def skip_to(self, offset: int) -> None:
        """Pass over verdicts of source offsets below ``offset``."""
        while (verdict := self._peek()) is not None and verdict.source.offset < offset:
            self._next = None

    def until(self, offset: int) -> list[CommittedVerdict]:
        """The verdicts of source offsets below ``offset`` that were not read yet."""
        found = []
        while (verdict := self._peek()) is not None and verdict.source.offset < offset:
            found.append(verdict)
            self._next = None
        return found

    def _peek(self) -> CommittedVerdict | None:
        if self._next is None:
            message = next(self._messages, None)
            if message is not None:
                self._next = self._decode(message.value())
        return self._next


class _Labels:
    """Joined labels of one partition as a stream that can be read up to an offset, then further."""

    def __init__(self, messages: Iterator[Any], codec: LabelCodec) -> None:
        self._messages = messages
        self._codec = codec
        self._ahead: tuple[JoinedLabel, int] | None = None

    def next(self, count: int, below: int = _ALL) -> LabelBatch:
        """At most ``count`` labels of offsets below ``below`` that were not read yet."""
        found: list[tuple[JoinedLabel, int]] = []
        while len(found) < count and (one := self._peek()) is not None and one[1] < below:
            found.append(one)
            self._ahead = None
        return self._codec.to_batch([label for label, _ in found], [offset for _, offset in found])

    def lessons(self, scorer: PartitionScorer, times: Ints, fresh: Ints, reached: Ints) -> list[Lesson]:
        """What was learned over n verdicts; ``reached`` int64[n], the first offset that was not known to each."""
        batch = self.next(_ALL, below=int(reached[-1]))
        told = np.searchsorted(batch.offsets, reached).astype(np.int64)
        return scorer.plan_lessons(times, fresh, told, batch)

    def teach_rest(self, scorer: PartitionScorer, target: int) -> None:
        """Teach what was known after the last verdict."""
        while len(batch := self.next(CHUNK)):
            scorer.note_labels(batch)
        if scorer.ensemble.lessons is not None:
            scorer.ensemble.lessons.offset = target

    def _peek(self) -> tuple[JoinedLabel, int] | None:
        while self._ahead is None and (message := next(self._messages, None)) is not None:
            try:
                label = self._codec.decode(message.value() or b"", received_at=message.timestamp()[1] * 1000)
            except EventRejected:
                continue  # a dead letter since it was first read
            self._ahead = label, message.offset()
        return self._ahead


def _steps(verdicts: _Verdicts, start: int, stop: int) -> Iterator[list[CommittedVerdict]]:
    """The verdicts of source offsets [start, stop) in lists of bounded length."""
    while start < stop:
        start = min(start + CHUNK, stop)
        yield verdicts.until(start)


def _number(value: float | None) -> float:
    return np.nan if value is None else value


def _away(error: KafkaException, topic: str) -> Retriable:
    return Retriable(f"reading {topic} failed: {error.args[0]}", remedy="check the connection to Kafka")
