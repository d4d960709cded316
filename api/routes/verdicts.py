"""``GET /v1/verdicts`` and ``GET /v1/verdicts/{id}``: verdicts, recent ones and those of the offline store."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Query
from pydantic import AwareDatetime, BeforeValidator
from starlette.responses import Response

from api.access import Scope, needs
from api.deps import ApiDeps
from api.problems import ProblemError, responses
from api.threads import Threads
from domain.clock import to_micros
from domain.verdict import DecisionName
from featurestore.hot_verdicts_port import VerdictQuery

__all__ = ["entity_of", "router"]

JSON = "application/json"
MAX_LIMIT = 500
_READERS = 8
"""Threads reading Redis: more would only queue there."""
_ENTITY = "One entity's verdicts: FIELD:VALUE with the value as in events (a sensitive one is hashed first)"
_HASHED = "The same with the value as it stands in verdicts"


def _rfc3339(text: str) -> str:
    """``text``; ValueError for what is a number, which pydantic would take for seconds or milliseconds."""
    if ":" not in text:
        raise ValueError("must be a time such as 2026-01-31T12:00:00Z")
    return text


_Moment = Annotated[AwareDatetime, BeforeValidator(_rfc3339)]


def router(deps: ApiDeps) -> APIRouter:
    """The routes, bound to their ports. The live stream's route must come before these."""
    routes = APIRouter(tags=["verdicts"])
    readers = Threads(_READERS, deps.limits.answer_seconds)

    @routes.get(
        "/v1/verdicts",
        dependencies=[needs(deps, Scope.VERDICTS_READ)],
        summary="List recent verdicts, newest first",
        responses={200: {"description": "One page", "content": _PAGE}, **responses(422, 503)},
    )
    async def page(
        *,
        start: Annotated[_Moment | None, Query(alias="from", description="scored_at from (RFC 3339)")] = None,
        end: Annotated[_Moment | None, Query(alias="to", description="scored_at before (RFC 3339)")] = None,
        decision: Annotated[DecisionName | None, Query()] = None,
        entity: Annotated[str | None, Query(max_length=512, description=_ENTITY)] = None,
        entity_hash: Annotated[str | None, Query(max_length=512, description=_HASHED)] = None,
        limit: Annotated[int, Query(ge=1, le=MAX_LIMIT)] = 50,
        cursor: Annotated[str | None, Query(max_length=200, description="next of the page before")] = None,
    ) -> Response:
        query = VerdictQuery(
            start=_micros(start),
            end=_micros(end),
            decision=decision,
            entity=entity_of(deps, entity, entity_hash),
            limit=limit,
            cursor=cursor,
        )
        found = await readers.run(lambda: deps.hot.page(query))
        body = b'{"verdicts":[%b],"next":%b}' % (b",".join(found.verdicts), msgspec.json.encode(found.next))
        return Response(body, media_type=JSON)

    @routes.get(
        "/v1/verdicts/{verdict_id:path}",
        dependencies=[needs(deps, Scope.VERDICTS_READ, Scope.SCORE)],
        summary="The verdict on one event",
        responses={
            200: {"description": "The verdict, byte for byte as in the topic", "content": _VERDICT},
            **responses(404, 503),
        },
    )
    async def one(verdict_id: str) -> Response:
        found = await readers.run(lambda: deps.hot.get(verdict_id))
        if found is None:
            raise ProblemError(
                404,
                "no-such-verdict",
                "there is no verdict with this id",
                remedy="it may not be scored or archived yet: try again in a moment; older ones than the hot "
                "store keeps are found where an offline store is kept (tidegate archiver-offline)",
            )
        return Response(found, media_type=JSON)

    return routes


def _micros(moment: datetime | None) -> int | None:
    return None if moment is None else to_micros(moment)


def entity_of(deps: ApiDeps, given: str | None, hashed: str | None) -> tuple[str, str] | None:
    """The entity as indexed. Raises ProblemError 422."""
    text = given if given is not None else hashed
    parameter = "entity" if given is not None else "entity_hash"
    if text is None:
        return None
    field, colon, value = text.partition(":")
    known = deps.pipeline.entities
    if (given is not None and hashed is not None) or not colon or not value or field not in known:
        raise ProblemError(
            422,
            "invalid-parameter",
            f"{parameter} must be FIELD:VALUE with one of the pipeline's entities",
            remedy=f"use one of {', '.join(known)}, and only one of entity and entity_hash",
            field=parameter,
        )
    sensitive = deps.pipeline.event.field(field).sensitive
    return field, deps.protector.protect(value) if sensitive and given is not None else value


_VERDICT: dict[str, Any] = {JSON: {"schema": {"$ref": "#/components/schemas/Verdict"}}}
_PAGE: dict[str, Any] = {
    JSON: {
        "schema": {
            "type": "object",
            "required": ["verdicts", "next"],
            "properties": {
                "verdicts": {"type": "array", "items": {"$ref": "#/components/schemas/Verdict"}},
                "next": {
                    "type": ["string", "null"],
                    "description": "cursor of the next page; null at the end",
                },
            },
        }
    }
}
