"""``POST /v1/score``: one event in, its committed verdict out."""

from __future__ import annotations

from typing import Annotated, Any
from urllib.parse import quote

import msgspec
from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from api.access import Scope, needs
from api.body import read_event_body
from api.deps import ApiDeps
from api.metrics import ApiMetrics
from api.problems import responses
from api.threads import Threads
from domain.errors import EventRejected

__all__ = ["router"]

JSON = "application/json"
MAX_DEADLINE_MS = 30_000
_PENDING = "The event is written; its verdict will be at Location"


def router(deps: ApiDeps, metrics: ApiMetrics) -> APIRouter:
    """The route, bound to its ports."""
    routes = APIRouter(tags=["score"])
    # one at a time: the dry run shares the engine's buffers, and must not starve live requests of the CPU
    dry = Threads(1, deps.limits.answer_seconds)

    @routes.post(
        "/v1/score",
        dependencies=[needs(deps, Scope.SCORE)],
        summary="Score an event",
        description="Writes the event to Kafka and waits for its committed verdict.",
        responses={
            200: {"description": "The verdict, byte for byte as in the topic", "content": _VERDICT},
            202: {"description": _PENDING, "headers": {"Location": {"schema": {"type": "string"}}}},
            **responses(408, 413, 415, 422, 503),
        },
        openapi_extra={
            "requestBody": {
                "required": True,
                "content": {JSON: {"schema": {"$ref": "#/components/schemas/Event"}}},
            }
        },
    )
    async def score(
        request: Request,
        deadline_ms: Annotated[
            int, Query(ge=1, le=MAX_DEADLINE_MS, description="How long to wait for the verdict")
        ] = 1000,
        dry_run: Annotated[
            bool, Query(description="Score against present state; write and change nothing")
        ] = False,
    ) -> Response:
        try:
            raw = await read_event_body(request, deps.pipeline.event.max_bytes, deps.limits.body_seconds)
            event = deps.codec.decode(raw, received_at=deps.clock.now())
            if dry_run:
                verdict = await dry.run(lambda: deps.dry_runner.score(raw))
                metrics.scored.labels("dry_run").inc()
                return Response(msgspec.json.encode(verdict), media_type=JSON)
            found = await deps.gateway.submit(
                raw, deps.codec.expected_key(event), deadline_ms / 1000, request.headers.get("traceparent")
            )
        except EventRejected as error:
            metrics.scored.labels(error.reason.value).inc()
            raise
        if found is not None:
            metrics.scored.labels("verdict").inc()
            return Response(found, media_type=JSON)
        metrics.scored.labels("pending").inc()
        event_id = deps.codec.event_id(event)
        body = msgspec.json.encode({"id": event_id, "status": "pending"})
        location = "/v1/verdicts/" + quote(event_id, safe="")
        return Response(body, 202, {"Location": location}, JSON)

    return routes


_VERDICT: dict[str, Any] = {JSON: {"schema": {"$ref": "#/components/schemas/Verdict"}}}
