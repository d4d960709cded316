"""The outermost layer: request ids, metrics, safe headers, and no exception that escapes with its message."""

from __future__ import annotations

import re
import time
import traceback
from uuid import uuid4

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.metrics import ApiMetrics
from api.problems import ProblemError, problem_response

__all__ = ["Guard"]

_LOG = structlog.get_logger(__name__)
_SAFE_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


class Guard:
    """ASGI middleware around the whole application."""

    def __init__(self, app: ASGIApp, metrics: ApiMetrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, whatever happens inside."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = Headers(scope=scope).get("x-request-id", "")
        request_id = given if _SAFE_ID.fullmatch(given) else uuid4().hex
        scope["tidegate_request_id"] = request_id
        began = time.perf_counter()
        status = 0
        unread = _has_body(scope)

        async def hear() -> Message:
            nonlocal unread
            message = await receive()
            if not message.get("more_body", False):
                unread = False
            return message

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers["X-Request-ID"] = request_id
                headers["X-Content-Type-Options"] = "nosniff"
                headers.setdefault("Cache-Control", "no-store")
                if unread:
                    # nobody will read the rest of the body, however long it is
                    headers["Connection"] = "close"
            await send(message)

        try:
            await self._app(scope, hear, answer)
        except Exception as error:
            # Neither message nor values: they may hold what P7 forbids in logs. Frames are enough to find it.
            frames = "".join(traceback.format_tb(error.__traceback__))
            _LOG.error("unhandled", kind=type(error).__name__, request_id=request_id, frames=frames)
            if status == 0:
                await problem_response(_INTERNAL, request_id)(scope, hear, answer)
        finally:
            route = getattr(scope.get("route"), "path", "unmatched")
            method = scope["method"] if scope["method"] in _METHODS else "other"
            self._metrics.requests.labels(route, method, str(status)).inc()
            self._metrics.seconds.labels(route).observe(time.perf_counter() - began)


def _has_body(scope: Scope) -> bool:
    headers = Headers(scope=scope)
    return "transfer-encoding" in headers or headers.get("content-length", "0") != "0"


_INTERNAL = ProblemError(
    500,
    "internal",
    "something went wrong here",
    remedy="find the log line with this request_id; an event sent again with the same id is recognised",
)
