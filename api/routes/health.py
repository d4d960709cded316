"""``/livez``, ``/readyz`` and ``/metrics``."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import msgspec
from fastapi import APIRouter, Request
from prometheus_client.exposition import choose_encoder
from starlette.responses import Response

from api.access import Scope, needs
from api.deps import ApiDeps
from api.ports import Probe
from api.problems import ProblemError, responses
from api.threads import Threads
from domain.clock import Clock

__all__ = ["router"]

JSON = "application/json"
_METRICS = ("text/plain", "application/openmetrics-text")
_FRESH_SECONDS = 1.0
"""An answer of the probes is good for a second, so that asking often costs Kafka and Redis nothing."""


class Readiness:
    """Asks all probes at once, and only once at a time."""

    def __init__(self, probes: Mapping[str, Probe], seconds: float, clock: Clock) -> None:
        self._probes = probes
        self._threads = Threads(2 * max(1, len(probes)), seconds)
        self._clock = clock
        self._lock = asyncio.Lock()
        self._asked: tuple[float, dict[str, str]] | None = None

    async def check(self) -> dict[str, str]:
        """``ok`` or ``unreachable`` by name."""
        async with self._lock:
            if self._asked is None or self._clock.monotonic() - self._asked[0] > _FRESH_SECONDS:
                states = await asyncio.gather(*map(self._state, self._probes.values()))
                found = dict(zip(self._probes, states, strict=True))
                self._asked = (self._clock.monotonic(), found)
            return self._asked[1]

    async def _state(self, probe: Probe) -> str:
        try:
            await self._threads.run(probe)
        except Exception:
            return "unreachable"
        return "ok"


def router(deps: ApiDeps) -> APIRouter:
    """The routes, bound to their ports."""
    routes = APIRouter(tags=["operations"])
    readiness = Readiness(deps.probes, deps.limits.probe_seconds, deps.clock)

    @routes.get("/livez", summary="Whether the process answers")
    async def livez() -> Response:
        return Response(b'{"status":"ok"}', media_type=JSON)

    @routes.get("/readyz", summary="Whether everything needed answers", responses=responses(503))
    async def readyz() -> Response:
        checks = await readiness.check()
        missing = [name for name, state in checks.items() if state != "ok"]
        if missing:
            raise ProblemError(
                503,
                "not-ready",
                f"{' and '.join(missing)} can not be reached",
                remedy="start it, or check its address in the settings",
                checks=checks,
            )
        return Response(msgspec.json.encode({"status": "ok", "checks": checks}), media_type=JSON)

    @routes.get(
        "/metrics",
        dependencies=[needs(deps, Scope.METRICS_READ)],
        summary="Metrics for Prometheus",
        response_class=Response,
        responses={
            200: {
                "description": "In the form that Accept asks for",
                "content": {kind: {"schema": {"type": "string"}} for kind in _METRICS},
            }
        },
    )
    async def metrics(request: Request) -> Response:
        encode, content_type = choose_encoder(request.headers.get("accept", ""))
        return Response(encode(deps.registry), headers={"Content-Type": content_type})

    return routes
