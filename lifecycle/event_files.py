"""Files of past events and labels, as the engine wants them: columns in file order, and refused rows."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from domain.batch import EventBatch, Floats
from domain.codec import DecodedEvent, EventCodec
from domain.errors import EventRejected, Fatal, Reject
from domain.pipeline import Pipeline
from domain.privacy import Protector
from lifecycle.event_rows import column_names, first_rows, read_columns, read_rows

__all__ = [
    "FileChunk",
    "RejectedRow",
    "find_label_column",
    "parse_label",
    "read_events",
    "read_label_rows",
    "read_labels",
]

KNOWN_AT = "known_at"
"""The column that says since when each label of a file was known."""

NEVER = 2**62
"""As ``received_at``: no event time is too far ahead."""

_LABEL_NAMES = ("label", "is_fraud", "isfraud", "fraud", "tx_fraud", "fraud_label", "class", "target", "y")
_FRAUD = {"1", "1.0", "true", "fraud", "yes"}
_HONEST = {"0", "0.0", "false", "legit", "legitimate", "genuine", "honest", "no"}


@dataclass(frozen=True, slots=True)
class RejectedRow:
    """A row that cannot be scored: its number (from 0), reason code, field (None: the whole row), detail."""

    row: int
    reason: Reject
    field: str | None
    detail: str


@dataclass(frozen=True, slots=True)
class FileChunk:
    """Consecutive rows of a file.

    ``batch`` holds the valid ones, their row numbers as offsets; ``keys`` their Kafka keys. ``labels`` is
    float64[len(batch)] (1 fraud, 0 not, NaN unknown), or None when no label column was asked for. ``rows``
    counts all rows. ``out_of_order`` counts valid rows older than one before them (in the file so far).
    """

    batch: EventBatch
    keys: list[bytes]
    labels: Floats | None
    rejected: tuple[RejectedRow, ...]
    rows: int
    out_of_order: int


def read_events(
    path: Path,
    pipeline: Pipeline,
    protector: Protector,
    *,
    batch_rows: int = 20_000,
    label_column: str | None = None,
    received_at: int = NEVER,
    limit: int | None = None,
) -> Iterator[FileChunk]:
    """Events of a .parquet, .csv or .jsonl file in file order, ``batch_rows`` at a time, in bounded memory.

    Columns are found by the ``source`` names of the pipeline's fields; others are ignored (in .jsonl files
    the pipeline's ``unknown_fields`` decides). ``received_at`` (UTC microseconds) is what ``max_future`` is
    measured from; ``limit`` ends after so many rows. Raises ServiceMissing, or Fatal when the file does not fit
    the pipeline at all.
    """
    codec = EventCodec(pipeline, protector)
    newest = -1
    batches = read_rows(path, pipeline, codec, batch_rows=batch_rows, label_column=label_column)
    for rows in first_rows(batches, limit):
        events: list[DecodedEvent] = []
        offsets: list[int] = []
        rejected: list[RejectedRow] = []
        for index, payload in enumerate(rows.payloads):
            try:
                if payload is None:
                    raise EventRejected(
                        Reject.NOT_OBJECT,
                        None,
                        "the line has not as many cells as the header.",
                        remedy="Quote cells that hold commas or line ends.",
                    )
                events.append(codec.decode(payload, received_at=received_at))
                offsets.append(rows.first + index)
            except EventRejected as error:
                rejected.append(RejectedRow(rows.first + index, error.reason, error.field, error.detail))
        batch = codec.to_batch(events, offsets)
        before = np.maximum.accumulate(np.concatenate(([newest], batch.times)))
        newest = int(before[-1])
        labels = None
        if rows.labels is not None:
            cells = rows.labels
            labels = np.array([parse_label(cells[i - rows.first], row=i) for i in offsets], dtype=np.float64)
        keys = list(map(codec.expected_key, events))
        yield FileChunk(
            batch, keys, labels, tuple(rejected), len(rows.payloads), int((batch.times < before[:-1]).sum())
        )


def parse_label(value: Any, *, row: int) -> float:
    """1.0 for fraud, 0.0 for none, NaN when unknown (missing or empty).

    Takes 0 and 1, booleans, and words such as fraud and legit. Raises Fatal naming the row otherwise.
    """
    if value is None or value == "" or (isinstance(value, float) and math.isnan(value)):
        return math.nan
    text = str(value).strip().lower()
    if text in _FRAUD:
        return 1.0
    if text in _HONEST:
        return 0.0
    raise Fatal(
        f"row {row}: {str(value)[:40]!r} is not a label.",
        remedy="write 1 for fraud, 0 for none, nothing for unknown; or name another column (--label-column).",
    )


def find_label_column(path: Path, pipeline: Pipeline, wanted: str | None = None) -> str:
    """The column of labels: ``wanted``, or one with a usual name, or the only one that is not the id.

    Raises Fatal when there is none or more than one.
    """
    columns = column_names(path)
    if wanted is not None:
        if wanted in columns:
            return wanted
        raise Fatal(
            f"{path.name} has no column {wanted!r}; its columns are {', '.join(columns)}.",
            remedy="name one of these with --label-column.",
        )
    known = {
        "id",
        "event_id",
        KNOWN_AT,
        *(f.source for f in pipeline.event.fields),
        *(f.name for f in pipeline.event.fields),
    }
    free = [c for c in columns if c not in known]
    usual = [c for c in free if c.lower() in _LABEL_NAMES]
    if len(usual) == 1:
        return usual[0]
    if len(free) == 1:
        return free[0]
    raise Fatal(
        f"{path.name}: no telling which column holds the labels; its columns are {', '.join(columns)}.",
        remedy="name it with --label-column.",
    )


def read_labels(
    path: Path, pipeline: Pipeline, protector: Protector, *, label_column: str | None = None
) -> dict[str, float]:
    """Labels by event id (as in verdicts), without the unknown ones; about 200 bytes of memory a label.

    The id column is called like the id field or its ``source``, or ``id`` or ``event_id``. Where an id occurs
    again, the later label counts. Raises ServiceMissing and Fatal.
    """
    found: dict[str, float] = {}
    for _, id_, value, _ in read_label_rows(path, pipeline, protector, label_column=label_column):
        if not math.isnan(value):
            found[id_] = value
    return found


def read_label_rows(
    path: Path,
    pipeline: Pipeline,
    protector: Protector,
    *,
    label_column: str | None = None,
    also: str | None = None,
) -> Iterator[tuple[int, str, float, Any]]:
    """(row number, event id as in verdicts, label or NaN, cell of the column ``also``) of each row of a file.

    Columns are found as in :func:`read_labels`. Raises ServiceMissing and Fatal.
    """
    field = pipeline.event.field(pipeline.event.id)
    columns = column_names(path)
    id_column = next((c for c in (field.source, field.name, "id", "event_id") if c in columns), None)
    if id_column is None:
        raise Fatal(
            f"{path.name} has no column {field.source!r} of event ids; its columns are {', '.join(columns)}.",
            remedy="add the id of the event to each label.",
        )
    label = find_label_column(path, pipeline, label_column)
    wanted = [id_column, label, *([] if also is None else [also])]
    for first, rows in read_columns(path, wanted, 50_000):
        for row, record in enumerate(rows, first):
            if record is None or record.get(id_column) is None:
                raise Fatal(f"{path.name}: row {row} has no event id.", remedy="correct or remove this row.")
            value = parse_label(record.get(label), row=row)
            text = str(record[id_column])
            cell = None if also is None else record.get(also)
            yield row, protector.protect(text) if field.sensitive else text, value, cell
