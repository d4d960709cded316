"""One partition of the log as its worker saw it: events with their verdicts, and labels when they counted."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any, Protocol

import msgspec
import numpy as np
import numpy.typing as npt

from domain.batch import EventBatch, Floats, Ints
from domain.codec import EventCodec
from domain.errors import EventRejected, Fatal
from domain.label import LabelBatch
from domain.label_codec import JoinedLabel, LabelCodec
from domain.pipeline import Pipeline
from domain.verdict import Flag, Source
from featurestore.tables import Advanced
from lifecycle.features_export import Engine
from stream.decoding import decode_messages, erasure_of

__all__ = ["Lane", "Logs", "Piece", "Records", "Tally", "one_by_one", "side_by_side"]

CHUNK = 2_000
"""Verdicts, and events, read at once per partition: bounds memory."""


class _Versions(msgspec.Struct, frozen=True, gc=False):
    pipeline_digest: str


class _Verdict(msgspec.Struct, frozen=True, gc=False):
    """The part of a verdict that says what was scored, and how."""

    source: Source
    flags: list[str]
    features: dict[str, float | None] | None
    versions: _Versions
    labels_offset: int | None = None


class Records(Protocol):
    """Records of one topic by partition; :class:`stream.spool.Spool` is the one there is."""

    def peek(self, partition: int) -> Any | None:
        """The next record of ``partition``, which stays; None at the end."""
        ...

    def take(self, partition: int) -> Any | None:
        """As :meth:`peek`, and go on."""
        ...


@dataclass(frozen=True, slots=True)
class Logs:
    """The three topics; ``labels`` is None when no feature counts labels.

    ``cut``: partitions whose first verdicts are deleted.
    """

    events: Records
    verdicts: Records
    labels: Records | None
    cut: frozenset[int]


@dataclass(slots=True)
class Tally:
    """What was met on the way; see ``stream.feature_log.TopicExport``."""

    verdicts: int = 0
    without_verdict: int = 0
    without_event: int = 0
    compared: int = 0
    by_known_at: int = 0
    differing: Ints = field(default_factory=lambda: np.zeros(0, dtype=np.int64))


@dataclass(frozen=True, slots=True)
class Piece:
    """Consecutive events of one partition that were scored with the same labels, and what the engine says now.

    ``exported`` (bool[n]): those that have a verdict.
    """

    partition: int
    batch: EventBatch
    advanced: Advanced
    exported: npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class _Block:
    """Some events: when each was appended (ms), the labels it was scored with (-1: not told), its live vector."""

    batch: EventBatch
    appended: Ints
    labels_offset: Ints
    exported: npt.NDArray[np.bool_]
    comparable: npt.NDArray[np.bool_]
    vectors: Floats


class Lane:
    """Moves one partition's engine over its part of the log, as far as it is told to."""

    def __init__(
        self, pipeline: Pipeline, partition: int, engine: Engine, codec: EventCodec, logs: Logs, tally: Tally
    ) -> None:
        self.partition = partition
        self._pipeline = pipeline
        self._names = pipeline.feature_names
        self._engine = engine
        self._codec = codec
        self._label_codec = LabelCodec(pipeline)
        self._decode = msgspec.json.Decoder(_Verdict).decode
        self._logs = logs
        self._tally = tally
        self._block: _Block | None = None
        self._row = 0
        self._appended = 0
        self._last_verdict = -1
        self._lost_below = 0
        self._known: dict[int, _Verdict] = {}
        self._stream_time = 0
        self._waiting: deque[tuple[int, JoinedLabel]] = deque()

    @property
    def appended(self) -> int | None:
        """When the next event was appended to the log (UTC milliseconds); None: there is none."""
        while self._block is None or self._row == len(self._block.batch):
            self._block = self._read()
            self._row = 0
            if self._block is None:
                return None
        return int(self._block.appended[self._row])

    def advance(self, until: int | None) -> list[Piece]:
        """Move on over the next events, those appended before ``until`` (UTC milliseconds; None: all).

        Ends with what is in memory: call it again. Raises Retriable, Fatal.
        """
        if self.appended is None or self._block is None:
            return []
        block, start = self._block, self._row
        stop = len(block.batch)
        if until is not None:
            stop = int(np.searchsorted(block.appended, until, side="left"))
        changes = np.flatnonzero(np.diff(block.labels_offset[start:stop])) + start + 1
        edges = [start, *changes.tolist(), stop]
        pieces = []
        for first, end in pairwise(edges):
            if first < end:
                pieces.append(self._piece(block, first, end))
        self._row = max(start, stop)
        return pieces

    def _piece(self, block: _Block, start: int, stop: int) -> Piece:
        batch = _between(block.batch, start, stop)
        self._stream_time = max(self._stream_time, int(batch.times.max()))
        labels = None
        if self._logs.labels is not None:
            offset = int(block.labels_offset[start])
            labels = self._labels_below(offset) if offset >= 0 else self._labels_known(self._stream_time)
            self._tally.by_known_at += 0 if offset >= 0 else int(block.exported[start:stop].sum())
        advanced = self._engine.advance(batch, labels)
        rows = np.flatnonzero(block.comparable[start:stop] & ~advanced.duplicate)
        self._tally.compared += len(rows)
        differs = _bits(advanced.features[rows]) != _bits(block.vectors[start:stop][rows])
        self._tally.differing += differs.sum(axis=0)
        return Piece(self.partition, batch, advanced, block.exported[start:stop])

    # -- reading

    def _read(self) -> _Block | None:
        if not self._known:
            self._read_verdicts()
        if not self._known:
            return None
        messages: list[Any] = []
        events, reached = self._logs.events, self._last_verdict
        while (message := events.peek(self.partition)) is not None and message.offset() <= reached:
            erasure = erasure_of(self._codec, message)
            if erasure is not None and messages:
                # what was read is advanced first: the engine stands at the erasure when it is met again
                reached = messages[-1].offset()
                break
            if erasure is not None:
                self._engine.erase(erasure, message.offset())
                events.take(self.partition)
                continue
            if len(messages) == CHUNK:
                reached = messages[-1].offset()
                break
            messages.append(events.take(self.partition))
        here = {offset: verdict for offset, verdict in self._known.items() if offset <= reached}
        self._known = {offset: verdict for offset, verdict in self._known.items() if offset > reached}
        return self._aligned(messages, here)

    def _read_verdicts(self) -> None:
        last = self._last_verdict
        while len(self._known) < CHUNK:
            message = self._logs.verdicts.take(self.partition)
            if message is None:
                break
            verdict = self._verdict(message)
            if verdict.source.offset <= last:
                raise Fatal(
                    f"{message.topic()} {self.partition}:{message.offset()} is a verdict about offset "
                    f"{verdict.source.offset} of the events, after one about offset {last}",
                    remedy="somebody else writes there, or the events topic was made anew under the verdicts; an "
                    "export needs the verdicts of one log",
                )
            if last < 0 and self.partition in self._logs.cut:
                self._lost_below = verdict.source.offset
            last = verdict.source.offset
            self._known[last] = verdict
        self._last_verdict = last
        self._tally.verdicts += len(self._known)

    def _aligned(self, messages: list[Any], known: dict[int, _Verdict]) -> _Block:
        """Events and their verdicts; without one only those whose verdicts are deleted."""
        decoded = decode_messages(self._codec, messages)
        events, indices = [], []
        for event, index in zip(decoded.events, decoded.accepted, strict=True):
            offset = messages[index].offset()
            if offset in known or offset < self._lost_below:
                events.append(event)
                indices.append(index)
            else:
                self._tally.without_verdict += 1
        batch = self._codec.to_batch(events, [messages[i].offset() for i in indices])
        found = [known.get(offset) for offset in batch.offsets.tolist()]
        self._tally.without_event += len(known) - sum(verdict is not None for verdict in found)
        appended = [self._appended, *(messages[i].timestamp()[1] for i in indices)]
        monotone = np.maximum.accumulate(np.array(appended, dtype=np.int64))
        self._appended = int(monotone[-1])
        return _Block(
            batch=batch,
            appended=monotone[1:],
            labels_offset=_labels_offsets(found),
            exported=np.array([verdict is not None for verdict in found], dtype=np.bool_),
            comparable=np.array([self._is_comparable(verdict) for verdict in found], dtype=np.bool_),
            vectors=self._vectors(found),
        )

    def _verdict(self, message: Any) -> _Verdict:
        try:
            return self._decode(message.value() or b"")
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise Fatal(
                f"{message.topic()} {self.partition}:{message.offset()} is no verdict: {error}",
                remedy="let nobody but the workers write there",
            ) from error

    def _is_comparable(self, verdict: _Verdict | None) -> bool:
        return (
            verdict is not None
            and verdict.features is not None
            and verdict.versions.pipeline_digest == self._pipeline.digest
            and Flag.DEGRADED not in verdict.flags
        )

    def _vectors(self, verdicts: list[_Verdict | None]) -> Floats:
        vectors: Floats = np.full((len(verdicts), len(self._names)), np.nan)
        for row, verdict in enumerate(verdicts):
            if verdict is not None and verdict.features is not None:
                values = [verdict.features.get(name) for name in self._names]
                vectors[row] = [np.nan if value is None else value for value in values]
        return vectors

    # -- labels

    def _labels_below(self, offset: int) -> LabelBatch | None:
        """Labels of the log before ``offset`` that were not counted yet, all to be counted at once."""
        taken = []
        while (label := self._next_label()) is not None and label[0] < offset:
            taken.append(self._waiting.popleft())
        labels = self._as_batch(taken)
        return labels and replace(labels, known_at=np.zeros(len(taken), dtype=np.int64))

    def _labels_known(self, stream_time: int) -> LabelBatch | None:
        """The next labels of the log, up to the first that is not known at ``stream_time``."""
        taken = []
        while (label := self._next_label()) is not None and label[1].known_at <= stream_time:
            taken.append(self._waiting.popleft())
        return self._as_batch(taken)

    def _as_batch(self, labels: list[tuple[int, JoinedLabel]]) -> LabelBatch | None:
        if not labels:
            return (
                None  # most pieces: spares the engine looking at no labels, a third of a small piece's time
            )
        return self._label_codec.to_batch([label for _, label in labels], [offset for offset, _ in labels])

    def _next_label(self) -> tuple[int, JoinedLabel] | None:
        spool = self._logs.labels
        while not self._waiting and spool is not None and (message := spool.take(self.partition)) is not None:
            try:
                label = self._label_codec.decode(
                    message.value() or b"", received_at=message.timestamp()[1] * 1000
                )
            except EventRejected:
                continue  # a dead letter: no feature ever counted it
            self._waiting.append((message.offset(), label))
        return self._waiting[0] if self._waiting else None


