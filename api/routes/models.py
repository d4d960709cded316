"""``GET /v1/models``: which worker runs what."""

from __future__ import annotations

from typing import Any

import msgspec
from fastapi import APIRouter
from starlette.responses import Response

from api.deps import ApiDeps
from api.problems import responses
from api.threads import Threads

__all__ = ["router"]

JSON = "application/json"


def router(deps: ApiDeps) -> APIRouter:
    """The route, bound to its ports."""
    routes = APIRouter(tags=["models"])
    threads = Threads(2, deps.limits.answer_seconds)

    @routes.get(
        "/v1/models",
        summary="What each worker runs, and whether all agree",
        responses={200: {"description": "Workers alive", "content": _MODELS}, **responses(503)},
    )
    async def models() -> Response:
        workers = await threads.run(deps.models.workers)
        # what a model has learned follows each partition's own traffic (its name ends in @partition), so
        # agreement is about code, pipeline and models that are installed rather than grown
        running = {
            msgspec.json.encode(
                (
                    w.code,
                    w.pipeline_digest,
                    (w.epoch, w.champion, w.challenger),
                    sorted((name, version) for name, version in w.models.items() if "@" not in name),
                )
            )
            for w in workers
        }
        body = {"pipeline": deps.pipeline.name, "converged": len(running) == 1, "workers": workers}
        return Response(msgspec.json.encode(body), media_type=JSON)

    return routes


_MODELS: dict[str, Any] = {
    JSON: {
        "schema": {
            "type": "object",
            "required": ["pipeline", "converged", "workers"],
            "properties": {
                "pipeline": {"type": "string"},
                "converged": {"type": "boolean", "description": "there are workers and all run the same"},
                "workers": {"type": "array", "items": {"$ref": "#/components/schemas/WorkerReport"}},
            },
        }
    }
}
