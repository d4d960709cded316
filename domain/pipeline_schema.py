"""JSON Schema of the pipeline file, for editors and ``tidegate pipeline schema``.

It is looser than the loader: what a schema cannot say (names that must exist, hops that must divide) only
``tidegate pipeline check`` finds. It never refuses what the loader accepts.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from domain.pipeline import COMBINERS, Aggregate, FieldType, LatePolicy, UnknownFields
from domain.pipeline_decision import MAX_RULE_FILES, MOST_EXPLORED
from domain.pipeline_guards import MOST_TIMES
from domain.pipeline_labels import MAX_SOURCE, MAX_SOURCES
from domain.pipeline_retraining import RETRAINING_SCHEMA
from domain.pipeline_review import REVIEW_SCHEMA
from domain.pipeline_threshold import MAX_PER_DAY, PER_DAY

__all__ = ["json_schema"]

_DURATION = {
    "type": "string",
    "pattern": r"^\s*(\d+(\.\d+)?(us|ms|s|m|h|d|w))+\s*$",
    "description": "a duration such as 90s, 5m, 1h30m, 30d",
}
_SPAN = {"anyOf": [{"const": 0}, {"$ref": "#/$defs/duration"}]}
_NAME = {"type": "string", "pattern": "^[a-z][a-z0-9_]{0,62}$"}
_SHARE = {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1}
_PER_DAY = {
    "anyOf": [
        {"type": "string", "pattern": f"^{PER_DAY}$"},
        {
            "type": "object",
            "properties": {"per_day": {"type": "number", "exclusiveMinimum": 0, "maximum": MAX_PER_DAY}},
            "required": ["per_day"],
            "additionalProperties": False,
        },
    ],
    "description": "alerts that reviewers can take a day, such as 100/d",
}
_COST = {
    "type": "object",
    "properties": {
        "false_alarm": {"type": "number", "minimum": 0},
        "missed": {"anyOf": [{"type": "number", "exclusiveMinimum": 0}, _NAME]},
        "capacity": _PER_DAY,
    },
    "required": ["false_alarm", "missed"],
    "additionalProperties": False,
    "description": "what a false alarm costs, and what is lost when fraud passes (a number, or a field)",
}
_THRESHOLD = {
    "type": "object",
    "properties": {
        "budget": _SHARE | {"description": "the share of traffic that may reach this decision"},
        "precision": _SHARE | {"description": "the share of its alerts that must be right"},
        "capacity": _PER_DAY,
        "cost": _COST,
    },
    "minProperties": 1,
    "maxProperties": 1,
    "additionalProperties": False,
    "description": "where the decision begins",
}
_OTHER = [Aggregate.RATE, Aggregate.QUANTILE, Aggregate.DECAYED_SUM, Aggregate.DECAYED_COUNT]
_LOOKBACK = [Aggregate.LAST, Aggregate.SECONDS_SINCE_LAST]


def json_schema(kinds: Mapping[str, type[msgspec.Struct]] | None = None) -> dict[str, Any]:
    """The schema (JSON Schema 2020-12); with ``kinds``, detectors' parameters are described too."""
    detector, parameters = _detector(kinds)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Tidegate pipeline",
        "type": "object",
        "properties": {
            "pipeline": {
                "type": "string",
                "pattern": "^[a-z][a-z0-9_-]{0,62}$",
                "description": "name; prefix of the Kafka topics",
            },
            "version": {"type": "integer", "minimum": 1, "maximum": 2**31, "default": 1},
            "seed": {"type": "integer", "minimum": 0, "maximum": 2**31 - 1, "default": 0},
            "event": _event(),
            "features": _named({"$ref": "#/$defs/feature"}, 256),
            "detectors": _named({"$ref": "#/$defs/detector"}, 64),
            "decision": {
                "type": "object",
                "properties": {
                    "combine": {"enum": list(COMBINERS)},
                    "review": _THRESHOLD,
                    "block": _THRESHOLD,
                    "explore": {
                        "type": "object",
                        "properties": {
                            "share": {"type": "number", "minimum": 0, "maximum": MOST_EXPLORED},
                            "instead": {"enum": ["review", "allow"], "default": "review"},
                        },
                        "required": ["share"],
                        "additionalProperties": False,
                        "description": "of what would be blocked, the share that is spared by lot",
                    },
                },
                "anyOf": [{"required": ["review"]}, {"required": ["block"]}],
                "additionalProperties": False,
            },
            "rules": {
                "type": "array",
                "items": {"type": "string", "minLength": 1},
                "minItems": 1,
                "maxItems": MAX_RULE_FILES,
                "uniqueItems": True,
                "description": "files beside this one with the rules to begin with",
            },
            "guards": {
                "type": "object",
                "properties": {
                    "teach_per_entity": {
                        "anyOf": [
                            {"type": "number", "minimum": 1, "maximum": MOST_TIMES},
                            {"enum": ["off", False]},
                        ],
                        "default": 4,
                        "description": "how often a value of the key may teach the detectors: times the average",
                    }
                },
                "additionalProperties": False,
            },
            "retraining": RETRAINING_SCHEMA,
            "review": REVIEW_SCHEMA,
            "labels": {
                "type": "object",
                "properties": {
                    "sources": {
                        "type": "array",
                        "items": {"type": "string", "minLength": 1, "maxLength": MAX_SOURCE},
                        "minItems": 1,
                        "maxItems": MAX_SOURCES,
                        "uniqueItems": True,
                        "description": "who may say what events turned out to be; earlier ones are believed first",
                    },
                    "orphans_wait": _SPAN | {"default": "1d"},
                },
                "additionalProperties": False,
            },
        },
        "required": ["pipeline", "event", "features", "detectors", "decision"],
        "additionalProperties": False,
        "$defs": {
            "duration": _DURATION,
            "name": _NAME,
            "field": _field(),
            "feature": _feature(),
            "detector": detector,
            **parameters,
        },
    }