def one_by_one(lanes: list[Lane]) -> Iterator[Piece]:
    """Partitions that share no entity: one after the other gives the same, in larger steps."""
    for lane in lanes:
        while lane.appended is not None:
            yield from lane.advance(None)


def side_by_side(lanes: list[Lane]) -> Iterator[Piece]:
    """In the order in which events were appended, to the millisecond that Kafka knows; ties by partition."""
    while True:
        heads = sorted(
            (appended, lane.partition, lane) for lane in lanes if (appended := lane.appended) is not None
        )
        if not heads:
            return
        _, partition, lane = heads[0]
        until = None
        if len(heads) > 1:
            other, other_partition, _ = heads[1]
            until = other + 1 if partition < other_partition else other
        yield from lane.advance(until)


def _labels_offsets(verdicts: list[_Verdict | None]) -> Ints:
    """The ``labels_offset`` of each; events before the first verdict (theirs are deleted) as that one."""
    told = [None if v is None else -1 if v.labels_offset is None else v.labels_offset for v in verdicts]
    first = next((offset for offset in told if offset is not None), -1)
    return np.array([first if offset is None else offset for offset in told], dtype=np.int64)


def _between(batch: EventBatch, start: int, stop: int) -> EventBatch:
    if start == 0 and stop == len(batch):
        return batch
    rows = slice(start, stop)
    return EventBatch(
        ids=batch.ids[rows],
        times=batch.times[rows],
        offsets=batch.offsets[rows],
        entities={name: values[rows] for name, values in batch.entities.items()},
        numbers={name: values[rows] for name, values in batch.numbers.items()},
        strings={name: values[rows] for name, values in batch.strings.items()},
    )


def _bits(values: Floats) -> Ints:
    """The bits of each number; whatever JSON has no number for is the same missing value."""
    return np.ascontiguousarray(np.where(np.isfinite(values), values, np.nan)).view(np.int64)
