"""One micro-batch: from Kafka records to everything that its transaction will hold."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from confluent_kafka import TopicPartition

from domain.batch import EventBatch
from domain.erasure import Erasure
from domain.errors import StateFenced, StoreUnavailable
from featurestore.ports import EntityRequest
from featurestore.tables import FeatureTables
from scoring.scored import ScoredBatch
from stream.dead_letters import dead_letter, reply_body
from stream.decoding import Decoded, cut_at_erasures, decode_messages
from stream.label_feed import CHUNK, DueLabels, LabelFeed
from stream.outbox import Headers, Outgoing
from stream.takeover import write_note
from stream.task import PartitionTask
from stream.topics import HEADER_REPLY_PARTITION, HEADER_REQUEST_ID, HEADER_TRACEPARENT, Topics
from stream.worker_parts import WorkerParts

__all__ = ["MicroBatch", "MicroBatcher", "Part"]

MAX_TAG_BYTES = 128
"""Longest request id (ours have 32 bytes) and traceparent (55) passed on: other people's headers may be huge."""


@dataclass(slots=True)
class Part:
    """The records of one partition, and what was decoded of them; or one record that is an ``erasure``."""

    task: PartitionTask
    messages: list[Any]
    decoded: Decoded
    erasure: Erasure | None = None


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """A scored micro-batch: what to write, and the offsets that are consumed with it."""

    parts: list[Part]
    scored: list[ScoredBatch]
    outgoing: Outgoing
    offsets: list[TopicPartition]


