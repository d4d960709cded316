"""JSON Schema of a pipeline's events, for OpenAPI, AsyncAPI and the documentation."""

from __future__ import annotations

from typing import Any

from domain.codec_types import integer_bounds
from domain.pipeline import Field, FieldType, Pipeline, UnknownFields

__all__ = ["json_schema_of_event"]


def json_schema_of_event(pipeline: Pipeline) -> dict[str, Any]:
    """JSON Schema (2020-12) of one event as it stands on the wire, under ``source`` names."""
    event = pipeline.event
    named = {event.id, *pipeline.entities}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"{pipeline.name} event",
        "type": "object",
        "required": [f.source for f in event.fields if f.required],
        "properties": {f.source: _property(f, named=f.name in named) for f in event.fields},
        "additionalProperties": event.unknown_fields is UnknownFields.IGNORE,
    }


def _property(field: Field, *, named: bool) -> dict[str, Any]:
    out: dict[str, Any] = {}
    if field.type is FieldType.STRING:
        out["type"] = "string"
        if field.values is not None:
            out["enum"] = [*field.values, *([] if field.required else [None])]
        else:
            out["minLength"] = 1 if named else 0
            out["maxLength"] = field.max_length
    elif field.type is FieldType.NUMBER:
        out |= {"type": "number", "minimum": field.minimum, "maximum": field.maximum}
    elif field.type is FieldType.INTEGER:
        low, high = integer_bounds(field)
        out |= {"type": "integer", "minimum": low, "maximum": high}
    elif field.type is FieldType.BOOLEAN:
        out["type"] = "boolean"
    elif field.unit == "iso":
        zone = f"zone when it carries none: {field.timezone}" if field.timezone else "with a zone"
        out |= {"type": "string", "description": f"RFC 3339, {zone}"}
        if field.timezone is None:
            out["format"] = "date-time"
    else:
        out |= {"type": "number", "minimum": 0, "description": f"{field.unit} since 1970, UTC"}
    if not field.required:
        out["type"] = [out["type"], "null"]
    if field.name != field.source:
        out["title"] = field.name
    if field.sensitive:
        out["description"] = "sensitive: kept only as a keyed hash"
    return out
