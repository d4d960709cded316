"""Labels of files, given to the engine as they become known: never to their own event, never before their time.

A label file says what an event turned out to be. When that was known is a delay after the event, or stands in
the file (column ``known_at``). Rows are processed in file order, so a label is noted with its event's row and
waits until stream time has reached the moment at which it was known (docs/features.md, "Labels").
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from domain.batch import EventBatch, Floats
from domain.clock import to_micros
from domain.errors import Fatal
from domain.label import LabelBatch
from domain.pipeline import Pipeline
from domain.privacy import Protector
from lifecycle.event_files import KNOWN_AT, read_label_rows
from lifecycle.event_rows import column_names

__all__ = ["History", "KnownLabels", "label_as_of", "last_labels", "read_histories"]

History = Sequence[tuple[int, float]]
"""What was said of one event: (known at, UTC microseconds; 1, 0 or NaN for unknown again), oldest first."""

_TIME_LIMIT = 2**53


class KnownLabels:
    """Positive labels that wait for the stream time at which they are known, per partition.

    ``label_delay`` (microseconds) is how long after its event a label is known, unless ``histories`` (by event
    id) say when. Whatever these say, an event's label is known one microsecond after the stream time of the
    event's own row at the earliest. Memory: the events that ever were positive.
    """

    def __init__(
        self, pipeline: Pipeline, label_delay: int, histories: Mapping[str, History] | None = None
    ) -> None:
        self._entities = pipeline.entities
        self._delay = label_delay
        # where nothing ever was positive there is nothing to count
        self._histories = (
            None
            if histories is None
            else {id_: told for id_, told in histories.items() if any(label == 1 for _, label in told)}
        )
        self._seen: set[str] = set()
        self._stream_time: dict[int, int] = {}
        self._waiting: dict[int, list[tuple[int, int, int, int, int, tuple[str, ...]]]] = {}
        self._counted: dict[int, int] = {}

    def note(self, partition: int, batch: EventBatch, labels: Floats) -> int:
        """Take note of what the events of ``batch`` will turn out to be, before the engine sees them.

        ``labels`` is float64[n] (1 fraud, 0 not, NaN unknown), without meaning when there are histories. Of
        events with the same id the first that is positive counts. Returns the stream time after the batch, up
        to which labels are :meth:`due` in it.
        """
        before = self._stream_time.get(partition, 0)
        stream = np.maximum.accumulate(np.concatenate([[before], batch.times]))[1:]
        rows: Sequence[int]
        if self._histories is None:
            rows = np.flatnonzero(labels == 1.0).tolist()
        else:
            rows = [row for row, id_ in enumerate(batch.ids) if id_ in self._histories]
        waiting = self._waiting.setdefault(partition, [])
        for row in rows:
            id_ = batch.ids[row]
            if id_ in self._seen:
                continue
            self._seen.add(id_)
            time = int(batch.times[row])
            told: History = [(time + self._delay, 1.0)] if self._histories is None else self._histories[id_]
            earliest = int(stream[row]) + 1
            entities = tuple(batch.entities[name][row] for name in self._entities)
            previous = math.nan
            for number, (known_at, label) in enumerate(told):
                change = int(label == 1) - int(previous == 1)
                previous = label
                if change:
                    # ordered by when it was known, then by the log: how rows are batched has no say
                    heapq.heappush(
                        waiting,
                        (max(known_at, earliest), int(batch.offsets[row]), number, change, time, entities),
                    )
        end = int(stream[-1]) if len(stream) else before
        self._stream_time[partition] = end
        return end

    def due(self, partition: int, stream_time: int) -> LabelBatch:
        """The changes known at ``stream_time`` that were not given out yet; offsets count on from 0."""
        waiting = self._waiting.get(partition, [])
        found = []
        while waiting and waiting[0][0] <= stream_time:
            found.append(heapq.heappop(waiting))
        first = self._counted.get(partition, 0)
        self._counted[partition] = first + len(found)
        return LabelBatch(
            offsets=np.arange(first, first + len(found), dtype=np.int64),
            known_at=np.array([change[0] for change in found], dtype=np.int64),
            times=np.array([change[4] for change in found], dtype=np.int64),
            entities={name: [change[5][i] for change in found] for i, name in enumerate(self._entities)},
            change=np.array([change[3] for change in found], dtype=np.int64),
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