class MicroBatcher:
    """Decodes and scores micro-batches with the tasks of a session whose transactional id is ``owner``.

    ``labels`` is None when no feature counts labels.
    """

    def __init__(
        self,
        parts: WorkerParts,
        tables: FeatureTables,
        labels: LabelFeed | None,
        owner: str,
        reply_partitions: int,
    ) -> None:
        self._labels = labels
        self._owner = owner
        self._parts = parts
        self._topics = Topics(parts.pipeline.name)
        self._tables = tables
        self._reply_partitions = reply_partitions
        self._others: dict[int, int] = {}

    def cut(self, messages: list[Any]) -> list[tuple[list[Any], Erasure | None]]:
        """``messages`` as pieces, each to be a micro-batch: an erasure is one of its own."""
        return cut_at_erasures(self._parts.codec, messages)

    def decode(
        self, messages: list[Any], tasks: Mapping[int, PartitionTask], erasure: Erasure | None = None
    ) -> list[Part]:
        """Records of held partitions that memory has not scored yet, decoded."""
        started = self._parts.clock.monotonic()
        by_partition: dict[int, list[Any]] = {}
        for message in messages:
            by_partition.setdefault(message.partition(), []).append(message)
        parts = []
        for partition, records in sorted(by_partition.items()):
            task = tasks.get(partition)
            if task is None:
                continue  # revoked between fetch and now; its new owner reads them
            # after a seek, records fetched before it may still come out of the queue
            fresh = [m for m in records if m.offset() >= task.scored_offset]
            if fresh and erasure is not None:
                parts.append(Part(task, fresh, Decoded([], [], []), erasure))
            elif fresh:
                parts.append(Part(task, fresh, decode_messages(self._parts.codec, fresh)))
        self._parts.metrics.stage_seconds.labels("decode").inc(self._parts.clock.monotonic() - started)
        return parts

    def score(self, parts: list[Part], tasks: Mapping[int, PartitionTask]) -> MicroBatch:
        """Move the tasks on over ``parts``; ``tasks`` are all that are held.

        Raises StoreUnavailable, or StateFenced when the store has lost state, before anything has changed.
        """
        clock, metrics = self._parts.clock, self._parts.metrics
        started = clock.monotonic()
        batches = []
        requests = []
        for part in parts:
            batch = self._parts.codec.to_batch(
                part.decoded.events, [part.messages[i].offset() for i in part.decoded.accepted]
            )
            due = self._due(part.task, batch, tasks)
            batches.append((batch, due))
            requests += part.task.scorer.requests(batch, None if due is None else due.labels)
            if part.erasure is not None:
                requests += part.task.scorer.erasure_requests(part.erasure)
        decoded_at = clock.monotonic()
        # nothing has changed yet: when the store is away, the batch is simply read again
        self._load(requests, tasks)
        loaded_at = clock.monotonic()
        outgoing = Outgoing()
        scored_batches = []
        offsets = []
        note = write_note(self._owner, clock.now())
        for part, (batch, due) in zip(parts, batches, strict=True):
            end = part.messages[-1].offset() + 1
            part.task.scored_offset = end
            offsets.append(TopicPartition(self._topics.events, part.task.partition, end, note))
            if part.erasure is not None:
                part.task.scorer.erase(part.erasure, end - 1, loaded=True)
                metrics.erasures.inc()
            if len(batch):
                scored = part.task.scorer.process(
                    batch,
                    labels=None if due is None else due.labels,
                    loaded=True,
                    degraded=part.task.incomplete,
                )
                scored_batches.append(scored)
                self._write_verdicts(part, scored, outgoing)
            if due is not None:
                self._take(part.task, due)
            if self._labels is not None:
                offsets.append(
                    TopicPartition(
                        self._topics.labels_joined, part.task.partition, part.task.scored_labels, note
                    )
                )
            self._write_dead_letters(part, outgoing)
            outgoing.others += part.task.letters
            part.task.letters = []
        scored_at = clock.monotonic()
        metrics.stage_seconds.labels("decode").inc(decoded_at - started)
        metrics.stage_seconds.labels("load").inc(loaded_at - decoded_at)
        metrics.stage_seconds.labels("score").inc(scored_at - loaded_at)
        return MicroBatch(parts, scored_batches, outgoing, offsets)

    def _load(self, requests: Sequence[EntityRequest], tasks: Mapping[int, PartitionTask]) -> None:
        if requests:
            found = self._parts.store.load_entities(requests)
            asked = {request.partition for request in requests}
            self.check_nothing_lost(asked & tasks.keys(), tasks)
            self._check_others(asked - tasks.keys(), tasks)
            self._tables.load(requests, found)

    def check_nothing_lost(self, partitions: Iterable[int], tasks: Mapping[int, PartitionTask]) -> None:
        """See that the store still reflects what it once did of held ``partitions``.

        An entity that is not stored is one without a past, unless Redis was emptied or came back with an older
        state; so look here after reading entities (what is there now was there before). Raises StateFenced when
        something was lost, StoreUnavailable.
        """
        for partition in sorted(partitions):
            known = tasks[partition].applied
            if known is None:
                continue
            stored = self._parts.store.load_applied(partition)
            if stored is None or stored.progress < known.progress:
                raise StateFenced(
                    f"the online state of partition {partition} went back from offset {known.next_offset} to "
                    f"{'nothing' if stored is None else stored.next_offset}: Redis has lost data",
                    remedy="nothing to do now, state is rebuilt from the log; look why Redis lost it "
                    "(FLUSHALL, a truncated append-only file, a failover)",
                )

    def _check_others(self, partitions: Iterable[int], tasks: Mapping[int, PartitionTask]) -> None:
        """The same of partitions that other workers own, whose entities we merge with ours.

        Raises StoreUnavailable: they have to rebuild it, and until then we wait as if Redis were away.
        """
        for partition in sorted(partitions):
            stored = self._parts.store.load_applied(partition)
            progress = 0 if stored is None else stored.progress
            if progress < self._others.get(partition, 0):
                # what they lost we may have lost too, and they may be waiting for us
                self.check_nothing_lost(tasks, tasks)
                raise StoreUnavailable(
                    f"the online state of partition {partition}, which another worker owns, went back",
                    remedy="none needed: its owner rebuilds it from the log; look why Redis lost data",
                )
            self._others[partition] = progress

    def _due(
        self, task: PartitionTask, batch: EventBatch, tasks: Mapping[int, PartitionTask]
    ) -> DueLabels | None:
        """Labels to count among the events of ``batch``.

        Those that count before all of them are applied at once, a chunk at a time: after a long pause, or for a
        new pipeline on an old log, they may be many. Memory is then ahead of the log by labels only; they are
        committed with the batch, or with the one that is read instead of it when the store is away.
        """
        if self._labels is None or not len(batch):
            return None
        now = task.scorer.stream_time
        first = max(now, int(batch.times[0]))
        while True:
            due = self._labels.due(task.partition, first, limit=CHUNK)
            if len(due.labels) + len(due.refused) < CHUNK:
                break
            self._load(task.scorer.label_requests(due.labels), tasks)
            task.scorer.apply_labels(due.labels, loaded=True)
            self._take(task, due)
        return self._labels.due(task.partition, max(now, int(batch.times.max())))

    def _take(self, task: PartitionTask, due: DueLabels) -> None:
        if self._labels is None:
            return
        self._labels.taken(task.partition, due.next_offset)
        task.scored_labels = due.next_offset
        metrics = self._parts.metrics
        metrics.labels.inc(len(due.labels))
        for message, why in due.refused:
            metrics.dead_letters.labels(why.reason.value).inc()
            letter = dead_letter(message, why)
            task.letters.append((self._topics.label_dead_letters, task.partition, *letter))

    def _write_verdicts(self, part: Part, scored: ScoredBatch, outgoing: Outgoing) -> None:
        encoder, partition = self._parts.encoder, part.task.partition
        now = self._parts.clock.now()
        verdicts = encoder.verdicts(scored, partition=partition, scored_at=now)
        encode = encoder.encode
        values = [encode(verdict) for verdict in verdicts]
        keys = self._keys(part, scored)
        plain: list[tuple[bytes | None, bytes]] = list(zip(keys, values, strict=True))
        outgoing.verdicts[partition] = plain
        for row, index in enumerate(part.decoded.accepted):
            headers = part.messages[index].headers()
            if headers:
                self._reply(headers, values[row], [], outgoing)
        for row in np.flatnonzero((scored.decision > 0) & (scored.first_offset < 0)).tolist():
            headers = part.messages[part.decoded.accepted[row]].headers()
            alert = encode(encoder.alert(verdicts[row], encoder.amount(scored, row)))
            outgoing.others.append((self._topics.alerts, -1, keys[row], alert, _trace(headers)))

    def _keys(self, part: Part, scored: ScoredBatch) -> list[bytes | None]:
        """Keys of verdicts and alerts: the events', or the keyed hashes of these where the key field is sensitive."""
        event = self._parts.pipeline.event
        if event.field(event.key).sensitive:
            return [text.encode() for text in scored.batch.entities[event.key]]
        return [part.messages[i].key() for i in part.decoded.accepted]

    def _write_dead_letters(self, part: Part, outgoing: Outgoing) -> None:
        for index, why in part.decoded.rejected:
            message = part.messages[index]
            letter = dead_letter(message, why)
            outgoing.others.append((self._topics.dead_letters, part.task.partition, *letter))
            if message.headers():
                body, extra = reply_body(why)
                self._reply(message.headers(), body, extra, outgoing)

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


def _trace(headers: Headers | None) -> Headers:
    return [
        (name, value)
        for name, value in headers or []
        if name == HEADER_TRACEPARENT and len(value or b"") <= MAX_TAG_BYTES
    ]
