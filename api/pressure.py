"""Back-pressure: so many requests at once, and whoever comes then is told when to come back."""

from __future__ import annotations

from starlette.types import ASGIApp, Receive, Scope, Send

from api.problems import ProblemError, problem_response

__all__ = ["Pressure"]

_PROBES = frozenset({"/livez", "/readyz"})
"""A busy process is not a dead one: an orchestrator that restarts it makes things worse."""


class Pressure:
    """ASGI middleware that lets ``limit`` requests in at once."""

    def __init__(self, app: ASGIApp, limit: int) -> None:
        self._app = app
        self._limit = limit
        self._inside = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass one request on, or answer 503 at once, before anything is spent on it."""
        if scope["type"] != "http" or scope["path"] in _PROBES:
            await self._app(scope, receive, send)
            return
        if self._inside >= self._limit:
            busy = ProblemError(
                503,
                "busy",
                f"{self._limit} requests are under way already",
                remedy="wait as Retry-After says, or add API replicas",
            )
            await problem_response(busy, scope.get("tidegate_request_id"))(scope, receive, send)
            return
        self._inside += 1
        try:
            await self._app(scope, receive, send)
        finally:
            self._inside -= 1
