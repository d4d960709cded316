"""Why a record cannot be decoded: the slow, exact way, taken only for records that the fast way refused.

Every answer is an :class:`EventRejected` with a stable code. Messages never show values of sensitive fields
and at most 80 characters of others (promise P7).
"""

from __future__ import annotations

import json
import math
from datetime import datetime
from typing import Any, NoReturn

import msgspec

from domain.codec_time import BadTimeError, reader
from domain.codec_types import integer_bounds
from domain.errors import EventRejected, Reject
from domain.pipeline import EventSpec, Field, FieldType, Pipeline, UnknownFields
from domain.privacy import without_card_numbers

__all__ = ["Diagnosis", "shown"]

_JSON_REMEDY = "Send one JSON object in UTF-8 per record."


class _BigInteger(float):
    """An integer too long for 64 bits: kept as float so that no text of digits costs quadratic time."""


def shown(value: object, limit: int = 80) -> str:
    """``value`` as JSON for a message: printable ASCII, cut after ``limit`` characters."""
    try:
        text = json.dumps(value)
    except (ValueError, RecursionError):
        return "a value"
    # before the cut, which would leave most of the digits and not the sum that tells them
    text = without_card_numbers(text)
    return text if len(text) <= limit else text[: limit - 3] + "..."


def _integer(text: str) -> int | _BigInteger:
    return int(text) if len(text) < 20 else _BigInteger(text)


