"""``DELETE /v1/entities/{entity}/{value}``: forget an entity; ``GET /v1/erasures/{id}``: how far that is."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from api.access import Scope, needs, principal_of
from api.deps import ApiDeps
from api.problems import ProblemError, responses
from api.threads import Threads
from lifecycle.erasure_store import ErasureRequest, ErasureStore

__all__ = ["router"]

JSON = "application/json"
_LONGEST = 512
"""Characters of an entity's value, as in queries for verdicts."""
_MAX_REASON = 500


def router(deps: ApiDeps) -> APIRouter:
    """The routes, bound to their ports."""
    routes = APIRouter(tags=["privacy"])
    threads = Threads(2, deps.limits.answer_seconds)
    accepted = {"description": "Asked for; ask Location how far it is", "content": _ERASURE}

    @routes.delete(
        "/v1/entities/{entity}/{value:path}",
        status_code=202,
        summary="Erase an entity: online state, recent verdicts, verdicts and labels offline",
        responses={202: accepted, **responses(404, 422, 503)},
        dependencies=[needs(deps, Scope.ENTITIES_ERASE)],
    )
    async def erase(
        request: Request,
        entity: str,
        value: str,
        *,
        hashed: Annotated[bool, Query(description="value is the keyed hash, as in verdicts")] = False,
        reason: Annotated[
            str, Query(min_length=1, max_length=_MAX_REASON, description="kept in the audit")
        ] = "asked for",
    ) -> Response:
        kept, digest = _value(deps, entity, value, hashed=hashed)
        if not reason.strip() or not reason.isprintable():
            raise ProblemError(
                422,
                "invalid-parameter",
                "reason must be printable",
                remedy="write why, in one line",
                field="reason",
            )
        by, now = principal_of(request).name, deps.clock.now()
        found = await threads.run(
            lambda: _store(deps).request(entity, kept, digest, by=by, reason=reason, now=now)
        )
        return Response(_encoded(found), 202, {"Location": f"/v1/erasures/{found.id}"}, media_type=JSON)

    @routes.get(
        "/v1/erasures/{erasure_id}",
        summary="How far an erasure is",
        responses={200: {"description": "The erasure", "content": _ERASURE}, **responses(404, 503)},
        dependencies=[needs(deps, Scope.ENTITIES_ERASE)],
    )
    async def one(erasure_id: str) -> Response:
        found = await threads.run(lambda: _store(deps).get(erasure_id) if _plain(erasure_id) else None)
        if found is None:
            raise ProblemError(
                404, "no-such-erasure", "there is no erasure with this id", remedy="use Location"
            )
        return Response(_encoded(found), media_type=JSON)

    return routes


def _store(deps: ApiDeps) -> ErasureStore:
    if deps.database is None:
        raise ProblemError(
            404, "no-database", "this API has no database", remedy="set TIDEGATE_DATABASE_URL for the API"
        )
    return ErasureStore(deps.database(), deps.pipeline.name)


def _value(deps: ApiDeps, entity: str, value: str, *, hashed: bool) -> tuple[str, str]:
    """The value as in verdicts, and a keyed hash of it for the audit. Raises ProblemError."""
    if entity not in deps.pipeline.entities:
        raise ProblemError(
            404, "no-such-entity", "the pipeline has no such entity",
            remedy=f"use one of {', '.join(deps.pipeline.entities)}", field="entity",
        )  # fmt: skip
    if not value or len(value) > _LONGEST or not _plain(value):
        raise ProblemError(
            422, "invalid-parameter", f"the value must be text of 1 to {_LONGEST} characters",
            remedy="write it as in events, percent-encoded; or with hashed=true as in verdicts", field="value",
        )  # fmt: skip
    if deps.pipeline.event.field(entity).sensitive:
        kept = value if hashed else deps.protector.protect(value)
        return kept, kept
    return value, deps.protector.protect(value)


def _plain(text: str) -> bool:
    """Whether every database can hold it."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return "\0" not in text


def _encoded(found: ErasureRequest) -> bytes:
    """What a caller may see: never the value of a field."""
    shown = msgspec.to_builtins(found)
    for name in ("value", "points", "verdicts"):
        del shown[name]
    return msgspec.json.encode(shown)


_ERASURE: dict[str, Any] = {
    JSON: {
        "schema": {
            "type": "object",
            "required": ["id", "entity", "value_hash", "step", "requested_at"],
            "properties": {
                "id": {"type": "string"},
                "entity": {"type": "string"},
                "value_hash": {
                    "type": "string",
                    "description": "keyed hash; of a sensitive field as in verdicts",
                },
                "step": {"enum": ["requested", "logging", "logged", "online", "done"]},
                "requested_at": {"type": "integer", "description": "UTC microseconds, as all times"},
                "requested_by": {"type": "string"},
                "reason": {"type": "string"},
                "hot_removed": {"type": "integer", "description": "recent verdicts removed"},
                "offline_removed": {
                    "type": "integer",
                    "description": "verdicts removed from the offline store",
                },
                "changed_at": {"type": "integer"},
            },
        }
    }
}
