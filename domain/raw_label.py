"""Records of the topic ``labels`` off the wire: what somebody says that an event turned out to be.

Raw means: nobody has looked for the event yet. The joiner does; what it writes is :mod:`domain.label_codec`'s.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final, Literal

import msgspec

from domain.clock import to_micros
from domain.codec_time import LATEST
from domain.codec_types import integer_bounds
from domain.durations import format_duration
from domain.errors import EventRejected, Reject
from domain.pipeline import FieldType, Pipeline
from domain.pipeline_labels import IMPORT_SOURCE, MAX_SOURCE, REVIEW_SOURCE
from domain.privacy import Protector

__all__ = ["RawLabel", "RawLabelCodec", "json_schema_of_label"]

MAX_BYTES = 65_536
"""Ten times what a record with the longest id needs."""
EARLIEST: Final = 100_000_000_000_000
"""March 1973 in microseconds. Smaller numbers are times of our days in seconds or milliseconds."""
_OUR_OWN = (REVIEW_SOURCE, IMPORT_SOURCE)
"""Sources that nobody has to declare."""
_FIELDS = ("id", "label", "source", "known_at", "event_time")
_TIME_REMEDY = (
    "Send RFC 3339 text with a zone, such as 2026-01-31T12:00:00Z, or whole microseconds since 1970 (UTC)."
)


class RawLabel(msgspec.Struct, frozen=True, kw_only=True):
    """``source`` says that from ``known_at`` on the event ``id`` counts as ``label`` (None: unknown again).

    ``id`` is as in verdicts (a sensitive one as its keyed hash), ``key`` the id as on the wire, in UTF-8. Times are
    UTC microseconds; ``event_time``, where given, tells which of several events with one id is meant.
    It holds a raw id in ``key``: pass it on, never print or log it (promise P7; its repr hides it).
    """

    id: str
    key: bytes
    label: Literal[0, 1] | None
    source: str
    known_at: int
    event_time: int | None = None

    def __repr__(self) -> str:
        return f"RawLabel(source={self.source!r}, known_at={self.known_at}, ...)"


class RawLabelCodec:
    """Decodes raw labels of one pipeline; strict, and every refusal has a stable reason."""

    def __init__(self, pipeline: Pipeline, protector: Protector) -> None:
        self._field = pipeline.event.field(pipeline.event.id)
        self._max_future = pipeline.event.max_future
        self._sources = pipeline.label_sources
        self._protect = protector.protect

    def decode(self, raw: bytes, *, received_at: int) -> RawLabel:
        """The label in ``raw``, which the log received at ``received_at`` (UTC microseconds).

        Raises EventRejected with a stable reason; nothing else, whatever the bytes.
        """
        if len(raw) > MAX_BYTES:
            raise EventRejected(
                Reject.TOO_LARGE,
                None,
                f"the record has {len(raw):,} bytes, the limit is {MAX_BYTES:,}.",
                remedy="Send nothing but the fields that docs/labels.md names.",
            )
        try:
            value = msgspec.json.decode(raw)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            raise EventRejected(
                Reject.NOT_JSON,
                None,
                "the record is not valid JSON.",
                remedy="Send one JSON object in UTF-8.",
            ) from None
        return self.check(value, received_at=received_at)

    def check(self, value: object, *, received_at: int) -> RawLabel:
        """The label that ``value``, decoded JSON, means. Raises EventRejected."""
        if not isinstance(value, dict):
            raise EventRejected(
                Reject.NOT_OBJECT,
                None,
                "a label is a JSON object.",
                remedy="Send {id, label, source, known_at}.",
            )
        for name in value:
            if name not in _FIELDS:
                shown = name if name.isidentifier() and len(name) <= MAX_SOURCE else "of another name"
                raise EventRejected(
                    Reject.UNKNOWN_FIELD,
                    shown,
                    f"the field {shown} is not one of a label.",
                    remedy=f"Send {', '.join(_FIELDS)} and nothing else.",
                )
        wire = self._id(_there(value, "id", "Send the id of the event that the label is about."))
        label = value.get("label")
        if "label" not in value:
            raise _missing("label", "Send 1, 0, or null for unknown (again).")
        if label is not None:
            if isinstance(label, bool) or not isinstance(label, int):
                raise _wrong("label", "must be 1, 0 or null", "Send a number without quotes, or null.")
            if label not in (0, 1):
                raise _refused(Reject.NOT_ALLOWED, "label", "must be 1, 0 or null", "Send one of these.")
        source = self._source(_there(value, "source", "Say who says so, such as chargeback or analyst."))
        known_at = self._time(value.get("known_at"), "known_at", received_at)
        event_time = self._time(value.get("event_time"), "event_time", received_at)
        return RawLabel(
            id=self._protect(str(wire)) if self._field.sensitive else str(wire),
            key=str(wire).encode(),
            label=None if label is None else 1 if label else 0,
            source=source,
            known_at=received_at if known_at is None else known_at,
            event_time=event_time,
        )

    def encode(self, label: RawLabel) -> bytes:
        """The label as it goes into ``labels``: times as microseconds, all said that was left to a default."""
        text = label.key.decode()
        record: dict[str, Any] = {
            "id": int(text) if self._field.type is FieldType.INTEGER else text,
            "label": label.label,
            "source": label.source,
            "known_at": label.known_at,
        }
        if label.event_time is not None:
            record["event_time"] = label.event_time
        return msgspec.json.encode(record)

    def _id(self, value: object) -> str | int:
        if self._field.type is FieldType.INTEGER:
            if isinstance(value, bool) or not isinstance(value, int):
                raise _wrong("id", "must be a whole number", "Send the id as in the event.")
            low, high = integer_bounds(self._field)
            if not low <= value <= high:
                raise _refused(
                    Reject.OUT_OF_RANGE, "id", f"is outside {low:,} to {high:,}", "Correct the id."
                )
            return value
        if not isinstance(value, str):
            raise _wrong("id", "must be a text", "Send the id as in the event.")
        _check_text("id", value, self._field.max_length)
        return value

    def _source(self, value: object) -> str:
        if not isinstance(value, str):
            raise _wrong("source", "must be a text", "Name who says so, such as chargeback or analyst.")
        _check_text("source", value, MAX_SOURCE)
        if not value.isprintable():
            raise _refused(
                Reject.BAD_TEXT, "source", "has a character that can not be printed", "Send a name."
            )
        if self._sources and value not in self._sources and value not in _OUR_OWN:
            raise EventRejected(
                Reject.UNKNOWN_SOURCE,
                "source",
                "source is not one of those that the pipeline declares.",
                remedy=f"Send one of {', '.join(self._sources)}, or declare it in labels.sources.",
            )
        return value

    def _time(self, value: object, name: str, received_at: int) -> int | None:
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | str):
            raise _wrong(name, "must be a time", _TIME_REMEDY)
        micros = value if isinstance(value, int) else _from_text(value)
        if micros is None or not EARLIEST <= micros < LATEST:
            raise _refused(Reject.BAD_TIMESTAMP, name, "is no time from 1973 to 2199", _TIME_REMEDY)
        if micros > received_at + self._max_future:
            raise EventRejected(
                Reject.IN_FUTURE,
                name,
                f"{name} lies {format_duration(micros - received_at)} after the record was received, the limit is "
                f"{format_duration(self._max_future)}.",
                remedy="Send a label when it is known; correct the sender's clock.",
            )
        return micros


def _from_text(text: str) -> int | None:
    try:
        moment = msgspec.convert(text, datetime)
        return None if moment.tzinfo is None else to_micros(moment)
    except (msgspec.ValidationError, OverflowError):
        return None


def _there(value: dict[str, Any], name: str, remedy: str) -> object:
    found = value.get(name)
    if found is None:
        raise _missing(name, remedy)
    return found


def _check_text(name: str, value: str, longest: int) -> None:
    if not value:
        raise _refused(Reject.EMPTY, name, "is empty", "Send a text of at least one character.")
    if len(value) > longest:
        raise _refused(
            Reject.TOO_LONG, name, f"has {len(value):,} characters, the limit is {longest:,}", "Shorten it."
        )
    if "\0" in value or not _is_unicode(value):
        raise _refused(Reject.BAD_TEXT, name, "is not valid text", "Send valid Unicode text without NUL.")


def _is_unicode(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _missing(name: str, remedy: str) -> EventRejected:
    return EventRejected(Reject.MISSING_FIELD, name, f"{name} is missing.", remedy=remedy)


def _wrong(name: str, what: str, remedy: str) -> EventRejected:
    return EventRejected(Reject.WRONG_TYPE, name, f"{name} {what}.", remedy=remedy)


def _refused(reason: Reject, name: str, what: str, remedy: str) -> EventRejected:
    return EventRejected(reason, name, f"{name} {what}.", remedy=remedy)


def json_schema_of_label(pipeline: Pipeline) -> dict[str, Any]:
    """JSON Schema of one raw label of the pipeline, for the API's document."""
    field = pipeline.event.field(pipeline.event.id)
    ids: dict[str, Any] = {"type": "string", "minLength": 1, "maxLength": field.max_length}
    if field.type is FieldType.INTEGER:
        low, high = integer_bounds(field)
        ids = {"type": "integer", "minimum": low, "maximum": high}
    source: dict[str, Any] = {"type": "string", "minLength": 1, "maxLength": MAX_SOURCE}
    if pipeline.label_sources:
        source = {"enum": list(dict.fromkeys([*pipeline.label_sources, *_OUR_OWN]))}
    time = {
        "anyOf": [
            {"type": "string", "format": "date-time"},
            {"type": "integer", "minimum": EARLIEST, "exclusiveMaximum": LATEST},
            {"type": "null"},
        ]
    }
    return {
        "title": "Label",
        "description": "What an event turned out to be, said by source.",
        "type": "object",
        "properties": {
            "id": {**ids, "description": "the event's id, as in the event"},
            "label": {"enum": [0, 1, None], "description": "null: unknown (again)"},
            "source": {**source, "description": "who says so"},
            "known_at": {**time, "description": "since when that is known; default: now"},
            "event_time": {**time, "description": "the event's time, where ids repeat"},
        },
        "required": ["id", "label", "source"],
        "additionalProperties": False,
    }
