"""``/v1/webhooks``: endpoints that alerts are delivered to, their secrets, delivery log, test events and replay."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Annotated, TypeVar

import msgspec
from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from api.access import Scope, needs, principal_of
from api.body import read_json_body
from api.deps import ApiDeps
from api.problems import ProblemError, responses
from api.routes import webhook_schemas as schemas
from api.routes.webhook_schemas import EndpointBody, ReasonBody, ReplayBody, RotateBody
from api.threads import Threads
from lifecycle.webhook_store import WebhookStore
from lifecycle.webhooks import BadEndpoint, DeliveryState, EndpointSettings, UnknownWebhook

__all__ = ["router"]

JSON = "application/json"
MAX_BODY = 131_072
"""A thousand ids of messages to replay, or fifty codes of reasons."""
MAX_LIMIT = 500
_MOST = 2**62
"""Above every number of a message; databases take no larger ones."""
_ENDPOINT = re.compile(r"we_[0-9a-f]{16}")
_MESSAGE = re.compile(r"[A-Za-z0-9_-]{1,80}")

T = TypeVar("T")
B = TypeVar("B", bound=ReasonBody)


def router(deps: ApiDeps) -> APIRouter:
    """The routes, bound to their ports."""
    routes = APIRouter(tags=["webhooks"])
    threads = Threads(4, deps.limits.answer_seconds)
    may_read, may_write = [needs(deps, Scope.WEBHOOKS_READ)], [needs(deps, Scope.WEBHOOKS_WRITE)]

    async def ask(call: Callable[[WebhookStore], T]) -> T:
        if deps.webhooks is None:
            raise ProblemError(
                404, "no-webhooks", "this API has no webhooks", remedy="set TIDEGATE_DATABASE_URL"
            )
        opened = deps.webhooks
        try:
            return await threads.run(lambda: call(opened()))
        except UnknownWebhook as error:
            raise ProblemError(404, "no-such-webhook", error.message, remedy=error.remedy) from None
        except BadEndpoint as error:
            raise ProblemError(
                422, "invalid-parameter", error.message, remedy=error.remedy, field=error.field
            ) from None

    async def body(request: Request, kind: type[B]) -> B:
        raw = await read_json_body(request, MAX_BODY, deps.limits.body_seconds, smaller="send less at once")
        try:
            found = msgspec.json.decode(raw, type=kind)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise _invalid("body", f"the body is not what it should be: {error}") from None
        _check_reason(found.reason)
        return found

    @routes.get(
        "/v1/webhooks",
        summary="All endpoints, oldest first",
        dependencies=may_read,
        responses={200: {"description": "Endpoints", "content": schemas.ENDPOINTS}, **responses(404, 503)},
    )
    async def endpoints() -> Response:
        return _json({"endpoints": await ask(lambda store: store.endpoints())})

    @routes.post(
        "/v1/webhooks",
        summary="A new endpoint; the answer holds its secret, which is never shown again",
        status_code=201,
        dependencies=may_write,
        responses={
            201: {"description": "Made", "content": schemas.MADE},
            **responses(404, 408, 413, 415, 422, 503),
        },
        openapi_extra=schemas.body("EndpointBody"),
    )
    async def add(request: Request) -> Response:
        wanted, by = await body(request, EndpointBody), principal_of(request).name
        made, secret = await ask(lambda store: store.add(_settings(wanted), by=by, reason=wanted.reason))
        return _json(
            {"endpoint": made, "secret": secret}, 201, {"Location": f"/v1/webhooks/{made.id}", **_SECRET}
        )

    @routes.get(
        "/v1/webhooks/{endpoint}",
        summary="One endpoint, and when its secrets expire",
        dependencies=may_read,
        responses={200: {"description": "The endpoint", "content": schemas.ENDPOINT}, **responses(404, 503)},
    )
    async def one(endpoint: str) -> Response:
        _check(endpoint, _ENDPOINT)
        found = await ask(lambda store: (store.endpoint(endpoint), store.secrets(endpoint)))
        return _json({"endpoint": found[0], "secrets": found[1]})

    @routes.put(
        "/v1/webhooks/{endpoint}",
        summary="Change an endpoint; what is left out gets its default",
        dependencies=may_write,
        responses={
            200: {"description": "The endpoint", "content": schemas.CHANGED},
            **responses(404, 408, 409, 413, 415, 422, 503),
        },
        openapi_extra=schemas.body("EndpointBody"),
    )
    async def change(endpoint: str, request: Request) -> Response:
        _check(endpoint, _ENDPOINT)
        wanted, by = await body(request, EndpointBody), principal_of(request).name
        changed = await ask(
            lambda store: store.change(
                endpoint, _settings(wanted), by=by, reason=wanted.reason, revision=wanted.revision
            )
        )
        return _json({"endpoint": changed})

    @routes.delete(
        "/v1/webhooks/{endpoint}",
        summary="Forget an endpoint, what waits for it, and its log",
        status_code=204,
        dependencies=may_write,
        responses={204: {"description": "Gone"}, **responses(404, 422, 503)},
    )
    async def delete(
        endpoint: str,
        request: Request,
        reason: Annotated[str, Query(description="kept in the audit", max_length=500)] = "API",
    ) -> Response:
        _check(endpoint, _ENDPOINT)
        _check_reason(reason)
        by = principal_of(request).name
        await ask(lambda store: store.delete(endpoint, by=by, reason=reason))
        return Response(status_code=204)

    @routes.post(
        "/v1/webhooks/{endpoint}:rotate",
        summary="A new secret, never shown again; those before it live on for a while",
        dependencies=may_write,
        responses={
            200: {"description": "The secret", "content": schemas.SECRET},
            **responses(404, 408, 413, 415, 422, 503),
        },
        openapi_extra=schemas.body("RotateBody"),
    )
    async def rotate(endpoint: str, request: Request) -> Response:
        _check(endpoint, _ENDPOINT)
        wanted, by = await body(request, RotateBody), principal_of(request).name
        made = await ask(
            lambda store: store.rotate(endpoint, overlap=wanted.overlap_seconds, by=by, reason=wanted.reason)
        )
        return _json({"secret": made}, headers=_SECRET)

    @routes.post(
        "/v1/webhooks/{endpoint}:test",
        summary="Send a test event; the delivery log says what became of it",
        status_code=202,
        dependencies=may_write,
        responses={
            202: {"description": "Queued", "content": schemas.QUEUED},
            **responses(404, 408, 413, 415, 422, 503),
        },
        openapi_extra=schemas.body("ReasonBody"),
    )
    async def test(endpoint: str, request: Request) -> Response:
        _check(endpoint, _ENDPOINT)
        wanted, by = await body(request, ReasonBody), principal_of(request).name
        message = await ask(lambda store: store.send_test(endpoint, by=by, reason=wanted.reason))
        location = f"/v1/webhooks/{endpoint}/deliveries/{message}"
        return _json({"message": message}, 202, {"Location": location})

    @routes.post(
        "/v1/webhooks/{endpoint}:replay",
        summary="Deliver kept alerts again, under the ids that they had",
        status_code=202,
        dependencies=may_write,
        responses={
            202: {"description": "Queued", "content": schemas.REPLAYED},
            **responses(404, 408, 413, 415, 422, 503),
        },
        openapi_extra=schemas.body("ReplayBody"),
    )
    async def replay(endpoint: str, request: Request) -> Response:
        _check(endpoint, _ENDPOINT)
        wanted, by = await body(request, ReplayBody), principal_of(request).name
        if wanted.since is None and wanted.messages is None:
            raise _invalid("since", "say since when, or which messages")
        if any(not _MESSAGE.fullmatch(message) for message in wanted.messages or ()):
            raise _invalid("messages", "these are no ids of messages")
        done = await ask(
            lambda store: store.replay(
                endpoint,
                since=wanted.since,
                until=wanted.until,
                after=wanted.after,
                only=wanted.messages,
                by=by,
                reason=wanted.reason,
            )
        )
        return _json(done, 202)

    @routes.get(
        "/v1/webhooks/{endpoint}/deliveries",
        summary="The delivery log, newest first",
        dependencies=may_read,
        responses={
            200: {"description": "One page", "content": schemas.DELIVERIES},
            **responses(404, 422, 503),
        },
    )
    async def deliveries(
        endpoint: str,
        state: Annotated[DeliveryState | None, Query(description="Only those in this state")] = None,
        limit: Annotated[int, Query(ge=1, le=MAX_LIMIT)] = 50,
        before: Annotated[int | None, Query(ge=1, le=_MOST, description="next of the page before")] = None,
    ) -> Response:
        _check(endpoint, _ENDPOINT)
        found = await ask(lambda store: store.log(endpoint, state=state, before=before, limit=limit))
        more = found[-1].number if len(found) == limit else None
        return _json({"deliveries": found, "next": more})

    @routes.get(
        "/v1/webhooks/{endpoint}/deliveries/{message}",
        summary="What became of one message: every attempt",
        dependencies=may_read,
        responses={200: {"description": "The delivery", "content": schemas.DELIVERY}, **responses(404, 503)},
    )
    async def delivery(endpoint: str, message: str) -> Response:
        _check(endpoint, _ENDPOINT)
        _check(message, _MESSAGE)
        found, tried = await ask(lambda store: store.delivery(endpoint, message))
        return _json({"delivery": found, "attempts": tried})

    return routes


_SECRET = {"Cache-Control": "no-store"}
"""For answers that hold a secret."""


def _json(value: object, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(msgspec.json.encode(value), status, headers, JSON)


def _settings(wanted: EndpointBody) -> EndpointSettings:
    return EndpointSettings(**{name: getattr(wanted, name) for name in EndpointSettings.__struct_fields__})


def _check(name: str, pattern: re.Pattern[str]) -> None:
    """Raises ProblemError 404 for what can be no name; databases do not take every text."""
    if not pattern.fullmatch(name):
        raise ProblemError(
            404,
            "no-such-webhook",
            "there is nothing of that name",
            remedy="GET /v1/webhooks lists what there is",
        )


def _check_reason(reason: str) -> None:
    if not reason.strip() or len(reason) > 500 or not reason.isprintable():
        raise _invalid("reason", "reason must have 1 to 500 printable characters")


def _invalid(field: str, detail: str) -> ProblemError:
    return ProblemError(
        422, "invalid-parameter", detail, remedy="see /openapi.json for what the body may be", field=field
    )
