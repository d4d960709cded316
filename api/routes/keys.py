"""``/v1/keys``: API keys are listed, made, rotated and revoked. Nobody can give what they do not have."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Annotated, Any, TypeVar

import msgspec
from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from api.access import Scope, asked_by, needs, principal_of
from api.body import read_json_body
from api.deps import ApiDeps
from api.problems import ProblemError, responses
from api.threads import Threads
from lifecycle.key_store import MAX_LIVE, MAX_NAME, MAX_RATE, KeyRefused, KeyStore, UnknownKey

__all__ = ["router"]

JSON = "application/json"
MAX_BODY = 8_192
MAX_LIFE_S = 10 * 366 * 86_400
MAX_OVERLAP_S = 90 * 86_400
_DAY = 86_400
_ID = re.compile(r"[0-9a-f]{12}")
_SCOPES = sorted(Scope)
T = TypeVar("T")


class _Body(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    reason: Annotated[str, msgspec.Meta(min_length=1, max_length=500)]


class NewKey(_Body, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a new key shall be called, and may do."""

    name: Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_NAME)]
    scopes: Annotated[list[Scope], msgspec.Meta(min_length=1, max_length=50)]
    expires_in: Annotated[int, msgspec.Meta(ge=1, le=MAX_LIFE_S)] | None = None
    rate: Annotated[float, msgspec.Meta(gt=0, le=MAX_RATE)] | None = None
    burst: Annotated[int, msgspec.Meta(ge=1, le=int(MAX_RATE))] | None = None


