"""``GET /v1/models`` and ``GET /v1/models/{version}``: which models there are, and which worker runs what."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import msgspec
import structlog
from fastapi import APIRouter, Query
from starlette.responses import Response

from api.access import Scope, needs
from api.convergence import agrees
from api.deps import ApiDeps
from api.ports import ModelRegistry
from api.problems import ProblemError, responses
from api.threads import Threads
from domain.errors import RegistryUnavailable
from lifecycle.registry import ModelRecord, RegistryState, Stage

__all__ = ["check_version", "in_role", "registry_of", "router"]

_LOG = structlog.get_logger(__name__)
JSON = "application/json"
MAX_LIMIT = 500
_VERSION = re.compile(r"[A-Za-z0-9._-]{1,80}")


@dataclass(frozen=True, slots=True)
class _Registered:
    """What the registry says."""

    state: RegistryState
    models: Sequence[ModelRecord]


def router(deps: ApiDeps) -> APIRouter:
    """The routes, bound to their ports."""
    routes = APIRouter(tags=["models"])
    threads = Threads(4, deps.limits.answer_seconds)

    def registered(stage: Stage | None, limit: int) -> _Registered | None:
        """None when the registry does not answer: which worker runs what is worth knowing nevertheless."""
        if deps.model_registry is None:
            return None
        try:
            registry = deps.model_registry()
            return _Registered(registry.state(), registry.models(stage=stage, limit=limit))
        except RegistryUnavailable as error:
            _LOG.warning("the model registry does not answer", error=error.message)
            return None

    @routes.get(
        "/v1/models",
        dependencies=[needs(deps, Scope.MODELS_READ)],
        summary="Which models there are, what each worker runs, and whether all agree",
        responses={
            200: {"description": "Models and workers alive", "content": _MODELS},
            **responses(422, 503),
        },
    )
    async def models(
        stage: Annotated[Stage | None, Query(description="Only models in this stage")] = None,
        limit: Annotated[int, Query(ge=1, le=MAX_LIMIT, description="So many models, the newest")] = 50,
    ) -> Response:
        workers = await threads.run(deps.models.workers)
        found = await threads.run(lambda: registered(stage, limit))
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
        behind = None if found is None else [w.worker for w in workers if not agrees(w, found.state)]
        body = {
            "pipeline": deps.pipeline.name,
            "converged": len(running) == 1,
            "workers": workers,
            "registry": _condition(deps, found),
            "agreed": None if behind is None else bool(workers) and not behind,
            "behind": behind,
            "in_force": None if found is None else found.state,
            "versions": None if found is None else found.models,
        }
        return Response(msgspec.json.encode(body), media_type=JSON)

    @routes.get(
        "/v1/models/{version}",
        dependencies=[needs(deps, Scope.MODELS_READ)],
        summary="One model: stage, lineage, metrics, card and plots",
        responses={200: {"description": "The model", "content": _MODEL}, **responses(404, 503)},
    )
    async def one(version: str) -> Response:
        def look() -> dict[str, Any]:
            registry = registry_of(deps)()
            check_version(version)
            model, card = registry.model(version), registry.card(version)
            return {
                **msgspec.structs.asdict(model),
                "role": in_role(registry.state(), version),
                "card": card.markdown,
                "plots": card.plots,
            }

        return Response(msgspec.json.encode(await threads.run(look)), media_type=JSON)

    return routes


def registry_of(deps: ApiDeps) -> Callable[[], ModelRegistry]:
    """How to get at the registry. Raises ProblemError 404 where there is none."""
    if deps.model_registry is None:
        raise ProblemError(
            404, "no-registry", "this API has no model registry", remedy="set TIDEGATE_DATABASE_URL"
        )
    return deps.model_registry


def check_version(version: str) -> None:
    """Raises ProblemError 404 for what can be no model's version; databases do not take every text."""
    if not _VERSION.fullmatch(version):
        raise ProblemError(
            404, "no-such-model", "that is no model's version", remedy="GET /v1/models lists what there is"
        )


def in_role(state: RegistryState, version: str) -> str | None:
    """``champion``, ``challenger``, or None for a model that is not in force."""
    return {state.champion: "champion", state.challenger: "challenger"}.get(version)


def _condition(deps: ApiDeps, found: _Registered | None) -> str:
    if deps.model_registry is None:
        return "none"
    return "unreachable" if found is None else "ok"


_MODELS: dict[str, Any] = {
    JSON: {
        "schema": {
            "type": "object",
            "required": [
                "pipeline",
                "converged",
                "workers",
                "registry",
                "agreed",
                "behind",
                "in_force",
                "versions",
            ],
            "properties": {
                "pipeline": {"type": "string"},
                "converged": {"type": "boolean", "description": "there are workers and all run the same"},
                "workers": {"type": "array", "items": {"$ref": "#/components/schemas/WorkerReport"}},
                "registry": {"type": "string", "enum": ["ok", "unreachable", "none"]},
                "agreed": {
                    "type": ["boolean", "null"],
                    "description": "there are workers and all run what the registry says; null: it can not be asked",
                },
                "behind": {
                    "type": ["array", "null"],
                    "items": {"type": "string"},
                    "description": "workers that do not (yet) run what is in force, or refuse it",
                },
                "in_force": {"anyOf": [{"$ref": "#/components/schemas/RegistryState"}, {"type": "null"}]},
                "versions": {
                    "type": ["array", "null"],
                    "items": {"$ref": "#/components/schemas/ModelRecord"},
                    "description": "newest first",
                },
            },
        }
    }
}
_MODEL: dict[str, Any] = {
    JSON: {
        "schema": {
            "allOf": [
                {"$ref": "#/components/schemas/ModelRecord"},
                {
                    "type": "object",
                    "required": ["role", "card", "plots"],
                    "properties": {
                        "role": {"type": ["string", "null"], "enum": ["champion", "challenger", None]},
                        "card": {"type": "string", "description": "Markdown"},
                        "plots": {
                            "type": "object",
                            "additionalProperties": {"type": "string"},
                            "description": "SVG by file name",
                        },
                    },
                },
            ]
        }
    }
}
