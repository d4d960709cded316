"""``POST /v1/models/{version}:promote`` and ``:rollback``: a person changes what is in force."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import structlog
from fastapi import APIRouter, Request
from starlette.responses import Response

from api.access import Scope, asked_by, needs
from api.body import read_json_body
from api.deps import ApiDeps
from api.problems import ProblemError, responses
from api.routes.models import check_version, registry_of
from api.threads import Threads
from domain.errors import StageForbids, TidegateError
from lifecycle.registry import ModelRegistry, RegistryState

__all__ = ["Change", "router"]

_LOG = structlog.get_logger(__name__)
JSON = "application/json"
MAX_BODY = 8_192
"""A reason of 500 characters, escaped, and the rest."""


class Change(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Why, who, and on what the caller has decided: ``epoch`` (what ``in_force`` said) protects from overtaking."""

    reason: str
    by: str | None = None
    epoch: int | None = None
    force: bool = False


def router(deps: ApiDeps) -> APIRouter:
    """The routes, bound to their ports."""
    routes = APIRouter(tags=["models"])
    changing = Threads(4, deps.limits.answer_seconds)
    publishing = Threads(2, deps.limits.publish_seconds)

    async def change(
        version: str, request: Request, how: Callable[[ModelRegistry, Change], RegistryState]
    ) -> Response:
        check_version(version)
        raw = await read_json_body(request, MAX_BODY, deps.limits.body_seconds)
        wanted = _decoded(raw)
        open_registry = registry_of(deps)
        state = await changing.run(lambda: how(open_registry(), wanted))
        published = await publish()
        body = msgspec.json.encode({"in_force": state, "published": published})
        return Response(body, 200 if published else 202, media_type=JSON)

    async def publish() -> bool:
        """Whether the workers can know; the registry has the change in any case."""
        if deps.publish_models is None:
            return False
        try:
            await publishing.run(deps.publish_models)
        except (TidegateError, ProblemError) as error:
            _LOG.warning("the registry has changed, but the workers were not told", error=str(error))
            return False
        return True

    described: dict[int | str, dict[str, Any]] = {
        200: {"description": "In force, and the workers are told", "content": _CHANGED},
        202: {"description": "In force; the workers will be told later", "content": _CHANGED},
        **responses(404, 408, 409, 413, 415, 422, 503),
    }
    body = {"requestBody": {"required": True, "content": {JSON: {"schema": _CHANGE}}}}

    @routes.post(
        "/v1/models/{version}:promote",
        dependencies=[needs(deps, Scope.MODELS_WRITE)],
        summary="Make a model the champion",
        responses=described,
        openapi_extra=body,
    )
    async def promote(version: str, request: Request) -> Response:
        def how(registry: ModelRegistry, wanted: Change) -> RegistryState:
            epoch = registry.state().epoch if wanted.epoch is None else wanted.epoch
            return registry.promote(
                version,
                epoch=epoch,
                reason=wanted.reason,
                by=asked_by(request, wanted.by),
                force=wanted.force,
            )

        return await change(version, request, how)

    @routes.post(
        "/v1/models/{version}:rollback",
        dependencies=[needs(deps, Scope.MODELS_WRITE)],
        summary="Put the champion before this one in force again",
        responses=described,
        openapi_extra=body,
    )
    async def rollback(version: str, request: Request) -> Response:
        def how(registry: ModelRegistry, wanted: Change) -> RegistryState:
            registry.model(version)
            state = registry.state()
            if state.champion != version:
                # by name, so that a request sent twice does not roll back two champions
                raise StageForbids(
                    f"model {version} is not the champion",
                    remedy="GET /v1/models tells which is in force; nothing was changed",
                )
            epoch = state.epoch if wanted.epoch is None else wanted.epoch
            return registry.rollback(epoch=epoch, reason=wanted.reason, by=asked_by(request, wanted.by))

        return await change(version, request, how)

    return routes


def _decoded(raw: bytes) -> Change:
    try:
        wanted = msgspec.json.decode(raw, type=Change)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _invalid(f"the body is not what it should be: {error}") from None
    for name, text, longest in (("reason", wanted.reason, 500), ("by", wanted.by or "-", 100)):
        if not text.strip() or len(text) > longest or not text.isprintable():
            raise _invalid(f"{name} must have 1 to {longest} printable characters")
    return wanted


def _invalid(detail: str) -> ProblemError:
    return ProblemError(
        422,
        "invalid-parameter",
        detail,
        remedy='send {"reason": "...", "by": "...", "epoch": 7}',
        field="body",
    )


_CHANGE: dict[str, Any] = {
    "type": "object",
    "required": ["reason"],
    "additionalProperties": False,
    "properties": {
        "reason": {"type": "string", "minLength": 1, "maxLength": 500, "description": "kept in the audit"},
        "by": {"type": ["string", "null"], "minLength": 1, "maxLength": 100, "description": "who asks"},
        "epoch": {
            "type": ["integer", "null"],
            "description": "in_force.epoch on which this was decided; 409 when it is another by now",
        },
        "force": {"type": "boolean", "default": False, "description": "promote what is not proven in shadow"},
    },
}
_CHANGED: dict[str, Any] = {
    JSON: {
        "schema": {
            "type": "object",
            "required": ["in_force", "published"],
            "properties": {
                "in_force": {"$ref": "#/components/schemas/RegistryState"},
                "published": {"type": "boolean", "description": "whether the workers can know of it"},
            },
        }
    }
}
