"""HTTP/1.1 connections with the limits that uvicorn lacks: heads that never end, answers nobody takes, too many.

Slow bodies are :func:`api.body.read_json_body`'s; a head is at most 16 kB (h11's limit).
"""

from __future__ import annotations

import asyncio

import structlog
from uvicorn.protocols.http.h11_impl import H11Protocol

from api.deps import ApiLimits

__all__ = ["bounded"]

_LOG = structlog.get_logger(__name__)
_FULL = (
    b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nConnection: close\r\n"
    b"Content-Type: application/problem+json\r\nContent-Length: %d\r\n\r\n%b"
)
_FULL_BODY = (
    b'{"type":"urn:tidegate:problem:busy","title":"Service Unavailable","status":503,'
    b'"detail":"too many connections are open","code":"busy"}'
)


class _BoundedProtocol(H11Protocol):
    limits: ApiLimits

    _head_timer: asyncio.TimerHandle | None = None
    _stall_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > self.limits.connections:
            transport.write(_FULL % (len(_FULL_BODY), _FULL_BODY))
            transport.close()
            return
        self._await_head()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._answering():
            self._end_head_timer()
        elif self._head_timer is None:
            # the first bytes of a next request; they have ended uvicorn's own timer of idle connections
            self._await_head()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if not self._answering() and self.conn.trailing_data[0] and self._head_timer is None:
            self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._end_head_timer()
        self._end_stall_timer()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._stall_timer = self.loop.call_later(self.limits.stall_seconds, self._cut, "takes no answer")

    def resume_writing(self) -> None:
        self._end_stall_timer()
        super().resume_writing()

    def _answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _await_head(self) -> None:
        self._head_timer = self.loop.call_later(self.limits.head_seconds, self._cut, "sends no head")

    def _end_head_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _end_stall_timer(self) -> None:
        if self._stall_timer is not None:
            self._stall_timer.cancel()
            self._stall_timer = None

    def _cut(self, why: str) -> None:
        _LOG.info("a connection was cut", why=why)
        self.transport.abort()


def bounded(limits: ApiLimits) -> type[H11Protocol]:
    """The protocol for uvicorn, with ``limits``."""
    return type("BoundedProtocol", (_BoundedProtocol,), {"limits": limits})
