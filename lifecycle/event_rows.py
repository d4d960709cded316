"""Rows of .parquet, .csv and .jsonl files as the records that a producer would have sent, in file order.

Every row becomes the bytes of one event, so that one decoder (:class:`domain.codec.EventCodec`) judges all
three formats and a row is refused for the reason it would be refused for on the wire.
"""

from __future__ import annotations

import csv
import json
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from domain.codec import EventCodec
from domain.errors import Fatal, ServiceMissing
from domain.pipeline import Field, FieldType, Pipeline

__all__ = ["RowBatch", "column_names", "count_rows", "first_rows", "read_columns", "read_rows"]

FORMATS = (".parquet", ".csv", ".jsonl")
MAX_LINE = 16 * 1024 * 1024
"""Longest line kept; the rest of a longer one is dropped, which leaves it too large for any pipeline."""

_NUMBER = re.compile(r"-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?")
_INTEGER = re.compile(r"-?\d{1,19}")
_BOOLEANS = {"true": True, "false": False, "1": True, "0": False}


@dataclass(frozen=True, slots=True)
class RowBatch:
    """Some rows: number of the first (from 0), the event of each as JSON, and its cell in the label column.

    ``payloads`` holds None for a row of a CSV file with too few or too many cells.
    """

    first: int
    payloads: list[bytes | None]
    labels: list[Any] | None


def _format(path: Path) -> str:
    if not path.is_file():
        raise ServiceMissing(f"there is no file {path}.", remedy="check the path.")
    suffix = path.suffix.lower()
    if suffix not in FORMATS:
        raise Fatal(
            f"{path.name}: files of type {suffix or '(none)'} are not read.",
            remedy=f"convert it to one of {', '.join(FORMATS)} and name it so.",
        )
    return suffix


def column_names(path: Path) -> list[str]:
    """Names of the file's columns (of a .jsonl file: the keys of its first record)."""
    suffix = _format(path)
    if suffix == ".parquet":
        return list(_open_parquet(path).schema_arrow.names)
    if suffix == ".csv":
        with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as lines:
            return next(csv.reader(lines), [])
    with path.open("rb") as stream:
        for line in _lines(stream):
            try:
                record = msgspec.json.decode(line)
            except (msgspec.DecodeError, UnicodeDecodeError):
                return []
            return list(record) if isinstance(record, dict) else []
    return []


def count_rows(path: Path) -> int | None:
    """How many rows there are where the file says so (.parquet), for progress; None otherwise."""
    return int(_open_parquet(path).metadata.num_rows) if _format(path) == ".parquet" else None


def read_rows(
    path: Path, pipeline: Pipeline, codec: EventCodec, *, batch_rows: int, label_column: str | None = None
) -> Iterator[RowBatch]:
    """The file's rows in order, ``batch_rows`` at a time.

    Raises ServiceMissing (no such file) and Fatal (format, or a column the pipeline needs is absent).
    """
    suffix = _format(path)
    if suffix == ".jsonl":
        yield from _jsonl_rows(path, batch_rows, label_column)
        return
    fields = pipeline.event.fields
    present = column_names(path)
    missing = [f.source for f in fields if f.required and f.source not in present]
    if missing or (label_column is not None and label_column not in present):
        raise Fatal(
            f"{path.name} has no column {', '.join(missing) or label_column}; its columns are "
            f"{', '.join(present)}.",
            remedy="set `source` of these fields in the pipeline file to the columns that hold them.",
        )
    wanted = [f.source for f in fields if f.source in present]
    columns = dict.fromkeys([*wanted, *([label_column] if label_column else [])])
    parsers = {f.source: _parser(f) for f in fields}
    for first, rows in read_columns(path, list(columns), batch_rows):
        payloads: list[bytes | None] = []
        for row in rows:
            if row is None:
                payloads.append(None)
                continue
            cells = {name: row[name] for name in wanted}
            if suffix == ".csv":
                cells = {name: parsers[name](cell) for name, cell in cells.items()}
            payloads.append(_payload(codec, cells))
        labels = [row and row[label_column] for row in rows] if label_column else None
        yield RowBatch(first, payloads, labels)


def first_rows(batches: Iterable[RowBatch], limit: int | None) -> Iterator[RowBatch]:
    """The first ``limit`` rows (all for None); reads no further than needed."""
    for batch in batches:
        left = None if limit is None else limit - batch.first
        if left is None or left > len(batch.payloads):
            yield batch
            continue
        yield RowBatch(
            batch.first, batch.payloads[:left], batch.labels[:left] if batch.labels else batch.labels
        )
        return


def read_columns(
    path: Path, columns: Sequence[str], batch_rows: int
) -> Iterator[tuple[int, list[dict[str, Any] | None]]]:
    """Rows as dicts of the named columns: number of the first, and the rows (None: broken CSV line).

    Empty CSV cells are None; other CSV cells are text.
    """
    suffix = _format(path)
    first = 0
    batches: Iterable[list[dict[str, Any] | None]]
    if suffix == ".parquet":
        batches = _parquet_batches(path, columns, batch_rows)
    elif suffix == ".csv":
        batches = _csv_batches(path, columns, batch_rows)
    else:
        batches = _jsonl_batches(path, batch_rows)
    for rows in batches:
        yield first, rows
        first += len(rows)


