"""``POST /v1/cases/{id}:assign``, ``:comment`` and ``:decide``: what reviewers do, each on the revision they saw."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Annotated, Any, TypeVar

import msgspec
from fastapi import APIRouter, Header, Request
from starlette.responses import Response

from api.access import Scope, needs, principal_of
from api.body import read_json_body
from api.deps import ApiDeps
from api.problems import ProblemError, responses
from api.routes.cases import JSON, MOST, CaseId, check_text, database_of, etag_of, known
from api.threads import Threads
from lifecycle.case_changes import CaseChanges
from lifecycle.case_records import MAX_NOTE, MAX_WHO, Case, CaseConflict, Outcome

__all__ = ["router"]

MAX_BODY = 32_768
"""A note of 2,000 characters, escaped, and the rest."""
_ETAG = r'^(\*|"[0-9]{1,16}")$'
IfMatch = Annotated[
    str | None,
    Header(pattern=_ETAG, description="the case's ETag; 412 when it is another by now"),
]
_REVISION = re.compile(r'"([0-9]{1,16})"')


class _Assign(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``assignee``: null gives the case back, left out means the one who asks."""

    assignee: str | msgspec.UnsetType | None = msgspec.UNSET
    revision: int | None = None


class _Comment(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    text: str
    revision: int | None = None


class _Decide(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    decision: Outcome
    note: str | None = None
    revision: int | None = None


_Wanted = TypeVar("_Wanted", _Assign, _Comment, _Decide)


def router(deps: ApiDeps) -> APIRouter:
    """The routes, bound to their ports."""
    routes = APIRouter(tags=["cases"], dependencies=[needs(deps, Scope.CASES_WRITE)])
    threads = Threads(4, deps.limits.answer_seconds)

    async def decoded(request: Request, kind: type[_Wanted]) -> _Wanted:
        raw = await read_json_body(request, MAX_BODY, deps.limits.body_seconds, smaller="write less")
        try:
            return msgspec.json.decode(raw, type=kind)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise _invalid("body", f"the body is not what it should be: {error}") from None

    async def change(
        if_match: str | None, revision: int | None, how: Callable[[CaseChanges, int | None], Case]
    ) -> Response:
        seen, status = _seen(if_match, revision)

        def run() -> Case:
            changes = CaseChanges(database_of(deps), deps.pipeline.name, deps.clock)
            try:
                return known(lambda: how(changes, seen))
            except CaseConflict as error:
                raise ProblemError(status, "conflict", error.message, remedy=error.remedy) from error

        case = await threads.run(run)
        return Response(msgspec.json.encode(case), media_type=JSON, headers=etag_of(case))

    @routes.post(
        "/v1/cases/{case_id}:assign",
        summary="Give a case to somebody, or to nobody",
        responses=_ANSWERS,
        openapi_extra=_takes(
            {
                "assignee": {
                    "type": ["string", "null"],
                    "minLength": 1,
                    "maxLength": MAX_WHO,
                    "description": "null: nobody; left out: the one who asks",
                }
            }
        ),
    )
    async def assign(case_id: CaseId, request: Request, if_match: IfMatch = None) -> Response:
        wanted = await decoded(request, _Assign)
        by = principal_of(request).name
        assignee = by if wanted.assignee is msgspec.UNSET else wanted.assignee
        if assignee is not None:
            check_text("assignee", assignee, MAX_WHO)
        return await change(
            if_match,
            wanted.revision,
            lambda changes, revision: changes.assign(case_id, assignee, by=by, revision=revision),
        )

    @routes.post(
        "/v1/cases/{case_id}:comment",
        summary="Say something about a case",
        responses=_ANSWERS,
        openapi_extra=_takes(
            {"text": {"type": "string", "minLength": 1, "maxLength": MAX_NOTE}}, required=["text"]
        ),
    )
    async def comment(case_id: CaseId, request: Request, if_match: IfMatch = None) -> Response:
        wanted = await decoded(request, _Comment)
        check_text("text", wanted.text, MAX_NOTE, lines=True)
        by = principal_of(request).name
        return await change(
            if_match,
            wanted.revision,
            lambda changes, revision: changes.comment(case_id, wanted.text, by=by, revision=revision),
        )

    @routes.post(
        "/v1/cases/{case_id}:decide",
        summary="Decide a case: its events get the label that goes with it",
        description="fraud labels them 1, legitimate 0, unsure not at all (and takes back a label of this case). The "
        "revision that was seen must be named, by If-Match or in the body: an alert that came meanwhile would be "
        "decided unseen. The labels are written soon afterwards, by the caser.",
        responses={**_ANSWERS, **responses(428)},
        openapi_extra=_takes(
            {
                "decision": {"type": "string", "enum": [one.value for one in Outcome]},
                "note": {"type": ["string", "null"], "minLength": 1, "maxLength": MAX_NOTE},
            },
            required=["decision"],
        ),
    )
    async def decide(case_id: CaseId, request: Request, if_match: IfMatch = None) -> Response:
        wanted = await decoded(request, _Decide)
        if wanted.note is not None:
            check_text("note", wanted.note, MAX_NOTE, lines=True)
        if wanted.revision is None and if_match is None:
            raise ProblemError(
                428,
                "revision-needed",
                "a decision names the revision of the case that was seen",
                remedy="GET the case, then send its ETag as If-Match, or revision in the body",
            )
        by = principal_of(request).name
        return await change(
            if_match,
            wanted.revision,
            lambda changes, revision: changes.decide(
                case_id, wanted.decision, by=by, note=wanted.note, revision=revision
            ),
        )

    return routes


def _seen(if_match: str | None, revision: int | None) -> tuple[int | None, int]:
    """The revision that the caller has seen (None: any), and the status when it is old. Raises ProblemError 422."""
    if revision is not None and not 0 < revision <= MOST:
        raise _invalid("revision", f"revision must be a whole number from 1 to {MOST:,}")
    matched = _REVISION.fullmatch(if_match or "")
    if matched is None:  # none, or *
        return revision, 409
    if revision is not None and revision != int(matched[1]):
        raise _invalid("revision", "If-Match and the body name different revisions")
    return int(matched[1]), 412


def _invalid(field: str, detail: str) -> ProblemError:
    return ProblemError(
        422, "invalid-parameter", detail, remedy="see /openapi.json for what this route takes", field=field
    )


def _takes(properties: dict[str, Any], required: list[str] | None = None) -> dict[str, Any]:
    """What a route takes, for its document."""
    revision = {
        "type": ["integer", "null"],
        "minimum": 1,
        "maximum": MOST,
        "description": "the revision that was seen; 409 when it is another by now",
    }
    schema: dict[str, Any] = {
        "type": "object",
        "additionalProperties": False,
        "properties": {**properties, "revision": revision},
    }
    if required:
        schema["required"] = required
    return {"requestBody": {"required": True, "content": {JSON: {"schema": schema}}}}


_ANSWERS: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The case as it is now; ETag is its revision",
        "content": {JSON: {"schema": {"$ref": "#/components/schemas/Case"}}},
    },
    **responses(404, 408, 409, 412, 413, 415, 422, 503),
}