def _named(item: dict[str, Any], most: int) -> dict[str, Any]:
    return {
        "type": "object",
        "propertyNames": {"$ref": "#/$defs/name"},
        "additionalProperties": item,
        "minProperties": 1,
        "maxProperties": most,
    }


def _event() -> dict[str, Any]:
    return {
        "type": "object",
        "properties": {
            "id": {"$ref": "#/$defs/name", "description": "the field that names the event"},
            "time": {"$ref": "#/$defs/name", "description": "the field of event time"},
            "key": {"$ref": "#/$defs/name", "description": "the entity whose events stay in order"},
            "max_lateness": _SPAN | {"default": "1h"},
            "max_future": _SPAN | {"default": "5m"},
            "dedupe_window": _SPAN | {"default": "10m"},
            "late": {"enum": [str(p) for p in LatePolicy], "default": "count"},
            "unknown_fields": {"enum": [str(p) for p in UnknownFields], "default": "reject"},
            "max_bytes": {"type": "integer", "minimum": 64, "maximum": 1_000_000, "default": 65_536},
            "fields": _named({"$ref": "#/$defs/field"}, 128),
        },
        "required": ["id", "time", "key", "fields"],
        "additionalProperties": False,
    }


def _field() -> dict[str, Any]:
    common = {"source": {"type": "string", "minLength": 1, "maxLength": 128}, "required": {"type": "boolean"}}
    sensitive = {"sensitive": {"type": "boolean", "description": "kept only as a keyed hash"}}
    bounds = {"minimum": {"type": "number"}, "maximum": {"type": "number"}}
    texts = {
        "max_length": {"type": "integer", "minimum": 1, "maximum": 4096, "default": 256},
        "values": {"type": "array", "items": {"type": "string"}, "minItems": 1, "uniqueItems": True},
    }
    times = {
        "timezone": {"type": "string", "description": "IANA zone of values that carry none"},
        "unit": {"enum": ["iso", "s", "ms", "us"], "default": "iso"},
    }
    options: dict[FieldType, dict[str, Any]] = {
        FieldType.STRING: sensitive | texts,
        FieldType.NUMBER: bounds,
        FieldType.INTEGER: sensitive | bounds,
        FieldType.BOOLEAN: {},
        FieldType.TIMESTAMP: times,
    }
    return {
        "type": "object",
        "required": ["type"],
        "oneOf": [
            {
                "properties": {"type": {"const": str(kind)}, **common, **own},
                "additionalProperties": False,
            }
            for kind, own in options.items()
        ],
    }


