"""Labels of a file into ``labels.joined``, each change exactly once however often the import runs or is killed.

What was written is the only record of what was written: no offset or side topic could say it better. All imports of
a pipeline share one transactional id. Starting ends the transaction of a predecessor and locks it out; only then is
``labels.joined`` read to its end, so nobody of ours can add to it what this run does not know of.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Any

import msgspec
from confluent_kafka import Consumer

from domain.errors import EventRejected, Fatal
from domain.label_codec import JoinedLabel, LabelCodec
from domain.pipeline import Pipeline
from lifecycle.heard_verdict import hear, said_of
from lifecycle.label_import import ImportPlan, LabelledEvent, Present, decide, plan_import, records
from lifecycle.label_rows import Told
from stream.kafka import KafkaConnection
from stream.log_reading import committed_records, ends, reader_conf
from stream.outbox import Fenced, Outbox, Outgoing, Record
from stream.topics import Topics, partitions_of

__all__ = ["LabelImporter", "LabelLogs", "preview", "writer_id"]

BATCH = 1_000
"""Changes per transaction: few enough that a failed one costs little, enough that commits do not dominate."""


def writer_id(pipeline: str) -> str:
    """The transactional id of whoever writes ``labels.joined``: imports and the joiner lock each other out by it.

    Each of them says what held before, so there must be one at a time, and whoever begins reads what is there.
    """
    # not tidegate-<pipeline>-<...>: those are the workers', and a worker may have any name
    return f"tidegate-{pipeline}.labels-import"


class LabelLogs:
    """What Kafka knows of labels and of the events they are about, for one pipeline.

    Topics are read to the end of the log, not of what committed readers are let see: that lags behind a commit, and
    behind an open transaction. Its outcome is waited for; after 30 s of silence Retriable is raised rather than less
    taken for all.
    Raises ServiceMissing when topics are absent, Fatal when their partitions do not match.
    """

    def __init__(self, kafka: KafkaConnection, pipeline: Pipeline) -> None:
        self._topics = Topics(pipeline.name)
        self._entities = pipeline.entities
        self._learns = pipeline.learns
        self._codec = LabelCodec(pipeline)
        self._conf = reader_conf(kafka, f"tidegate-labels-{pipeline.name}", f"{pipeline.name}.labels-import")
        with self._consumer() as consumer:
            self._partitions = partitions_of(consumer, self._topics.verdicts)
            joined = partitions_of(consumer, self._topics.labels_joined)
        if joined != self._partitions:
            raise Fatal(
                f"{self._topics.labels_joined} has {joined} partitions, {self._topics.verdicts} has "
                f"{self._partitions}; a label must lie in the partition of its event",
                remedy="add partitions to the smaller one before labels are imported",
            )

    def present(self, ids: Mapping[str, object]) -> dict[str, Present]:
        """What ``labels.joined`` says last of each of ``ids``; records that the worker refuses say nothing.

        Raises Retriable.
        """
        topic = self._topics.labels_joined
        found: dict[str, Present] = {}
        # values repeat; holding each once keeps two million labels small
        texts: dict[str, str] = {}
        keys: dict[bytes | None, bytes | None] = {}
        for message in self._records(topic):
            try:
                label = self._codec.decode(message.value() or b"", received_at=message.timestamp()[1] * 1000)
            except EventRejected:
                continue  # a dead letter to the worker: it counts nowhere
            if label.id not in ids:
                continue
            values = tuple(label.entities[name] for name in self._entities)
            event = LabelledEvent(
                label.event_time,
                tuple(texts.setdefault(value, value) for value in values),
                message.partition(),
                keys.setdefault(message.key(), message.key()),
                msgspec.json.encode(label.said) if self._learns and label.said is not None else None,
            )
            now = Present(label.label, label.known_at, event)
            before = found.get(label.id)
            if before is None or before.event.partition <= event.partition:
                found[label.id] = now
        return found

    def events(
        self, ids: set[str], *, progress: Callable[[int], None] = lambda count: None
    ) -> tuple[dict[str, LabelledEvent], set[str]]:
        """The events of ``ids`` by their verdicts, and those of ``ids`` whose verdicts lack an entity of today.

        Of several events with one id (repeats after the dedupe window) it is the one that happened first;
        verdicts flagged as duplicates are none. ``progress`` is told of verdicts read. Raises Retriable, Fatal.
        """
        found: dict[str, LabelledEvent] = {}
        incomplete: set[str] = set()
        if not ids:
            return found, incomplete
        topic = self._topics.verdicts
        texts: dict[str, str] = {}
        keys: dict[bytes | None, bytes | None] = {}
        for number, message in enumerate(self._records(topic), 1):
            if not number % BATCH:
                progress(BATCH)
            try:
                verdict = hear(message.value() or b"")
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
                raise Fatal(
                    f"{topic} {message.partition()}:{message.offset()} is no verdict: {error}",
                    remedy="let nobody but the workers write there; delete that record",
                ) from error
            if verdict.id not in ids or verdict.duplicate:
                continue
            values = tuple(verdict.entities.get(name, "") for name in self._entities)
            if not all(values):
                incomplete.add(verdict.id)
                continue
            event = LabelledEvent(
                verdict.event_time,
                tuple(texts.setdefault(value, value) for value in values),
                message.partition(),
                keys.setdefault(message.key(), message.key()),
                said_of(verdict) if self._learns else None,
            )
            before = found.get(verdict.id)
            if before is None or (event.time, event.partition) < (before.time, before.partition):
                found[verdict.id] = event
        return found, incomplete

    def _records(self, topic: str) -> Iterator[Any]:
        with self._consumer("read_uncommitted") as probe, self._consumer() as consumer:
            spans = {partition: ends(probe, topic, partition) for partition in range(self._partitions)}
            yield from committed_records(consumer, topic, spans)

    @contextmanager
    def _consumer(self, isolation: str | None = None) -> Iterator[Any]:
        consumer = Consumer({**self._conf, **({"isolation.level": isolation} if isolation else {})})
        try:
            yield consumer
        finally:
            consumer.close()


def preview(
    logs: LabelLogs,
    told: Mapping[str, Sequence[Told]],
    *,
    progress: Callable[[int], None] = lambda count: None,
) -> ImportPlan:
    """What :meth:`LabelImporter.run` would write now; writes nothing. Raises Retriable, Fatal."""
    return _plan(logs, told, progress)


class LabelImporter:
    """Writes labels of one pipeline. Making one locks out every other of the same pipeline.

    ``at`` is called with the name of each step (fault tests stop the process there).
    Raises ServiceMissing when topics are absent, Fatal when they do not match, Retriable when Kafka is away.
    """

    def __init__(
        self,
        kafka: KafkaConnection,
        pipeline: Pipeline,
        *,
        at: Callable[[str], None] = lambda point: None,
        batch: int = BATCH,
    ) -> None:
        self._topics = Topics(pipeline.name)
        self._entities = pipeline.entities
        self._encode = LabelCodec(pipeline).encode
        self._batch = batch
        self._logs = LabelLogs(kafka, pipeline)
        name = writer_id(pipeline.name)
        self._outbox = Outbox(kafka.transactional_producer(name, name), self._topics.verdicts, at)
        # only names a group to the transaction, in which no offsets are committed; it never reads
        self._member = Consumer(kafka.reader(name, f"{pipeline.name}.labels-import"))

    def run(
        self,
        told: Mapping[str, Sequence[Told]],
        *,
        origin: str | None = None,
        progress: Callable[[int], None] = lambda count: None,
        written: Callable[[int], None] = lambda count: None,
    ) -> ImportPlan:
        """Write what ``told`` (by event id, in order of known-at) changes; returns what that was.

        ``progress`` is told of verdicts read, ``written`` after each commit of changes. After an error (Fatal,
        Retriable) those stay, and another run of the same file goes on with the rest.
        """
        plan = _plan(self._logs, told, progress)
        left = records(plan, self._entities, origin=origin)
        while batch := self._batch_of(left):
            try:
                self._outbox.send(Outgoing(others=batch), [], self._member.consumer_group_metadata())
            except Fenced as error:
                raise Fatal(
                    f"another import of labels into {self._topics.labels_joined}, or the joiner, has begun and locked "
                    "this one out",
                    remedy="let the import finish; then run this again for what is left",
                ) from error
            written(len(batch))
        return plan

    def _batch_of(self, left: Iterator[tuple[int, bytes | None, JoinedLabel]]) -> list[Record]:
        topic = self._topics.labels_joined
        return [
            (topic, partition, key, self._encode(label), [])
            for partition, key, label in islice(left, self._batch)
        ]

    def close(self) -> None:
        """Drop what is not committed."""
        self._outbox.close()
        self._member.close()


def _plan(logs: LabelLogs, told: Mapping[str, Sequence[Told]], progress: Callable[[int], None]) -> ImportPlan:
    decided = decide(told, logs.present(told))
    found, incomplete = logs.events(decided.sought, progress=progress)
    return plan_import(decided, found, incomplete)
