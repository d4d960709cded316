"""RFC 9457 problem details: the one form of every error that leaves this server."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

import msgspec
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from domain.errors import EventRejected, RegistryConflict, Reject, Retriable, StageForbids, UnknownModel
from domain.privacy import without_card_numbers
from featurestore.hot_verdicts_port import BadCursorError

__all__ = ["PROBLEM_SCHEMA", "ProblemError", "install", "problem_response", "responses"]

MEDIA_TYPE = "application/problem+json"
RETRY_AFTER_SECONDS = 1
"""What a 429 or 503 asks for: Kafka and Redis fail over in seconds, and clients add their own back-off."""


class ProblemError(Exception):
    """An answer other than success. ``code`` is stable; ``more`` are extension members."""

    def __init__(
        self,
        status: int,
        code: str,
        detail: str,
        *,
        remedy: str = "",
        headers: Mapping[str, str] | None = None,
        **more: Any,
    ) -> None:
        super().__init__(code)
        self.status = status
        self.code = code
        self.detail = detail
        self.remedy = remedy
        self.headers = headers
        self.more = more


def problem_response(problem: ProblemError, request_id: str | None) -> Response:
    """The problem as ``application/problem+json``."""
    body: dict[str, Any] = {
        "type": f"urn:tidegate:problem:{problem.code}",
        "title": HTTPStatus(problem.status).phrase,
        "status": problem.status,
        # a path or a parameter that is quoted may hold one
        "detail": without_card_numbers(problem.detail),
        "code": problem.code,
    }
    if problem.remedy:
        body["remedy"] = problem.remedy
    if request_id is not None:
        body["request_id"] = request_id
    body |= problem.more
    headers = dict(problem.headers or {})
    if problem.status in (429, 503):
        headers.setdefault("Retry-After", str(RETRY_AFTER_SECONDS))
    return Response(msgspec.json.encode(body), problem.status, headers, MEDIA_TYPE)


def _of(error: Exception) -> ProblemError:
    match error:
        case ProblemError():
            return error
        case EventRejected():
            status = 413 if error.reason is Reject.TOO_LARGE else 422
            return ProblemError(
                status,
                "event-rejected",
                error.detail,
                remedy=error.remedy,
                reason=error.reason.value,
                field=error.field,
            )
        case BadCursorError():
            return ProblemError(422, "bad-cursor", error.message, remedy=error.remedy, field="cursor")
        case UnknownModel():
            return ProblemError(404, "no-such-model", error.message, remedy=error.remedy)
        case RegistryConflict():
            return ProblemError(409, "conflict", error.message, remedy=error.remedy)
        case StageForbids():
            return ProblemError(409, "stage-forbids", error.message, remedy=error.remedy)
        case Retriable():
            # the message may name hosts; it is in the log, not in the answer
            return ProblemError(
                503,
                "unavailable",
                "something this request needs does not answer now",
                remedy="try again; an event sent again with the same id is recognised. See /readyz",
            )
        case RequestValidationError():
            return _invalid(error)
        case HTTPException():
            return ProblemError(
                error.status_code, _CODES.get(error.status_code, "http"), _DETAILS.get(error.status_code, ""),
                headers=error.headers,
            )  # fmt: skip
    raise error


_CODES = {404: "not-found", 405: "method-not-allowed"}
_DETAILS = {
    404: "there is nothing at this path; /openapi.json lists what there is",
    405: "this path does not take this method; see the Allow header",
}


def _invalid(error: RequestValidationError) -> ProblemError:
    # without the values themselves: they may be card numbers
    found = [
        {"field": str(e["loc"][-1]), "reason": str(e["type"]), "detail": str(e["msg"])}
        for e in error.errors()
    ]
    first = found[0]
    return ProblemError(
        422,
        "invalid-parameter",
        f"{first['field']}: {first['detail']}",
        remedy="correct the parameters named in errors",
        field=first["field"],
        errors=found,
    )


def install(app: FastAPI) -> None:
    """Let ``app`` answer every error with a problem."""

    async def answer(request: Request, error: Exception) -> Response:
        return problem_response(_of(error), request.scope.get("tidegate_request_id"))

    for kind in (
        ProblemError, EventRejected, BadCursorError, Retriable, UnknownModel, StageForbids,
        RequestValidationError, HTTPException,
    ):  # fmt: skip
        app.add_exception_handler(kind, answer)


PROBLEM_SCHEMA: dict[str, Any] = {
    "title": "Problem",
    "description": "RFC 9457 problem details. code (and reason) are stable; detail and remedy are for people.",
    "type": "object",
    "required": ["type", "title", "status", "detail", "code"],
    "properties": {
        "type": {"type": "string", "format": "uri"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "code": {"type": "string"},
        "remedy": {"type": "string"},
        "request_id": {"type": "string"},
        "reason": {"type": "string", "enum": [r.value for r in Reject]},
        "field": {"type": ["string", "null"]},
        "errors": {"type": "array", "items": {"type": "object"}},
        "checks": {"type": "object", "additionalProperties": {"type": "string"}},
    },
}

_MEANINGS = {
    401: "Nobody known asks: a valid key or token is missing",
    403: "Who asks may not do this",
    404: "Not here, or not any more",
    408: "The body did not arrive in time",
    409: "Somebody else was faster, or that can not be done with it now",
    412: "It is not at the revision that If-Match names",
    413: "The body is too large",
    415: "The body is not application/json, or compressed",
    422: "The event or a parameter is not valid; field and reason say why",
    428: "Say at which revision you have seen it",
    429: "Too many at once, or too often; Retry-After says when to come back",
    503: "Something needed does not answer, or too many requests are under way",
}


def responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """OpenAPI's description of the problems a route answers with."""
    content = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
    return {status: {"description": _MEANINGS[status], "content": content} for status in statuses}