class Rotation(_Body, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How long the old key goes on beside its successor, and how long that one lives (seconds)."""

    overlap: Annotated[int, msgspec.Meta(ge=0, le=MAX_OVERLAP_S)] = _DAY
    expires_in: Annotated[int, msgspec.Meta(ge=1, le=MAX_LIFE_S)] | None = None


class Revocation(_Body, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Why a key ends."""


def router(deps: ApiDeps) -> APIRouter:
    """The routes, bound to their ports."""
    routes = APIRouter(tags=["keys"])
    threads = Threads(2, deps.limits.answer_seconds)
    guarded: dict[str, Any] = {"dependencies": [needs(deps, Scope.KEYS_WRITE)]}

    async def asked(call: Callable[[KeyStore], T]) -> T:
        database = deps.database
        if database is None:
            raise ProblemError(
                404, "no-database", "this API has no database of keys", remedy="set TIDEGATE_DATABASE_URL"
            )
        try:
            return await threads.run(lambda: call(KeyStore(database(), deps.pipeline.name, deps.clock)))
        except UnknownKey as error:
            raise ProblemError(404, "no-such-key", error.message, remedy=error.remedy) from None
        except KeyRefused as error:
            raise ProblemError(409, "key-refused", error.message, remedy=error.remedy) from None

    def end(expires_in: int | None) -> int | None:
        return None if expires_in is None else deps.clock.now() + expires_in * 1_000_000

    @routes.get(
        "/v1/keys",
        summary="API keys, newest first; never the keys themselves",
        responses={200: {"description": "Keys", "content": _KEYS}, **responses(404, 422, 503)},
        **guarded,
    )
    async def keys(
        dead: Annotated[bool, Query(description="Also those that expired or were revoked")] = False,
        limit: Annotated[int, Query(ge=1, le=MAX_LIVE)] = MAX_LIVE,
    ) -> Response:
        found = await asked(lambda store: store.newest(limit, dead=dead))
        return Response(msgspec.json.encode({"keys": found}), media_type=JSON)

    @routes.post(
        "/v1/keys",
        status_code=201,
        response_class=Response,
        summary="Make a key; the answer is the only place where it is ever shown",
        responses={
            201: {"description": "The key", "content": _MADE},
            **responses(403, 404, 408, 409, 413, 415, 422, 503),
        },
        openapi_extra=_body_of(NewKey),
        **guarded,
    )
    async def create(request: Request) -> Response:
        wanted = await _read(request, NewKey, deps)
        _may_give(request, frozenset(wanted.scopes))
        by = asked_by(request, None)
        key, text = await asked(
            lambda store: store.create(
                wanted.name, wanted.scopes, by=by, reason=wanted.reason, expires_at=end(wanted.expires_in),
                rate=wanted.rate, burst=wanted.burst,
            )
        )  # fmt: skip
        deps.keys_changed()
        return Response(msgspec.json.encode({"key": key, "secret": text}), 201, media_type=JSON)

    @routes.post(
        "/v1/keys/{key_id}:rotate",
        status_code=201,
        response_class=Response,
        summary="Make a key's successor; the old one goes on for a while",
        responses={
            201: {"description": "The successor", "content": _MADE},
            **responses(403, 404, 408, 409, 413, 415, 422, 503),
        },
        openapi_extra=_body_of(Rotation),
        **guarded,
    )
    async def rotate(key_id: str, request: Request) -> Response:
        _check_id(key_id)
        wanted = await _read(request, Rotation, deps)
        by = asked_by(request, None)
        old = await asked(lambda store: store.get(key_id))
        # who makes the successor sees its text, so it must open nothing that is closed to them
        _may_give(request, frozenset(Scope(name) for name in old.scopes if name in _SCOPES))
        key, text = await asked(
            lambda store: store.rotate(
                key_id,
                by=by,
                reason=wanted.reason,
                overlap_s=wanted.overlap,
                expires_at=end(wanted.expires_in),
            )
        )
        deps.keys_changed()
        return Response(msgspec.json.encode({"key": key, "secret": text}), 201, media_type=JSON)

    @routes.post(
        "/v1/keys/{key_id}:revoke",
        summary="End a key now",
        responses={
            200: {"description": "The key, which opens nothing any more", "content": _KEY},
            **responses(404, 408, 413, 415, 422, 503),
        },
        openapi_extra=_body_of(Revocation),
        **guarded,
    )
    async def revoke(key_id: str, request: Request) -> Response:
        _check_id(key_id)
        wanted = await _read(request, Revocation, deps)
        by = asked_by(request, None)
        key = await asked(lambda store: store.revoke(key_id, by=by, reason=wanted.reason))
        deps.keys_changed()
        return Response(msgspec.json.encode(key), media_type=JSON)

    return routes


def _check_id(key_id: str) -> None:
    if not _ID.fullmatch(key_id):
        raise ProblemError(
            404, "no-such-key", "that is no key's id", remedy="GET /v1/keys lists what there is"
        )


def _may_give(request: Request, scopes: frozenset[Scope]) -> None:
    lacking = scopes - principal_of(request).scopes
    if lacking:
        raise ProblemError(
            403,
            "forbidden",
            f"who asks lacks {', '.join(sorted(lacking))} and can not give it",
            remedy="ask somebody who may do all that the key shall",
        )


B = TypeVar("B", bound=_Body)


async def _read(request: Request, kind: type[B], deps: ApiDeps) -> B:
    raw = await read_json_body(request, MAX_BODY, deps.limits.body_seconds, smaller="send less")
    try:
        wanted = msgspec.json.decode(raw, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _invalid(f"the body is not what it should be: {error}") from None
    for text in (wanted.reason, getattr(wanted, "name", "-")):
        if not text.strip() or not text.isprintable():
            raise _invalid("reason and name must have printable characters")
    return wanted


def _invalid(detail: str) -> ProblemError:
    return ProblemError(
        422, "invalid-parameter", detail, remedy="see /openapi.json for what it should be", field="body"
    )


def _body_of(kind: type[_Body]) -> dict[str, Any]:
    (schema,), inner = msgspec.json.schema_components([kind], ref_template="#/components/schemas/{name}")
    name = schema["$ref"].rpartition("/")[2]
    # scopes are spelled out: FastAPI's document has no place for components of ours here
    described = _inlined(inner[name], inner)
    described.pop("title", None)
    return {"requestBody": {"required": True, "content": {JSON: {"schema": described}}}}


def _inlined(schema: Any, components: dict[str, Any]) -> Any:
    if isinstance(schema, dict):
        if "$ref" in schema:
            return _inlined(components[schema["$ref"].rpartition("/")[2]], components)
        return {name: _inlined(value, components) for name, value in schema.items()}
    if isinstance(schema, list):
        return [_inlined(value, components) for value in schema]
    return schema


_REF = {"$ref": "#/components/schemas/ApiKey"}
_KEY: dict[str, Any] = {JSON: {"schema": _REF}}
_KEYS: dict[str, Any] = {
    JSON: {
        "schema": {
            "type": "object",
            "required": ["keys"],
            "properties": {"keys": {"type": "array", "items": _REF}},
        }
    }
}
_MADE: dict[str, Any] = {
    JSON: {
        "schema": {
            "type": "object",
            "required": ["key", "secret"],
            "properties": {
                "key": _REF,
                "secret": {"type": "string", "description": "the key itself; kept nowhere, so keep it"},
            },
        }
    }
}
