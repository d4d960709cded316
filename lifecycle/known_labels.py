"""Labels of files, given to the engine as they become known: never to their own event, never before their time.

A label file says what an event turned out to be. When that was known is a delay after the event, or stands in
the file (column ``known_at``). Rows are processed in file order, so a label is noted with its event's row and
waits until stream time has reached the moment at which it was known (docs/features.md, "Labels").
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from domain.batch import EventBatch, Floats, Ints
from domain.clock import to_micros
from domain.errors import Fatal
from domain.examples import Examples
from domain.label import LabelBatch
from domain.pipeline import Pipeline
from domain.privacy import Protector
from lifecycle.event_files import KNOWN_AT, read_label_rows
from lifecycle.event_rows import column_names

__all__ = ["History", "KnownLabels", "label_as_of", "last_labels", "read_histories"]

History = Sequence[tuple[int, float]]
"""What was said of one event: (known at, UTC microseconds; 1, 0 or NaN for unknown again), oldest first."""

_TIME_LIMIT = 2**53
_NEVER = 2**62


class _Statement(NamedTuple):
    """From ``known_at`` on an event counts as ``label``; ordered by that, then by the log."""

    known_at: int
    offset: int
    number: int
    label: float
    change: int
    time: int
    entities: tuple[str, ...]
    last: bool


class KnownLabels:
    """Labels that wait for the stream time at which they are known, per partition.

    ``label_delay`` (microseconds) is how long after its event a label is known, unless ``histories`` (by event
    id) say when. Whatever these say, an event's label is known one microsecond after the stream time of the
    event's own row at the earliest. Memory: the events that ever were positive.

    With ``learn`` labels of all kinds are given out, each with what the engine had said of its event
    (:meth:`said`). Memory is then also the vectors of events whose labels wait.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        label_delay: int,
        histories: Mapping[str, History] | None = None,
        *,
        learn: bool = False,
    ) -> None:
        self._entities = pipeline.entities
        self._shape = (len(pipeline.feature_names), len(pipeline.detectors))
        self._delay = label_delay
        self._learn = learn
        # where nothing ever was positive there is nothing to count
        self._histories = (
            histories
            if histories is None or learn
            else {id_: told for id_, told in histories.items() if any(label == 1 for _, label in told)}
        )
        self._seen: set[str] = set()
        self._stream_time: dict[int, int] = {}
        self._waiting: dict[int, list[_Statement]] = {}
        self._counted: dict[int, int] = {}
        self._said: dict[tuple[int, int], tuple[Floats, Floats, float, float | None]] = {}

    def steps(
        self, partition: int, batch: EventBatch, labels: Floats
    ) -> Iterator[tuple[int, int, LabelBatch]]:
        """Parts [start, stop) of ``batch`` with the labels due in them; call :meth:`said` after each.

        One part, unless what is learned from a label hangs on what was said of an event of the same batch.
        """
        start = 0
        while start < len(batch):
            stop = self._note(partition, batch, labels, start)
            yield start, stop, self.due(partition, self._stream_time[partition])
            start = stop

    def note(self, partition: int, batch: EventBatch, labels: Floats) -> int:
        """Take note of what the events of ``batch`` will turn out to be, before the engine sees them.

        ``labels`` is float64[n] (1 fraud, 0 not, NaN unknown), without meaning when there are histories. Of
        events with the same id the first that is labelled counts. Returns the stream time after the batch, up
        to which labels are :meth:`due` in it. For a learning engine use :meth:`steps`.
        """
        start = 0
        while start < len(batch):
            start = self._note(partition, batch, labels, start)
        return self._stream_time.get(partition, 0)

    def _note(self, partition: int, batch: EventBatch, labels: Floats, start: int) -> int:
        """Note rows from ``start`` on, up to the first at which a label noted on the way is known; that row."""
        before = self._stream_time.get(partition, 0)
        stream = np.maximum.accumulate(np.maximum(batch.times[start:], before))
        rows: Sequence[int]
        if self._histories is not None:
            rows = [row for row in range(start, len(batch)) if batch.ids[row] in self._histories]
        elif self._learn:
            rows = (np.flatnonzero(~np.isnan(labels[start:])) + start).tolist()
        else:
            rows = (np.flatnonzero(labels[start:] == 1.0) + start).tolist()
        waiting = self._waiting.setdefault(partition, [])
        stop, first_known = len(batch), _NEVER
        for row in rows:
            if self._learn and int(stream[row - start]) >= first_known:
                stop = start + int(np.searchsorted(stream, first_known))
                break
            id_ = batch.ids[row]
            if id_ in self._seen:
                continue
            self._seen.add(id_)
            for one in self._told(batch, row, int(stream[row - start]), labels):
                heapq.heappush(waiting, one)
                first_known = min(first_known, one.known_at)
        else:
            if self._learn and len(stream) and int(stream[-1]) >= first_known:
                stop = start + int(np.searchsorted(stream, first_known))
        self._stream_time[partition] = int(stream[stop - start - 1]) if stop > start else before
        return stop

    def _told(self, batch: EventBatch, row: int, stream_time: int, labels: Floats) -> Iterator[_Statement]:
        time = int(batch.times[row])
        told: History = (
            [(time + self._delay, float(labels[row]))]
            if self._histories is None
            else self._histories[batch.ids[row]]
        )
        entities = tuple(batch.entities[name][row] for name in self._entities)
        previous = math.nan
        for number, (told_at, label) in enumerate(told):
            change = int(label == 1) - int(previous == 1)
            previous = label
            if change or self._learn:
                known_at = max(told_at, stream_time + 1)
                offset, last = int(batch.offsets[row]), number == len(told) - 1
                yield _Statement(known_at, offset, number, label, change, time, entities, last)

    def said(
        self,
        partition: int,
        offsets: Ints,
        x: Floats,
        ranks: Floats | None = None,
        score: Floats | None = None,
        own: Floats | None = None,
    ) -> None:
        """What the engine made of events: vectors, ranks and score; the latter None where it gave none.

        ``own`` are the scores of the pipeline's own detectors, where models from the registry are in force.
        """
        if not self._learn:
            return
        none = np.full(self._shape[1], np.nan)
        for row, offset in enumerate(offsets.tolist()):
            given = none if ranks is None else ranks[row]
            self._said[partition, offset] = (
                x[row],
                given,
                math.nan if score is None else float(score[row]),
                None if own is None else float(own[row]),
            )

    def due(self, partition: int, stream_time: int) -> LabelBatch:
        """The changes known at ``stream_time`` that were not given out yet; offsets count on from 0."""
        waiting = self._waiting.get(partition, [])
        found = []
        while waiting and waiting[0].known_at <= stream_time:
            found.append(heapq.heappop(waiting))
        first = self._counted.get(partition, 0)
        self._counted[partition] = first + len(found)
        known_at = np.array([one.known_at for one in found], dtype=np.int64)
        times = np.array([one.time for one in found], dtype=np.int64)
        return LabelBatch(
            offsets=np.arange(first, first + len(found), dtype=np.int64),
            known_at=known_at,
            times=times,
            entities={name: [one.entities[i] for one in found] for i, name in enumerate(self._entities)},
            change=np.array([one.change for one in found], dtype=np.int64),
            examples=self._examples(partition, found, times, known_at) if self._learn else None,
        )

    def _examples(self, partition: int, found: list[_Statement], times: Ints, known_at: Ints) -> Examples:
        examples = Examples.none(*self._shape)
        if not found:
            return examples
        said = []
        for one in found:
            where = (partition, one.offset)
            said.append(self._said.pop(where) if one.last else self._said[where])
        return Examples(
            x=np.array([x for x, _, _, _ in said]),
            y=np.array([one.label for one in found]),
            ranks=np.array([ranks for _, ranks, _, _ in said]).reshape(len(said), self._shape[1]),
            score=np.array([score for _, _, score, _ in said]),
            times=times,
            known_at=known_at,
            own=None
            if all(own is None for _, _, _, own in said)
            else np.array([score if own is None else own for _, _, score, own in said]),
        )


