"""``GET /v1/cases``: the queue of review cases, one of them, and how the review goes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, TypeVar

import msgspec
from fastapi import APIRouter, Path, Query
from starlette.responses import Response

from api.access import Scope, needs
from api.deps import ApiDeps
from api.problems import ProblemError, responses
from api.routes.verdicts import entity_of
from api.threads import Threads
from lifecycle.case_records import (
    MAX_WHO,
    Case,
    CaseOrder,
    CaseQuery,
    CaseStatus,
    Outcome,
    UnknownCase,
)
from lifecycle.case_stats import CaseStatsReader
from lifecycle.case_store import SqlCaseStore
from lifecycle.database import Database

__all__ = ["CaseId", "check_text", "database_of", "etag_of", "known", "router"]

JSON = "application/json"
MAX_LIMIT = 500
_DAY = 86_400_000_000
MOST = 2**53
"""Ids and revisions are whole numbers that JSON readers hold exactly."""
CaseId = Annotated[int, Path(ge=1, le=MOST, description="id of the case")]
T = TypeVar("T")


def router(deps: ApiDeps) -> APIRouter:
    """The routes, bound to their ports."""
    may_read = [needs(deps, Scope.CASES_READ)]
    routes = APIRouter(tags=["cases"])
    threads = Threads(4, deps.limits.answer_seconds)

    def store() -> SqlCaseStore:
        return SqlCaseStore(database_of(deps), deps.pipeline.name, deps.pipeline.reviewing, deps.clock)

    @routes.get(
        "/v1/cases",
        summary="Review cases, those with most at stake first",
        dependencies=may_read,
        responses={200: {"description": "One page", "content": _PAGE}, **responses(404, 422, 503)},
    )
    async def page(
        *,
        status: Annotated[CaseStatus | None, Query(description="Only cases with this status")] = None,
        every: Annotated[bool, Query(alias="all", description="Decided cases too")] = False,
        assignee: Annotated[
            str | None, Query(min_length=1, max_length=MAX_WHO, description="Only cases that this one has")
        ] = None,
        unassigned: Annotated[bool, Query(description="Only cases that nobody has")] = False,
        decision: Annotated[Outcome | None, Query(description="Only cases decided so")] = None,
        entity: Annotated[
            str | None,
            Query(
                max_length=512,
                description="One entity's cases: FIELD:VALUE with the value as in events (a sensitive one is hashed "
                "first)",
            ),
        ] = None,
        entity_hash: Annotated[
            str | None, Query(max_length=512, description="The same with the value as it stands in cases")
        ] = None,
        order: Annotated[CaseOrder, Query()] = CaseOrder.PRIORITY,
        limit: Annotated[int, Query(ge=1, le=MAX_LIMIT)] = 50,
        cursor: Annotated[str | None, Query(max_length=200, description="next of the page before")] = None,
    ) -> Response:
        if assignee is not None:
            check_text("assignee", assignee, MAX_WHO)
        if status is None and decision is not None:
            status = CaseStatus.DECIDED
        query = CaseQuery(
            status=None if every else status or CaseStatus.OPEN,
            assignee=assignee,
            unassigned=unassigned,
            decision=decision,
            entity=entity_of(deps, entity, entity_hash),
            order=order,
            limit=limit,
            cursor=cursor,
        )
        found = await threads.run(lambda: store().page(query))
        return Response(msgspec.json.encode({"cases": found.cases, "next": found.next}), media_type=JSON)

    @routes.get(
        "/v1/cases/stats",
        summary="How the review goes: what waits, how long decisions took, who decided what",
        dependencies=may_read,
        responses={
            200: {"description": "The state of affairs", "content": _STATS},
            **responses(404, 422, 503),
        },
    )
    async def stats(
        days: Annotated[int, Query(ge=1, le=3650, description="Decisions of so many days")] = 30,
    ) -> Response:
        def look() -> bytes:
            now = deps.clock.now()
            reader = CaseStatsReader(database_of(deps), deps.pipeline.name)
            return msgspec.json.encode(reader.stats(now=now, since=now - days * _DAY))

        return Response(await threads.run(look), media_type=JSON)

    @routes.get(
        "/v1/cases/{case_id}",
        summary="One case with its alerts and its history",
        dependencies=may_read,
        responses={
            200: {"description": "The case; ETag is its revision", "content": _VIEW},
            **responses(404, 422, 503),
        },
    )
    async def one(case_id: CaseId) -> Response:
        view = await threads.run(lambda: known(lambda: store().case(case_id)))
        return Response(msgspec.json.encode(view), media_type=JSON, headers=etag_of(view.case))

    return routes


def database_of(deps: ApiDeps) -> Database:
    """The database. Raises ProblemError 404 where there is none, RegistryUnavailable."""
    if deps.database is None:
        raise ProblemError(404, "no-cases", "this API keeps no cases", remedy="set TIDEGATE_DATABASE_URL")
    return deps.database()


def known(call: Callable[[], T]) -> T:
    """What ``call`` returns. Raises ProblemError 404 for a case that is not there."""
    try:
        return call()
    except UnknownCase as error:
        raise ProblemError(404, "no-such-case", error.message, remedy=error.remedy) from error


def etag_of(case: Case) -> dict[str, str]:
    """The header that If-Match gives back."""
    return {"ETag": f'"{case.revision}"'}


def check_text(name: str, text: str, most: int, *, lines: bool = False) -> None:
    """Raises ProblemError 422 unless ``text`` says something that a database takes; ``lines``: it may have several."""
    plain = text.replace("\n", " ").replace("\t", " ") if lines else text
    if not text.strip() or len(text) > most or not plain.isprintable():
        raise ProblemError(
            422,
            "invalid-parameter",
            f"{name} must have 1 to {most:,} printable characters",
            remedy=f"correct {name}",
            field=name,
        )


_PAGE: dict[str, Any] = {
    JSON: {
        "schema": {
            "type": "object",
            "required": ["cases", "next"],
            "properties": {
                "cases": {"type": "array", "items": {"$ref": "#/components/schemas/Case"}},
                "next": {
                    "type": ["string", "null"],
                    "description": "cursor of the next page; null at the end. A case that nothing happens to meanwhile "
                    "is on exactly one page",
                },
            },
        }
    }
}
_STATS: dict[str, Any] = {JSON: {"schema": {"$ref": "#/components/schemas/CaseStats"}}}
_VIEW: dict[str, Any] = {JSON: {"schema": {"$ref": "#/components/schemas/CaseView"}}}
