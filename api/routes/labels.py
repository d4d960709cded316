"""``POST /v1/labels``: what events turned out to be, one or many, into the topic ``labels``."""

from __future__ import annotations

from typing import Any

import msgspec
from fastapi import APIRouter, Request
from starlette.responses import Response

from api.access import Scope, needs
from api.body import read_event_body
from api.deps import ApiDeps
from api.metrics import ApiMetrics
from api.problems import ProblemError, responses
from domain.errors import EventRejected, Reject
from domain.raw_label import RawLabel, RawLabelCodec

__all__ = ["MAX_LABELS", "router"]

JSON = "application/json"
MAX_LABELS = 1_000
"""Of one request: about 200 kB, and a page of what a bank reports at once."""
MAX_BODY = 1 << 20
WRITE_SECONDS = 10.0
"""For Kafka to confirm. Nobody's payment waits for a label."""
_SHOWN = 20
"""Wrong labels that a refusal names."""


def router(deps: ApiDeps, metrics: ApiMetrics) -> APIRouter:
    """The route, bound to its ports."""
    routes = APIRouter(tags=["labels"])
    codec = RawLabelCodec(deps.pipeline, deps.protector)

    @routes.post(
        "/v1/labels",
        dependencies=[needs(deps, Scope.LABELS_WRITE)],
        status_code=202,
        response_class=Response,
        summary="Say what events turned out to be",
        description=f"One label, or an array of at most {MAX_LABELS:,}: all are taken or none. The joiner then finds "
        "their events. Sending labels again is harmless.",
        responses={
            202: {"description": "All are written", "content": {JSON: {"schema": _ACCEPTED}}},
            **responses(408, 413, 415, 422, 503),
        },
        openapi_extra={
            "requestBody": {
                "required": True,
                "content": {JSON: {"schema": {"anyOf": [_LABEL, {**_MANY, "items": _LABEL}]}}},
            }
        },
    )
    async def post_labels(request: Request) -> Response:
        try:
            raw = await read_event_body(
                request, MAX_BODY, deps.limits.body_seconds, smaller="send fewer labels in one request"
            )
            labels = _decoded(raw, codec, deps.clock.now())
        except (EventRejected, ProblemError) as error:
            reason = (
                error.reason.value
                if isinstance(error, EventRejected)
                else error.more.get("reason", error.code)
            )
            metrics.labels.labels(reason).inc()
            raise
        await deps.labels.write([(label.key, codec.encode(label)) for label in labels], WRITE_SECONDS)
        metrics.labels.labels("accepted").inc(len(labels))
        shown = [
            {"id": one.id, "label": one.label, "source": one.source, "known_at": one.known_at}
            for one in labels
        ]
        return Response(msgspec.json.encode({"accepted": len(labels), "labels": shown}), 202, media_type=JSON)

    return routes


def _decoded(raw: bytes, codec: RawLabelCodec, now: int) -> list[RawLabel]:
    """Every label of the body. Raises EventRejected for a single one, ProblemError for mistakes in a list."""
    try:
        value = msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise EventRejected(
            Reject.NOT_JSON, None, "the body is not valid JSON.", remedy="Send one label or an array of them."
        ) from None
    if not isinstance(value, list):
        return [codec.check(value, received_at=now)]
    if not 0 < len(value) <= MAX_LABELS:
        reason = Reject.EMPTY if not value else Reject.TOO_LONG
        raise EventRejected(
            reason,
            None,
            f"the array has {len(value):,} labels.",
            remedy=f"Send 1 to {MAX_LABELS:,} labels in one request.",
        )
    labels: list[RawLabel] = []
    wrong: list[tuple[int, EventRejected]] = []
    for index, one in enumerate(value):
        try:
            labels.append(codec.check(one, received_at=now))
        except EventRejected as error:
            wrong.append((index, error))
    if wrong:
        index, first = wrong[0]
        raise ProblemError(
            422,
            "event-rejected",
            f"label {index} of {len(value)}: {first.detail}"
            + (f" And {len(wrong) - 1} more." if len(wrong) > 1 else ""),
            remedy=f"{first.remedy} Nothing was written: send all again.",
            reason=first.reason.value,
            field=first.field,
            errors=[
                {"index": at, "reason": e.reason.value, "field": e.field, "detail": e.detail}
                for at, e in wrong[:_SHOWN]
            ],
        )
    return labels


_LABEL: dict[str, Any] = {"$ref": "#/components/schemas/Label"}
_MANY: dict[str, Any] = {"type": "array", "minItems": 1, "maxItems": MAX_LABELS}
_ACCEPTED: dict[str, Any] = {
    "type": "object",
    "required": ["accepted", "labels"],
    "properties": {
        "accepted": {"type": "integer"},
        "labels": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {
                    "id": {
                        "type": "string",
                        "description": "as in verdicts: a sensitive id as its keyed hash",
                    },
                    "label": {"enum": [0, 1, None]},
                    "source": {"type": "string"},
                    "known_at": {"type": "integer", "description": "UTC microseconds"},
                },
            },
        },
    },
}