class Diagnosis:
    """Finds the first mistake of a record of one pipeline."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._event: EventSpec = pipeline.event
        self._named = {pipeline.event.id, *pipeline.entities}
        self._sources = {f.source for f in pipeline.event.fields}

    def explain(self, raw: bytes, error: Exception | None) -> EventRejected:
        """What is wrong with ``raw``, which was refused with ``error``."""
        try:
            self._walk(raw)
        except EventRejected as rejected:
            return rejected
        except RecursionError:
            return EventRejected(Reject.NOT_JSON, None, "the record nests too deeply.", remedy=_JSON_REMEDY)
        if isinstance(error, msgspec.ValidationError):
            return EventRejected(
                Reject.WRONG_TYPE,
                None,
                "the record does not fit the schema; perhaps a key stands twice.",
                remedy="Send each field once, as the pipeline file declares it.",
            )
        return EventRejected(Reject.NOT_JSON, None, "the record is not valid JSON.", remedy=_JSON_REMEDY)

    def _walk(self, raw: bytes) -> None:
        constants: list[str] = []

        def constant(text: str) -> float:
            constants.append(text)
            return math.nan

        try:
            text = raw.decode()
        except UnicodeDecodeError as bad:
            raise EventRejected(
                Reject.NOT_JSON, None, f"byte {bad.start} is not valid UTF-8.", remedy=_JSON_REMEDY
            ) from None
        try:
            record = json.loads(text, parse_int=_integer, parse_constant=constant)
        except ValueError as bad:
            where = f" at character {bad.pos}" if isinstance(bad, json.JSONDecodeError) else ""
            raise EventRejected(
                Reject.NOT_JSON, None, f"not valid JSON{where}.", remedy=_JSON_REMEDY
            ) from None
        if not isinstance(record, dict):
            kind = _kind(record)
            raise EventRejected(
                Reject.NOT_OBJECT, None, f"the record is {kind}, not an object.", remedy=_JSON_REMEDY
            )
        for field in self._event.fields:
            self._check(field, record)
        self._check_rest(record, constants)

    def _check_rest(self, record: dict[str, Any], constants: list[str]) -> None:
        for name, value in record.items():
            if (
                isinstance(value, float)
                and not math.isfinite(value)
                and name not in self._sources
                and constants
            ):
                raise _not_finite(_clean(name))
        if constants:
            raise _not_finite(None)
        for name, value in record.items():
            if not _is_text(name) or (isinstance(value, str) and not _is_text(value)):
                raise _bad_text(_clean(name), "has half of a surrogate pair")
        if self._event.unknown_fields is UnknownFields.REJECT:
            for name in record:
                if name not in self._sources:
                    raise EventRejected(
                        Reject.UNKNOWN_FIELD,
                        _clean(name),
                        f"the field {shown(name)} is not in the schema.",
                        remedy="Remove it, declare it, or set event.unknown_fields to ignore.",
                    )

    def _check(self, field: Field, record: dict[str, Any]) -> None:
        value = record.get(field.source)
        if value is None:
            if not field.required:
                return
            why = "is null" if field.source in record else "is missing"
            self._reject(Reject.MISSING_FIELD, field, why, "Send it, or declare it with `required: false`.")
        if isinstance(value, float) and not math.isfinite(value) and not isinstance(value, _BigInteger):
            raise _not_finite(field.source)
        if field.type is FieldType.STRING:
            self._check_text(field, value)
        elif field.type is FieldType.BOOLEAN:
            if not isinstance(value, bool):
                self._wrong_type(field, value, "true or false")
        elif field.type is FieldType.TIMESTAMP:
            self._check_time(field, value)
        else:
            self._check_number(field, value)

    def _check_text(self, field: Field, value: object) -> None:
        if not isinstance(value, str):
            self._wrong_type(field, value, "a text")
        if not _is_text(value):
            raise _bad_text(field.source, "has half of a surrogate pair")
        if field.name in self._named:
            if not value:
                self._reject(
                    Reject.EMPTY, field, "is empty", "Send the name of who or what this event is about."
                )
            if "\0" in value:
                raise _bad_text(field.source, "has a NUL character")
        if field.values is not None:
            if value not in field.values:
                allowed = shown(list(field.values))
                self._reject(
                    Reject.NOT_ALLOWED,
                    field,
                    f"is {self._value(field, value)}, not one of {allowed}",
                    "Send one of the declared values, or add this one to `values`.",
                )
        elif len(value) > field.max_length:
            self._reject(
                Reject.TOO_LONG,
                field,
                f"has {len(value):,} characters, the limit is {field.max_length:,}",
                "Shorten it, or raise `max_length` in the pipeline file.",
            )

    def _check_number(self, field: Field, value: Any) -> None:
        wanted = "a number" if field.type is FieldType.NUMBER else "a whole number"
        whole = isinstance(value, int | _BigInteger)
        if isinstance(value, bool) or not (whole or isinstance(value, float)):
            self._wrong_type(field, value, wanted)
        if field.type is FieldType.INTEGER:
            if not whole:
                self._wrong_type(field, value, wanted)
            low, high = integer_bounds(field)
            inside = not isinstance(value, _BigInteger) and low <= value <= high
            bounds = f"{low:,} to {high:,}"
        else:
            least, most = field.minimum, field.maximum
            inside = (least is None or value >= least) and (most is None or value <= most)
            bounds = f"{least:,g} to {most:,g}"
        if not inside:
            self._reject(
                Reject.OUT_OF_RANGE,
                field,
                f"is {self._value(field, value)}, outside {bounds}",
                "Correct the value, or change `minimum` and `maximum` in the pipeline file.",
            )

    def _check_time(self, field: Field, value: object) -> None:
        remedy = "Send RFC 3339 text with a zone, such as 2026-01-31T12:00:00Z."
        if field.unit != "iso":
            remedy = f"Send a number of {field.unit} since 1970 (UTC)."
            if isinstance(value, bool) or not isinstance(value, int | float):
                self._wrong_type(field, value, f"a number of {field.unit} since 1970")
            decoded: Any = float(value)
        else:
            if not isinstance(value, str):
                self._wrong_type(field, value, "a text")
            if not _is_text(value):
                raise _bad_text(field.source, "has half of a surrogate pair")
            try:
                decoded = msgspec.convert(value, datetime)
            except msgspec.ValidationError:
                self._reject(
                    Reject.BAD_TIMESTAMP, field, f"is {self._value(field, value)}, not RFC 3339", remedy
                )
            if decoded.tzinfo is None and field.timezone is None:
                self._reject(
                    Reject.BAD_TIMESTAMP,
                    field,
                    f"is {self._value(field, value)}, without a zone",
                    "Add Z or an offset, or declare the field's `timezone`.",
                )
        try:
            reader(field)(decoded)
        except BadTimeError:
            self._reject(
                Reject.BAD_TIMESTAMP, field, f"is {self._value(field, value)}, not from 1970 to 2199", remedy
            )

    def _value(self, field: Field, value: object) -> str:
        if field.sensitive:
            return "a value not shown here"
        return "a very long number" if isinstance(value, _BigInteger) else shown(value)

    def _wrong_type(self, field: Field, value: object, wanted: str) -> NoReturn:
        self._reject(
            Reject.WRONG_TYPE,
            field,
            f"must be {wanted}, but is {_kind(value)}",
            f"Send {wanted} in this field.",
        )

    def _reject(self, reason: Reject, field: Field, what: str, remedy: str) -> NoReturn:
        raise EventRejected(reason, field.source, f"{field.source} {what}.", remedy=remedy)


def _kind(value: object) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "a boolean"
    if isinstance(value, int | float):
        return "a number"
    if isinstance(value, str):
        return "a text"
    return "an array" if isinstance(value, list) else "an object"


def _is_text(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _clean(name: str) -> str:
    return shown(name)[1:-1]


def _not_finite(field: str | None) -> EventRejected:
    where = field if field is not None else "a value inside the record"
    return EventRejected(
        Reject.NOT_FINITE,
        field,
        f"{where} is NaN or infinite.",
        remedy="Leave an unknown number out (or send null) and declare it with `required: false`.",
    )


def _bad_text(field: str, what: str) -> EventRejected:
    return EventRejected(Reject.BAD_TEXT, field, f"{field} {what}.", remedy="Send valid Unicode text.")
