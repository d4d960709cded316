"""The OpenAPI document: generated routes plus schemas of the records that travel as bytes."""

from __future__ import annotations

from typing import Any

import msgspec
from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute

from api.access import EverybodyOnThisMachine, needed, needs, routes_of
from api.deps import ApiDeps
from api.ports import WorkerReport
from api.problems import PROBLEM_SCHEMA, responses
from api.routes.webhook_schemas import SCHEMAS as WEBHOOK_SCHEMAS
from domain.codec import json_schema_of_event
from domain.drift_record import DriftState
from domain.pipeline import Field, FieldType, Pipeline
from domain.raw_label import json_schema_of_label
from domain.rule_records import RuleSet
from domain.verdict import Alert, Verdict
from lifecycle.audit import AuditRecord
from lifecycle.case_records import CaseView
from lifecycle.case_stats import CaseStats
from lifecycle.keys import ApiKey
from lifecycle.list_store import ListsChanged, ListSummary
from lifecycle.registry import ModelRecord, RegistryState
from lifecycle.rule_store import RuleVersion
from lifecycle.rule_trial import TrialReport

__all__ = ["example_event", "install"]

_REF = "#/components/schemas/{name}"


def install(app: FastAPI, deps: ApiDeps) -> None:
    """Let ``/openapi.json`` tell the whole truth, to whoever is known: it names the fields of events."""

    def document() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _document(app, deps)
        return app.openapi_schema

    @app.get("/openapi.json", dependencies=[needs(deps)], include_in_schema=False)
    async def openapi_json() -> JSONResponse:
        return JSONResponse(document())

    app.openapi = document  # type: ignore[method-assign]


def _document(app: FastAPI, deps: ApiDeps) -> dict[str, Any]:
    pipeline = deps.pipeline
    document = get_openapi(
        title=app.title, version=app.version, description=app.description, routes=app.routes
    )
    _, records = msgspec.json.schema_components(
        (
            Verdict,
            WorkerReport,
            DriftState,
            ModelRecord,
            RegistryState,
            AuditRecord,
            ApiKey,
            CaseView,
            CaseStats,
            Alert,
            *WEBHOOK_SCHEMAS,
        ),
        ref_template=_REF,
    )
    _, rules = msgspec.json.schema_components(
        (RuleSet, RuleVersion, TrialReport, ListSummary, ListsChanged), ref_template=_REF
    )
    records |= rules
    records["CaseAlert"]["properties"]["alert"] = {"$ref": _REF.format(name="Alert")}
    event = json_schema_of_event(pipeline)
    event.pop("$schema", None)  # OpenAPI 3.1 has a dialect for the whole document
    event["examples"] = [example_event(pipeline)]
    records["Verdict"]["examples"] = [_example_verdict(pipeline)]
    schemas = document.setdefault("components", {}).setdefault("schemas", {})
    label = json_schema_of_label(pipeline)
    label["examples"] = [example_label(pipeline)]
    schemas |= {**records, "Event": event, "Label": label, "Problem": PROBLEM_SCHEMA}
    # FastAPI describes its own form of 422, which never leaves this server
    for operations in document["paths"].values():
        for operation in operations.values():
            if "application/json" in operation["responses"].get("422", {}).get("content", {}):
                del operation["responses"]["422"]
    for unused in ("HTTPValidationError", "ValidationError"):
        schemas.pop(unused, None)
    _say_who_may(document, app, open_to_all=isinstance(deps.access, EverybodyOnThisMachine))
    return document


def _say_who_may(document: dict[str, Any], app: FastAPI, *, open_to_all: bool) -> None:
    """Every operation's scopes, and what it answers to somebody unknown, somebody else, and in a rush."""
    document["components"]["securitySchemes"] = {
        "bearer": {
            "type": "http",
            "scheme": "bearer",
            "description": "An API key (tg_...), or a token of the identity provider; docs/access.md",
        }
    }
    for route in routes_of(app.routes):
        scopes = needed(route)
        if not isinstance(route, APIRoute) or not route.include_in_schema:
            continue
        for method in route.methods or ():
            operation = document["paths"][route.path_format][method.lower()]
            if scopes is None:
                continue
            # on loopback without authentication it works without, too
            operation["security"] = [{"bearer": []}, *([{}] if open_to_all else [])]
            described = operation.get("description", "")
            wanted = f"Needs the scope {' or '.join(f'`{scope}`' for scope in sorted(scopes))}."
            operation["description"] = f"{described} {wanted}".strip()
            refusals = {str(status): said for status, said in responses(401, 403, 429, 503).items()}
            operation["responses"] = refusals | operation["responses"]


def example_event(pipeline: Pipeline) -> dict[str, Any]:
    """An event that the pipeline's schema accepts."""
    return {field.source: _example(field) for field in pipeline.event.fields}


def example_label(pipeline: Pipeline) -> dict[str, Any]:
    """A label that the pipeline's sources may give."""
    id_ = _example(pipeline.event.field(pipeline.event.id))
    return {"id": id_, "label": 1, "source": (*pipeline.label_sources, "chargeback")[0]}


def _example(field: Field) -> Any:
    if field.type is FieldType.STRING:
        return field.values[0] if field.values else f"{field.name}-1"[: field.max_length]
    if field.type is FieldType.BOOLEAN:
        return False
    if field.type is FieldType.TIMESTAMP:
        seconds = 1_735_725_600
        per_second = {"s": 1, "ms": 1_000, "us": 1_000_000}
        return seconds * per_second[field.unit] if field.unit in per_second else "2025-01-01T10:00:00Z"
    low = field.minimum if field.minimum is not None else 0.0
    high = field.maximum if field.maximum is not None else low + 1000
    value = min(high, max(low, 42.0))
    return int(value) if field.type is FieldType.INTEGER else value


def _example_verdict(pipeline: Pipeline) -> dict[str, Any]:
    return {
        "id": "transaction-1",
        "event_time": 1_735_725_600_000_000,
        "scored_at": 1_735_725_600_021_500,
        "entities": dict.fromkeys(pipeline.entities, "9f86d081884c7d65"),
        "score": 0.9971,
        "decision": "review",
        "reasons": [],
        "features": dict.fromkeys(pipeline.feature_names, 1.0),
        "detectors": {d.name: {"score": 0.61, "rank": 0.9971, "abstained": None} for d in pipeline.detectors},
        "flags": [],
        "versions": {
            "code": "0.1.0",
            "pipeline": pipeline.version,
            "pipeline_digest": pipeline.digest,
            "models": {d.name: f"{d.kind}-3f2a9c01" for d in pipeline.detectors},
            "rules": None,
            "lists": None,
        },
        "source": {"topic": pipeline.topic("events"), "partition": 0, "offset": 1234},
        "first": None,
    }