def label_as_of(told: History, as_of: int | None) -> tuple[float, int]:
    """The label that held at ``as_of`` (None: in the end) and since when; (NaN, -1) when none was known.

    >>> label_as_of([(10, 1.0), (20, 0.0)], 15)
    (1.0, 10)
    """
    found = (math.nan, -1)
    for known_at, label in told:
        if as_of is not None and known_at > as_of:
            break
        found = label, known_at
    return found if found[0] == found[0] else (math.nan, -1)


def last_labels(histories: Mapping[str, History]) -> dict[str, float]:
    """What each event was in the end, without the unknown ones."""
    last = {id_: told[-1][1] for id_, told in histories.items()}
    return {id_: label for id_, label in last.items() if not math.isnan(label)}


def read_histories(
    path: Path, pipeline: Pipeline, protector: Protector, *, label_column: str | None = None
) -> dict[str, History] | None:
    """What a label file tells of each event id (as in verdicts) and when; None without a column ``known_at``.

    Times are timestamps, ISO 8601 text (UTC where it names no zone) or whole microseconds since 1970. Rows of
    one id are changes of its label, ordered by known-at, those of the same moment by row; an empty label means
    unknown again. Raises ServiceMissing, and Fatal naming the row.
    """
    if KNOWN_AT not in column_names(path) or any(f.source == KNOWN_AT for f in pipeline.event.fields):
        return None
    found: dict[str, list[tuple[int, float]]] = {}
    rows = read_label_rows(path, pipeline, protector, label_column=label_column, also=KNOWN_AT)
    for row, id_, label, cell in rows:
        found.setdefault(id_, []).append((_time(cell, path, row), label))
    for told in found.values():
        told.sort(key=lambda change: change[0])
    return dict(found)


def _time(cell: Any, path: Path, row: int) -> int:
    value = cell
    try:
        if isinstance(value, str):
            value = int(value) if value.isascii() and value.isdigit() else datetime.fromisoformat(value)
        if isinstance(value, datetime):
            value = to_micros(value if value.tzinfo is not None else value.replace(tzinfo=UTC))
    except (ValueError, OverflowError):
        value = None
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < _TIME_LIMIT:
        raise Fatal(
            f"{path.name}: row {row}: {KNOWN_AT} is {str(cell)[:40]!r}, which is no time.",
            remedy="write when the label was known, such as 2026-01-31T08:00:00Z; or leave the whole column out "
            "and say --label-delay.",
        )
    return value
