"""The record type that msgspec decodes events into, generated from the pipeline's schema.

Attributes are ``id``, ``time`` and ``key`` for these roles and ``f0``, ``f1``, ... for the other fields, so a
field may have any name; on the wire each has its ``source`` name.
"""

from __future__ import annotations

import math
from datetime import datetime
from typing import Annotated, Any, Literal, cast

import msgspec

from domain.pipeline import EventSpec, Field, FieldType, Pipeline, UnknownFields

__all__ = ["DecodedEvent", "attribute_names", "event_type", "integer_bounds"]

_INT64 = 2**63


class DecodedEvent(msgspec.Struct, gc=False):
    """One valid event. ``time`` is UTC microseconds; ``id`` and ``key`` are as on the wire (text or integer).

    It holds raw sensitive values: pass it on, never print or log it (promise P7; its repr hides them).
    """

    id: str | int
    time: int
    key: str | int

    def __repr__(self) -> str:
        return f"DecodedEvent(time={self.time}, ...)"


def attribute_names(event: EventSpec) -> dict[str, str]:
    """Attribute of each field in the decoded record."""
    roles = {event.id: "id", event.time: "time", event.key: "key"}
    return {f.name: roles.get(f.name, f"f{i}") for i, f in enumerate(event.fields)}


def integer_bounds(field: Field) -> tuple[int, int]:
    """The bounds of an integer field as integers that fit 64 bits."""
    low = -_INT64 if field.minimum is None else max(-_INT64, math.ceil(field.minimum))
    high = _INT64 - 1 if field.maximum is None else min(_INT64 - 1, math.floor(field.maximum))
    return low, high


def event_type(pipeline: Pipeline) -> type[DecodedEvent]:
    """The record type of the pipeline's events."""
    event = pipeline.event
    attributes = attribute_names(event)
    named = {event.id, *pipeline.entities}
    columns: list[Any] = []
    for field in event.fields:
        kind = _wire_type(field, named=field.name in named)
        if field.required:
            columns.append((attributes[field.name], kind))
        else:
            columns.append((attributes[field.name], kind | None, None))
    made = msgspec.defstruct(
        "Event",
        columns,
        bases=(DecodedEvent,),
        rename={attributes[f.name]: f.source for f in event.fields},
        forbid_unknown_fields=event.unknown_fields is UnknownFields.REJECT,
        kw_only=True,
        gc=False,
    )
    return cast(type[DecodedEvent], made)


def _wire_type(field: Field, *, named: bool) -> Any:
    if field.type is FieldType.STRING:
        if field.values is not None:
            return Literal[field.values]
        return Annotated[str, msgspec.Meta(min_length=1 if named else 0, max_length=field.max_length)]
    if field.type is FieldType.NUMBER:
        return Annotated[float, msgspec.Meta(ge=field.minimum, le=field.maximum)]
    if field.type is FieldType.INTEGER:
        low, high = integer_bounds(field)
        return Annotated[int, msgspec.Meta(ge=low, le=high)]
    if field.type is FieldType.BOOLEAN:
        return bool
    if field.unit == "iso":
        return datetime if field.timezone else Annotated[datetime, msgspec.Meta(tz=True)]
    return float
