"""Columns of the offline store's tables, and the records of the topics as rows of them.

Times are int64 microseconds since 1970 (UTC): exact, and so are their minima and maxima in the table's log, which
keeps timestamps to the millisecond only. ``day`` (of the event) and ``month`` (likewise) are the Delta partitions.

Columns named after the pipeline grow with it: ``e_<entity>``, ``x_<feature>`` (the vector as scored),
``rank_<detector>`` and ``raw_<detector>``. They come from the verdicts themselves, so nothing is lost while workers
run a newer pipeline file than the archiver. A name that a row does not have is null in it, and so is a number that
was missing.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, date, datetime
from typing import Annotated, Any

import msgspec
import pyarrow as pa

from domain.pipeline import Pipeline
from domain.verdict import DecisionName, DetectorOutput, Flag, Source
from featurestore.offline_port import LogRecord

__all__ = [
    "DEAD_LETTERS",
    "LABELS",
    "VERDICTS",
    "TableKind",
    "day_of",
    "id_hash",
    "month_of",
    "pipeline_columns",
]

_DAY_MICROS = 86_400_000_000
MAX_COLUMNS = 2_000
"""Columns of one table: more than seven times what a pipeline can declare; beyond it somebody writes nonsense."""


def id_hash(event_id: str) -> int:
    """64 bits of BLAKE2b of the id, signed: days are sorted by it, so looking for an id skips nearly all of a file.

    >>> id_hash("e1") == id_hash("e1"), -(2**63) <= id_hash("e1") < 2**63
    (True, True)
    """
    digest = hashlib.blake2b(event_id.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)


def day_of(micros: int) -> date:
    """The UTC day of a moment.

    >>> day_of(86_400_000_000)
    datetime.date(1970, 1, 2)
    """
    return date.fromordinal(_EPOCH + micros // _DAY_MICROS)


def month_of(micros: int) -> date:
    """The first day of the UTC month of a moment."""
    return day_of(micros).replace(day=1)


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC).toordinal()


_Int = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
_NAME = re.compile(r"[a-z][a-z0-9_]{0,79}")
"""What pipeline files allow, behind a prefix of ours; a column of another name could not be written."""


class _Versions(msgspec.Struct, gc=False):
    code: str
    pipeline: _Int
    pipeline_digest: str


class _Said(msgspec.Struct, gc=False):
    score: float | None = None


class _Verdict(msgspec.Struct, gc=False):
    """What columns need of a verdict: its public contract, loosely, so that older and newer ones can be read."""

    id: str
    event_time: _Int
    scored_at: _Int
    entities: dict[str, str]
    score: float | None
    decision: DecisionName
    features: dict[str, float | None] | None
    detectors: dict[str, DetectorOutput]
    flags: list[str]
    versions: _Versions
    source: Source
    first: Source | None = None
    labels_offset: _Int | None = None
    probability: float | None = None
    models: dict[str, _Said] = {}


class _Label(msgspec.Struct, gc=False):
    id: str
    event_time: _Int
    known_at: _Int
    label: _Int | None
    previous: _Int | None = None
    origin: str | None = None


class TableKind:
    """What tells the two tables apart: fixed columns, Delta partition, and how a record becomes a row."""

    def __init__(
        self, name: str, partition: str, skipping: Sequence[str], fixed: Sequence[tuple[str, Any]], sort: str
    ) -> None:
        self.name = name
        self.partition = partition
        self.skipping = tuple(skipping)
        self.fixed = pa.schema(list(fixed))
        self.sort = sort

    def row(self, record: LogRecord) -> dict[str, Any] | None:
        """The record as a row, None when it is not readable."""
        raise NotImplementedError

    def columns(self, rows: Sequence[Mapping[str, Any]], held: Any) -> Any:
        """``rows`` as an Arrow table of the columns ``held`` and whatever else the rows have (as float64 or text)."""
        names = sorted(set().union(*rows))
        news = [name for name in names if held.get_field_index(name) < 0 and _NAME.fullmatch(name)]
        schema = pa.schema([*((f.name, f.type) for f in held), *((name, _type_of(name)) for name in news)])
        return pa.table([pa.array([row.get(f.name) for row in rows], f.type) for f in schema], schema=schema)


class _Verdicts(TableKind):
    def __init__(self) -> None:
        super().__init__(
            "verdicts",
            "day",
            ("id_hash", "event_time", "scored_at", "offset"),
            [
                ("day", pa.date32()),
                ("id_hash", pa.int64()),
                ("event_time", pa.int64()),
                ("scored_at", pa.int64()),
                ("partition", pa.int32()),
                ("offset", pa.int64()),
                ("id", pa.string()),
                ("decision", pa.string()),
                ("score", pa.float64()),
                ("probability", pa.float64()),
                ("own_score", pa.float64()),
                ("duplicate", pa.bool_()),
                ("flags", pa.string()),
                ("code", pa.string()),
                ("pipeline_version", pa.int64()),
                ("pipeline_digest", pa.string()),
                ("labels_offset", pa.int64()),
                ("verdict", pa.binary()),
            ],
            "id_hash",
        )
        self._decode = msgspec.json.Decoder(_Verdict).decode

    def row(self, record: LogRecord) -> dict[str, Any] | None:
        try:
            said = self._decode(record.value)
            day = day_of(said.event_time)
            hashed = id_hash(said.id)
        except (msgspec.DecodeError, UnicodeError, RecursionError, ValueError, OverflowError):
            return None
        row: dict[str, Any] = {
            "day": day,
            "id_hash": hashed,
            "event_time": said.event_time,
            "scored_at": said.scored_at,
            "partition": said.source.partition,
            "offset": said.source.offset,
            "id": said.id,
            "decision": said.decision.value,
            "score": said.score,
            "probability": said.probability,
            "own_score": _own_score(said),
            "duplicate": said.first is not None or Flag.DUPLICATE in said.flags,
            "flags": ",".join(said.flags),
            "code": said.versions.code,
            "pipeline_version": said.versions.pipeline,
            "pipeline_digest": said.versions.pipeline_digest,
            "labels_offset": said.labels_offset,
            "verdict": record.value,
        }
        for name, value in said.entities.items():
            row["e_" + name] = value
        for name, number in (said.features or {}).items():
            row["x_" + name] = number
        for name, output in said.detectors.items():
            row["rank_" + name] = output.rank
            row["raw_" + name] = output.score
        return row


def _own_score(said: _Verdict) -> float | None:
    """NaN, which is not null, where a model from the registry decided what our own detectors could not."""
    own = said.models.get("own")
    if own is None:
        return None
    return math.nan if own.score is None else own.score


class _Labels(TableKind):
    def __init__(self) -> None:
        super().__init__(
            "labels",
            "month",
            ("id_hash", "event_time", "known_at", "offset"),
            [
                ("month", pa.date32()),
                ("id_hash", pa.int64()),
                ("event_time", pa.int64()),
                ("known_at", pa.int64()),
                ("partition", pa.int32()),
                ("offset", pa.int64()),
                ("id", pa.string()),
                ("label", pa.int8()),
                ("previous", pa.int8()),
                ("origin", pa.string()),
            ],
            "event_time",
        )
        self._decode = msgspec.json.Decoder(_Label).decode

    def row(self, record: LogRecord) -> dict[str, Any] | None:
        try:
            label = self._decode(record.value)
            month = month_of(label.event_time)
            hashed = id_hash(label.id)
        except (msgspec.DecodeError, UnicodeError, RecursionError, ValueError, OverflowError):
            return None
        if label.label not in (None, 0, 1):
            return None
        return {
            "month": month,
            "id_hash": hashed,
            "event_time": label.event_time,
            "known_at": label.known_at,
            "partition": record.partition,
            "offset": record.offset,
            "id": label.id,
            "label": label.label,
            "previous": label.previous,
            "origin": label.origin,
        }


class _Letter(msgspec.Struct, gc=False):
    reason: str
    received_at: _Int
    field: str | None = None


class _DeadLetters(TableKind):
    def __init__(self) -> None:
        super().__init__(
            "dead_letters",
            "day",
            ("received_at", "offset"),
            [
                ("day", pa.date32()),
                ("received_at", pa.int64()),
                ("partition", pa.int32()),
                ("offset", pa.int64()),
                ("reason", pa.string()),
                ("field", pa.string()),
            ],
            "received_at",
        )
        self._decode = msgspec.json.Decoder(_Letter).decode

    def row(self, record: LogRecord) -> dict[str, Any] | None:
        try:
            letter = self._decode(record.value)
            day = day_of(letter.received_at)
        except (msgspec.DecodeError, UnicodeError, RecursionError, ValueError, OverflowError):
            return None
        return {
            "day": day,
            "received_at": letter.received_at,
            "partition": record.partition,
            "offset": record.offset,
            "reason": letter.reason,
            "field": letter.field,
        }


VERDICTS: TableKind = _Verdicts()
"""One row per verdict, repeats of events included. ``partition`` and ``offset`` are the event's."""
LABELS: TableKind = _Labels()
"""One row per change of an event's label. ``partition`` and ``offset`` are the record's in ``labels.joined``."""
DEAD_LETTERS: TableKind = _DeadLetters()
"""One row per dead letter: when, why and which field, never what was in it (that stays in the topic)."""


def pipeline_columns(pipeline: Pipeline) -> dict[str, Any]:
    """The columns that rows of this pipeline have beside the fixed ones, by name."""
    names: Iterable[str] = (
        *("e_" + name for name in pipeline.entities),
        *("x_" + name for name in pipeline.feature_names),
        *(prefix + detector.name for detector in pipeline.detectors for prefix in ("rank_", "raw_")),
    )
    return {name: _type_of(name) for name in names}


def _type_of(name: str) -> Any:
    return pa.string() if name.startswith("e_") else pa.float64()
