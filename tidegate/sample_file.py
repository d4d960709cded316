"""Reading a sample of events and guessing the type of each column, for ``tidegate pipeline init``."""

from __future__ import annotations

import csv
import itertools
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import pyarrow.parquet

from domain.errors import ServiceMissing
from domain.pipeline import FieldType

__all__ = ["MAX_ROWS", "Column", "read_sample"]

MAX_ROWS = 20_000
"""Enough to see which columns repeat; a few seconds to read."""

_INTEGER = re.compile(r"-?(0|[1-9]\d{0,18})")
_NUMBER = re.compile(r"-?\d+(\.\d*)?([eE][+-]?\d+)?")
_MOMENT = re.compile(r"\d{4}-\d{2}-\d{2}[T ]\d{2}:\d{2}:\d{2}")
_TIME_NAME = re.compile(r"(time|date|stamp|^ts$|_ts$|_at$|^at$)", re.IGNORECASE)
_UNITS = {"s": (1e8, 7e9), "ms": (1e11, 7e12), "us": (1e14, 7e15)}


@dataclass(frozen=True, slots=True)
class Column:
    """One column of the sample. ``type`` is None when it holds nothing that an event field can hold."""

    name: str
    type: FieldType | None
    values: tuple[Any, ...]
    unit: str = "iso"
    naive: bool = False
    """Timestamps: whether values carry no zone."""

    @property
    def present(self) -> list[Any]:
        """The values that are not missing."""
        return [value for value in self.values if value is not None]

    @property
    def complete(self) -> bool:
        """Whether no value is missing."""
        return all(value is not None for value in self.values)


def read_sample(path: Path) -> list[Column]:
    """The columns of up to MAX_ROWS rows of a .csv, .jsonl or .parquet file.

    Raises ServiceMissing when the file cannot be read as what its ending says.
    """
    readers: dict[str, Callable[[Path], dict[str, list[Any]]]] = {
        ".csv": _read_csv,
        ".jsonl": _read_json_lines,
        ".ndjson": _read_json_lines,
        ".parquet": _read_parquet,
    }
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise ServiceMissing(
            f"{path} is not a sample: its name ends in {path.suffix or 'nothing'}.",
            remedy="give a .csv, .jsonl or .parquet file",
        )
    try:
        columns = reader(path)
    except (OSError, ValueError, csv.Error) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise ServiceMissing(
            f"the sample {path} cannot be read: {reason[:200]}.",
            remedy="give a .csv, .jsonl or .parquet file",
        ) from None
    if not columns or not next(iter(columns.values())):
        raise ServiceMissing(f"the sample {path} has no rows.", remedy="give a file with some events in it")
    return [_guess(name, values) for name, values in columns.items()]


def _read_csv(path: Path) -> dict[str, list[Any]]:
    with path.open(encoding="utf-8-sig", newline="") as stream:
        rows = csv.DictReader(stream)
        return _columns({k: v or None for k, v in row.items() if k} for row in rows)


def _read_json_lines(path: Path) -> dict[str, list[Any]]:
    decode = msgspec.json.Decoder(dict[str, Any]).decode
    with path.open("rb") as stream:
        return _columns(decode(line) for line in stream if line.strip())


def _read_parquet(path: Path) -> dict[str, list[Any]]:
    with pyarrow.parquet.ParquetFile(path) as file:
        for batch in file.iter_batches(batch_size=MAX_ROWS):
            found: dict[str, list[Any]] = batch.to_pydict()
            return found
    return {}


def _columns(rows: Iterable[dict[str, Any]]) -> dict[str, list[Any]]:
    columns: dict[str, list[Any]] = {}
    for i, row in enumerate(itertools.islice(rows, MAX_ROWS)):
        for name in row:
            if name not in columns:
                columns[name] = [None] * i
        for name, values in columns.items():
            values.append(row.get(name))
    return columns


def _guess(name: str, values: Sequence[Any]) -> Column:
    cleaned = [None if value is None or value != value else value for value in values]  # noqa: PLR0124  # NaN
    present = [value for value in cleaned if value is not None]
    kinds = {type(value) for value in present}
    if kinds == {str}:
        return _guess_text(name, cleaned, present)
    if kinds == {bool}:
        return Column(name, FieldType.BOOLEAN, tuple(cleaned))
    if kinds == {int}:
        return _guess_integer(name, cleaned, present)
    if kinds and kinds <= {int, float, Decimal}:
        return Column(name, FieldType.NUMBER, tuple(None if v is None else float(v) for v in cleaned))
    if kinds and all(issubclass(kind, datetime) for kind in kinds):
        return Column(name, FieldType.TIMESTAMP, tuple(cleaned), naive=_naive(present))
    return Column(name, None, tuple(cleaned))


def _guess_text(name: str, values: Sequence[Any], present: Sequence[str]) -> Column:
    def all_match(pattern: re.Pattern[str]) -> bool:
        return all(pattern.fullmatch(value) for value in present)

    def converted(convert: Callable[[str], Any]) -> list[Any]:
        return [None if value is None else convert(value) for value in values]

    if all_match(_INTEGER):
        integers = converted(int)
        return _guess_integer(name, integers, [value for value in integers if value is not None])
    if all_match(_NUMBER) and not all(value.isdigit() for value in present):
        return Column(name, FieldType.NUMBER, tuple(converted(float)))
    if {value.lower() for value in present} <= {"true", "false"}:
        return Column(name, FieldType.BOOLEAN, tuple(converted(lambda value: value.lower() == "true")))
    if all(_MOMENT.match(value) for value in present):
        try:
            moments = converted(datetime.fromisoformat)
        except ValueError:
            return Column(name, FieldType.STRING, tuple(values))
        naive = _naive([value for value in moments if value is not None])
        return Column(name, FieldType.TIMESTAMP, tuple(moments), naive=naive)
    return Column(name, FieldType.STRING, tuple(values))


def _guess_integer(name: str, values: Sequence[Any], present: Sequence[int]) -> Column:
    if _TIME_NAME.search(name):
        for unit, (low, high) in _UNITS.items():
            if all(low <= value <= high for value in present):
                return Column(name, FieldType.TIMESTAMP, tuple(values), unit=unit)
    return Column(name, FieldType.INTEGER, tuple(values))


def _naive(moments: Sequence[datetime]) -> bool:
    return any(moment.tzinfo is None for moment in moments)
