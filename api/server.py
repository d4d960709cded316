"""Serving the application: uvicorn, started and stopped by the program and not by signals."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Callable, Iterator

import uvicorn
from fastapi import FastAPI

from api.protocol import bounded
from domain.errors import ServiceMissing

__all__ = ["listening", "serve"]

_STOP_SECONDS = 0.1
"""How often to look whether we shall stop."""


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Signals belong to the command line, which sets ``stop``."""
        yield


def serve(
    app: FastAPI,
    host: str = "127.0.0.1",
    port: int = 8080,
    *,
    stop: threading.Event,
    ready: Callable[[int], None] | None = None,
    grace_s: float = 3.0,
) -> None:
    """Serve until ``stop`` is set; requests under way get ``grace_s`` seconds, live streams end at once.

    ``port`` 0 takes a free one; ``ready`` is called with the real one when requests are accepted. Raises
    ServiceMissing when the address can not be bound or the application does not start. Who may ask is the
    application's business (tidegate.entrance refuses a ``host`` off loopback without authentication).
    """
    listener = listening(host, port)
    try:
        asyncio.run(_run(app, listener, stop, ready, grace_s))
    finally:
        listener.close()


def listening(host: str, port: int) -> socket.socket:
    """A socket bound to ``host`` and ``port``. Raises ServiceMissing when that can not be.

    It names its protocol: asyncio turns Nagle's algorithm off for connections of such sockets only, and with it every
    answer (head and body are two writes) would wait 40 ms for the client's delayed acknowledgement.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise ServiceMissing(
            f"can not listen on {host}:{port}: {error.strerror}",
            remedy="choose another port, or end the program that has it",
        ) from error
    return listener


async def _run(
    app: FastAPI,
    listener: socket.socket,
    stop: threading.Event,
    ready: Callable[[int], None] | None,
    grace_s: float,
) -> None:
    server = _Server(
        uvicorn.Config(
            app,
            # paths and queries hold ids and account numbers (P7); metrics and our own log tell enough
            access_log=False,
            http=bounded(app.state.limits),
            ws="none",
            log_config=None,
            lifespan="on",
            server_header=False,
            timeout_keep_alive=30,
            timeout_graceful_shutdown=max(1, round(grace_s)),
        )
    )
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    announced = False
    while not serving.done():
        if server.started and not announced:
            announced = True
            if ready is not None:
                ready(listener.getsockname()[1])
        if stop.is_set() and not server.should_exit:
            app.state.streams.end()
            server.should_exit = True
        await asyncio.wait((serving,), timeout=_STOP_SECONDS if announced else 0.01)
    await serving
    if not announced and not stop.is_set():
        raise ServiceMissing("the API did not start", remedy="look at the log lines before this one")
