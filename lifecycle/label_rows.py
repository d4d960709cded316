"""Rows of a label file: which event, what it turned out to be, and when that became known."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any, Literal, NamedTuple

from domain.clock import to_micros
from domain.durations import format_duration
from domain.errors import Fatal
from domain.pipeline import Field, FieldType, Pipeline
from domain.privacy import Protector
from lifecycle.event_files import KNOWN_AT, find_label_column, parse_label
from lifecycle.event_rows import column_names, read_columns

__all__ = [
    "KNOWN_AT",
    "MAX_ROWS",
    "Label",
    "LabelColumns",
    "LabelFile",
    "Told",
    "find_columns",
    "read_label_file",
]

MAX_ROWS = 2_000_000
"""Of one file: all its labels are held in memory, with the events they are about."""
_EARLIEST = 100_000_000_000_000
"""March 1973 in microseconds. Smaller numbers are times of our days in seconds or milliseconds."""
_LATEST = 2**53
_BATCH = 50_000

Label = Literal[0, 1] | None
"""1, 0, or None for unknown."""


class Told(NamedTuple):
    """What one row says of its event: ``label`` holds from ``known_at`` (UTC microseconds) on."""

    known_at: int
    label: Label
    row: int


@dataclass(frozen=True, slots=True)
class LabelColumns:
    """Names of columns; without ``known_at`` all labels become known at one time that the caller gives."""

    id: str
    label: str
    known_at: str | None


@dataclass(frozen=True, slots=True)
class LabelFile:
    """``rows`` rows. ``told`` says, by event id as in verdicts, what they tell, in order of known-at, then of rows."""

    rows: int
    told: Mapping[str, Sequence[Told]]


def find_columns(
    path: Path,
    pipeline: Pipeline,
    *,
    id_column: str | None = None,
    label_column: str | None = None,
    known_at_column: str | None = None,
) -> LabelColumns:
    """The columns of a label file: those named, else those with usual names.

    Ids are found under the id field's name or ``source``, ``id`` or ``event_id``; times of knowledge under
    ``known_at``; labels as :func:`lifecycle.event_files.find_label_column` does. Raises ServiceMissing, Fatal.
    """
    columns = column_names(path)
    listed = ", ".join(columns) or "(none)"
    for option, name in (
        ("--id-column", id_column),
        ("--label-column", label_column),
        ("--known-at-column", known_at_column),
    ):
        if name is not None and name not in columns:
            raise Fatal(
                f"{path.name} has no column {name!r}; its columns are {listed}.",
                remedy=f"name one of these with {option}.",
            )
    field = pipeline.event.field(pipeline.event.id)
    usual = (field.source, field.name, "id", "event_id")
    ids = id_column or next((name for name in usual if name in columns), None)
    if ids is None:
        raise Fatal(
            f"{path.name} has no column {field.source!r} of event ids; its columns are {listed}.",
            remedy="name the one that holds them with --id-column.",
        )
    ours = all(f.source != KNOWN_AT for f in pipeline.event.fields)
    known_at = known_at_column or (KNOWN_AT if ours and KNOWN_AT in columns else None)
    left = [name for name in columns if name not in (ids, known_at)]
    label = label_column or (left[0] if len(left) == 1 else find_label_column(path, pipeline))
    return LabelColumns(ids, label, known_at)


def read_label_file(
    path: Path,
    pipeline: Pipeline,
    protector: Protector | None,
    columns: LabelColumns,
    *,
    now: int,
    known_at: int | None = None,
    max_rows: int = MAX_ROWS,
) -> LabelFile:
    """All rows of a .parquet, .csv or .jsonl file, checked; about 300 bytes of memory a row.

    Where the file has no column for it, every label became known at ``known_at`` (default ``now``; both UTC
    microseconds). No label may be known more than the pipeline's ``max_future`` after ``now``: the worker would
    refuse it. Without a ``protector`` ids are as in the file, also sensitive ones. Messages hold no value of the id,
    which may be sensitive. Raises Fatal naming row, column and remedy.
    """
    field = pipeline.event.field(pipeline.event.id)
    latest = now + pipeline.event.max_future
    given = now if known_at is None else known_at
    if columns.known_at is None and given > latest:
        raise Fatal(
            f"--known-at lies {format_duration(given - now)} ahead, the limit is "
            f"{format_duration(pipeline.event.max_future)}.",
            remedy="import labels when they are known; correct the time.",
        )
    told: dict[str, list[Told]] = {}
    wanted = [columns.id, columns.label, *([columns.known_at] if columns.known_at else [])]
    rows = 0
    for first, batch in read_columns(path, wanted, _BATCH):
        rows = first + len(batch)
        if rows > max_rows:
            raise Fatal(
                f"{path.name} has more than {max_rows:,} rows.",
                remedy="split it into smaller files and import them one after the other.",
            )
        for row, record in enumerate(batch, first):
            id_ = None if record is None else _id_text(record.get(columns.id), field)
            if record is None or id_ is None:
                raise Fatal(
                    f"{path.name}: row {row} has no event id in column {columns.id}.",
                    remedy="correct or remove this row (in .csv: as many cells as the header); rows count from 0.",
                )
            value = parse_label(record.get(columns.label), row=row)
            label: Label = None if math.isnan(value) else 1 if value else 0
            when = given
            if columns.known_at is not None:
                when = _known_at(record.get(columns.known_at), path, row, columns.known_at)
                if when > latest:
                    raise Fatal(
                        f"{path.name}: row {row}: {columns.known_at} lies {format_duration(when - now)} ahead, the "
                        f"limit is {format_duration(pipeline.event.max_future)}.",
                        remedy="import a label when it is known; correct its time or zone (UTC where none is named).",
                    )
            key = protector.protect(id_) if field.sensitive and protector is not None else id_
            told.setdefault(key, []).append(Told(when, label, row))
    for rows_of_one in told.values():
        if len(rows_of_one) > 1:
            rows_of_one.sort(key=lambda one: one.known_at)
    return LabelFile(rows, told)


def _id_text(cell: Any, field: Field) -> str | None:
    """The id as an event's decoder writes it, or None."""
    if cell is None or cell == "" or (isinstance(cell, float) and math.isnan(cell)):
        return None
    if field.type is FieldType.INTEGER:
        # columns with gaps come as floats, and text may have leading zeros
        if isinstance(cell, float) and cell.is_integer():
            return str(int(cell))
        if isinstance(cell, str) and cell.isascii() and cell.removeprefix("-").isdigit():
            return str(int(cell)) if len(cell) <= 20 else cell
    return str(cell)


def _known_at(cell: Any, path: Path, row: int, column: str) -> int:
    value = cell
    try:
        if isinstance(value, str):
            text = value.strip()
            value = int(text) if text.isascii() and text.isdigit() else datetime.fromisoformat(text)
        elif isinstance(value, date) and not isinstance(value, datetime):
            value = datetime(value.year, value.month, value.day, tzinfo=UTC)
        if isinstance(value, datetime):
            value = to_micros(value if value.tzinfo is not None else value.replace(tzinfo=UTC))
        elif isinstance(value, int) and 0 <= value < _EARLIEST:
            value = None
    except (ValueError, OverflowError):
        value = None
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < _LATEST:
        raise Fatal(
            f"{path.name}: row {row}: {column} is {'empty' if cell in (None, '') else 'no time'}.",
            remedy="write when the label became known, such as 2026-01-31T08:00:00Z, or as whole microseconds since "
            "1970; or leave the column out and give --known-at.",
        )
    return value