def _payload(codec: EventCodec, cells: Mapping[str, Any]) -> bytes:
    infinite = any(isinstance(v, float) and math.isinf(v) for v in cells.values())
    if not infinite:
        try:
            return codec.encode(cells)
        except (UnicodeEncodeError, OverflowError, TypeError, ValueError):
            pass  # a value that has no JSON form; the spelling below lets the decoder name the reason
    return json.dumps({k: v for k, v in cells.items() if v is not None}, default=str).encode()


def _parser(field: Field) -> Callable[[str | None], Any]:
    """From the text of a CSV cell to a value; what does not parse stays text, so that its type is wrong."""
    numeric = field.type is FieldType.NUMBER or (field.type is FieldType.TIMESTAMP and field.unit != "iso")
    if numeric:
        return lambda cell: float(cell) if cell is not None and _NUMBER.fullmatch(cell) else cell
    if field.type is FieldType.INTEGER:
        return lambda cell: int(cell) if cell is not None and _INTEGER.fullmatch(cell) else cell
    if field.type is FieldType.BOOLEAN:
        return lambda cell: _BOOLEANS.get(cell.lower(), cell) if cell is not None else None
    return lambda cell: cell


def _open_parquet(path: Path) -> Any:
    try:
        return pq.ParquetFile(path)
    except (pa.ArrowException, OSError) as error:
        raise Fatal(f"{path.name} is not a Parquet file: {error}", remedy="write it again.") from error


def _parquet_batches(
    path: Path, columns: Sequence[str], batch_rows: int
) -> Iterator[list[dict[str, Any] | None]]:
    with _open_parquet(path) as file:
        for batch in file.iter_batches(batch_size=batch_rows, columns=list(columns)):
            lists = []
            for name in columns:
                column = batch.column(batch.schema.get_field_index(name))
                if pa.types.is_dictionary(column.type):
                    column = column.dictionary_decode()
                if pa.types.is_timestamp(column.type) and column.type.unit == "ns":
                    # Python's datetime ends at microseconds; finer digits are cut, not rounded.
                    column = column.cast(pa.timestamp("us", column.type.tz), safe=False)
                lists.append(column.to_pylist())
            yield [dict(zip(columns, cells, strict=True)) for cells in zip(*lists, strict=True)]


def _csv_batches(
    path: Path, columns: Sequence[str], batch_rows: int
) -> Iterator[list[dict[str, Any] | None]]:
    # Bytes that are not UTF-8 become lone surrogates, which the decoder refuses as bad text.
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as lines:
        reader = csv.reader(lines)
        header = next(reader, [])
        places = [(name, header.index(name)) for name in columns]
        rows: list[dict[str, Any] | None] = []
        for cells in reader:
            if not cells:
                continue
            broken = len(cells) != len(header)
            rows.append(None if broken else {name: cells[i] or None for name, i in places})
            if len(rows) == batch_rows:
                yield rows
                rows = []
        if rows:
            yield rows


def _jsonl_batches(path: Path, batch_rows: int) -> Iterator[list[dict[str, Any] | None]]:
    for batch in _jsonl_rows(path, batch_rows, None):
        rows: list[dict[str, Any] | None] = []
        for payload in batch.payloads:
            record = _object(payload or b"")
            rows.append(record)
        yield rows


def _object(line: bytes) -> dict[str, Any] | None:
    """The JSON object in ``line``, also with NaN in it; None when it is something else."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) else None


def _jsonl_rows(path: Path, batch_rows: int, label_column: str | None) -> Iterator[RowBatch]:
    first = 0
    payloads: list[bytes | None] = []
    labels: list[Any] = []

    def batch() -> RowBatch:
        return RowBatch(first, payloads, labels if label_column else None)

    with path.open("rb") as stream:
        for line in _lines(stream):
            payload, label = line, None
            if label_column is not None:
                record = _object(line)
                if record is not None and label_column in record:
                    # The label is not part of the event: a strict pipeline would refuse it as unknown.
                    label = record.pop(label_column)
                    payload = json.dumps(record).encode()
            payloads.append(payload)
            labels.append(label)
            if len(payloads) == batch_rows:
                yield batch()
                first, payloads, labels = first + batch_rows, [], []
    if payloads:
        yield batch()


def _lines(stream: BinaryIO) -> Iterator[bytes]:
    """Lines that are not blank, without their end, cut at MAX_LINE."""
    while line := stream.readline(MAX_LINE):
        rest = line
        while not rest.endswith(b"\n") and len(rest) == MAX_LINE:
            rest = stream.readline(MAX_LINE)
        line = line.strip(b" \t\r\n")
        if line:
            yield line
