"""``/v1/entities/{field}/{value}``: which lists and tags an entity stands in, and silence about it for a time."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Request
from starlette.responses import Response

from api.access import Scope, needs
from api.body import read_json_body
from api.deps import ApiDeps
from api.problems import responses
from api.routes.lists import CHANGED, ENTRY, EXPIRES, Reason, Seconds, Text, expiry, shown
from api.rule_parts import JSON, Asking, Described, by_of, decoded, invalid, json_body, said
from domain.list_records import SNOOZED
from domain.list_values import ListInvalid, ListValues
from lifecycle.list_store import NewEntry, SqlListStore

__all__ = ["router"]

MAX_BODY = 8_192


class Snooze(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """For how long alerts of an entity are not delivered, and why."""

    reason: Reason
    expires_at: Annotated[str, msgspec.Meta(max_length=64)] | None = None
    expires_in: Seconds | None = None
    note: Text = ""


class Unsnooze(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Why alerts are delivered again."""

    reason: Reason


def router(deps: ApiDeps) -> APIRouter:
    """The routes, bound to their ports."""
    routes = APIRouter(tags=["lists"])
    asking = Asking(deps)
    values = ListValues(deps.pipeline, deps.protector)
    changed: Described = {
        200: {"description": "Changed, and everybody is told", "content": CHANGED},
        202: {"description": "Changed; others will be told later", "content": CHANGED},
        **responses(404, 408, 409, 413, 415, 422, 503),
    }
    writing: dict[str, Any] = {"dependencies": [needs(deps, Scope.RULES_WRITE)]}

    def entity(field: str, value: str) -> str:
        if field not in deps.pipeline.entities:
            raise ListInvalid(
                "field",
                f"{field[:80]!r} is no entity of this pipeline",
                remedy=f"use one of: {', '.join(deps.pipeline.entities)}",
            )
        return values.value(field, value)

    async def body(request: Request) -> bytes:
        return await read_json_body(
            request, MAX_BODY, deps.limits.body_seconds, smaller="write a shorter note"
        )

    @routes.get(
        "/v1/entities/{field}/{value:path}/lists",
        summary="The lists, tags and the snooze that an entity stands in",
        responses={200: {"description": "Entries", "content": _STANDS}, **responses(404, 422, 503)},
        dependencies=[needs(deps, Scope.RULES_READ)],
    )
    async def lists(field: str, value: str) -> Response:
        def look(store: SqlListStore) -> dict[str, Any]:
            return {"entries": [shown(e, values) for e in store.find(field, entity(field, value))]}

        return Response(msgspec.json.encode(await asking.lists(look)), media_type=JSON)

    @routes.post(
        "/v1/entities/{field}/{value:path}:snooze",
        summary="Deliver no alerts of an entity until a moment of its events' time",
        responses=changed,
        openapi_extra=json_body(_SNOOZE),
        **writing,
    )
    async def snooze(field: str, value: str, request: Request) -> Response:
        wanted = decoded(await body(request), Snooze)
        reason, by = said(wanted.reason), by_of(request)
        until = expiry(wanted.expires_at, wanted.expires_in, deps.clock.now())
        if until is None:
            # for ever is a list, which somebody should look after
            raise invalid("expires_in", "a snooze must end", 'send {"expires_in": 86400, "reason": "..."}')

        def change(store: SqlListStore) -> Any:
            new = NewEntry(
                field=field, value=entity(field, value), expires_at=until, source="snooze", note=wanted.note
            )
            return store.put(SNOOZED, [new], by=by, reason=reason)

        return await asking.told(deps.publish_lists, {"changed": await asking.lists(change)})

    @routes.post(
        "/v1/entities/{field}/{value:path}:unsnooze",
        summary="Deliver alerts of an entity again",
        responses=changed,
        openapi_extra=json_body(_UNSNOOZE),
        **writing,
    )
    async def unsnooze(field: str, value: str, request: Request) -> Response:
        reason, by = said(decoded(await body(request), Unsnooze).reason), by_of(request)

        def change(store: SqlListStore) -> Any:
            return store.remove(SNOOZED, [(field, entity(field, value))], by=by, reason=reason)

        return await asking.told(deps.publish_lists, {"changed": await asking.lists(change)})

    return routes


_REASON = {"type": "string", "minLength": 1, "maxLength": 500, "description": "kept in the audit"}
_SNOOZE: dict[str, Any] = {
    "type": "object",
    "required": ["reason"],
    "additionalProperties": False,
    "properties": {"reason": _REASON, **EXPIRES, "note": {"type": "string", "maxLength": 500}},
}
_UNSNOOZE: dict[str, Any] = {
    "type": "object",
    "required": ["reason"],
    "additionalProperties": False,
    "properties": {"reason": _REASON},
}
_STANDS: dict[str, Any] = {
    JSON: {
        "schema": {
            "type": "object",
            "required": ["entries"],
            "properties": {"entries": {"type": "array", "items": ENTRY}},
        }
    }
}