def _feature() -> dict[str, Any]:
    name, duration = {"$ref": "#/$defs/name"}, {"$ref": "#/$defs/duration"}
    windowed = [str(a) for a in Aggregate if a not in (*_LOOKBACK, *_OTHER)]
    return {
        "type": "object",
        "oneOf": [
            {"properties": {"value": name}, "required": ["value"], "additionalProperties": False},
            {
                "properties": {"expression": {"type": "string", "minLength": 1, "maxLength": 1000}},
                "required": ["expression"],
                "additionalProperties": False,
            },
            {
                "properties": {
                    "entity": name,
                    "aggregate": {"enum": windowed},
                    "of": name,
                    "window": duration,
                    "hop": duration,
                    "delay": _SPAN,
                    "include_current": {"type": "boolean"},
                },
                "required": ["entity", "aggregate", "window"],
                "if": {"properties": {"aggregate": {"const": "count"}}},
                "else": {"required": ["of"]},
                "additionalProperties": False,
            },
            {
                "properties": {
                    "entity": name,
                    "aggregate": {"const": "rate"},
                    "of": {"const": "label"},
                    "window": duration,
                    "hop": duration,
                    "delay": _SPAN,
                },
                "required": ["entity", "aggregate", "of", "window"],
                "additionalProperties": False,
            },
            {
                "properties": {
                    "entity": name,
                    "aggregate": {"const": "quantile"},
                    "of": name,
                    "q": {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1},
                    "window": duration,
                    "hop": duration,
                    "delay": _SPAN,
                    "include_current": {"type": "boolean"},
                },
                "required": ["entity", "aggregate", "of", "q", "window"],
                "additionalProperties": False,
            },
            {
                "properties": {
                    "entity": name,
                    "aggregate": {"enum": ["decayed_sum", "decayed_count"]},
                    "of": name,
                    "half_life": duration,
                    "include_current": {"type": "boolean"},
                },
                "required": ["entity", "aggregate", "half_life"],
                "if": {"properties": {"aggregate": {"const": "decayed_sum"}}},
                "then": {"required": ["of"]},
                "else": {"not": {"required": ["of"]}},
                "additionalProperties": False,
            },
            {
                "properties": {
                    "entity": name,
                    "aggregate": {"const": "last"},
                    "of": name,
                    "window": duration,
                    "include_current": {"const": False},
                },
                "required": ["entity", "aggregate", "of"],
                "additionalProperties": False,
            },
            {
                "properties": {
                    "entity": name,
                    "aggregate": {"const": "seconds_since_last"},
                    "window": duration,
                    "include_current": {"const": False},
                },
                "required": ["entity", "aggregate"],
                "additionalProperties": False,
            },
        ],
    }


def _detector(kinds: Mapping[str, type[msgspec.Struct]] | None) -> tuple[dict[str, Any], dict[str, Any]]:
    own = {
        "kind": {"type": "string"},
        "features": {
            "type": "array",
            "items": {"$ref": "#/$defs/name"},
            "minItems": 1,
            "uniqueItems": True,
            "description": "the features it sees; all of them when left out",
        },
    }
    if not kinds:
        return {"type": "object", "properties": own, "required": ["kind"]}, {}
    records, components = msgspec.json.schema_components(kinds.values(), ref_template="#/$defs/{name}")
    choices = []
    for kind, reference in zip(kinds, records, strict=True):
        record = components.pop(reference["$ref"].removeprefix("#/$defs/"))
        choices.append(
            {
                **record,
                "properties": {**record["properties"], **own, "kind": {"const": kind}},
                "required": ["kind", *record["required"]],
                "additionalProperties": False,
            }
        )
    return {"type": "object", "oneOf": choices}, components
