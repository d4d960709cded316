"""Connections over real sockets: slow, greedy, too many; and bodies that nobody reads."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from queue import Queue
from typing import Any

import httpx
import msgspec
import pytest

from api.app import create_app
from api.server import serve
from tests.contract.check_hot_verdicts import verdict
from tests.system.scene import PATIENCE, eventually
from tests.unit.api.entering import Gate
from tests.unit.api.fakes import EVENT, World


@contextmanager
def served(app: Any) -> Iterator[int]:
    stop, ready = threading.Event(), Queue[int]()
    thread = threading.Thread(
        target=serve, args=(app,), kwargs={"port": 0, "stop": stop, "ready": ready.put, "grace_s": 0.1}
    )
    thread.start()
    try:
        yield ready.get(timeout=PATIENCE)
    finally:
        stop.set()
        thread.join(PATIENCE)
        assert not thread.is_alive()


@pytest.fixture
def connect() -> Iterator[Callable[[int], socket.socket]]:
    with ExitStack() as stack:

        def connected(port: int) -> socket.socket:
            return stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=PATIENCE))

        yield connected


def until_closed(connection: socket.socket) -> bytes:
    """All that comes until the other side is gone, politely or not."""
    found = b""
    try:
        while part := connection.recv(65_536):
            found += part
    except ConnectionError:
        pass
    return found


def test_heads_that_do_not_come_are_cut_off(connect: Callable[[int], socket.socket]) -> None:
    with served(create_app(World(head_seconds=0.2).deps)) as port:
        assert until_closed(connect(port)) == b""

        def said(sent: bytes) -> bytes:
            connection = connect(port)
            with suppress(ConnectionError):
                connection.sendall(sent)
            return until_closed(connection)

        assert said(b"GET /livez HTTP/1.1\r\nHost: x\r\nX-Slow: ") == b""
        # unless this machine was slow to send it, the first is answered; the second never comes
        two = b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\nGET /li"
        eventually("only the first is answered", lambda: said(two).startswith(b"HTTP/1.1 200 OK"))


def test_who_takes_no_answer_is_cut_off(connect: Callable[[int], socket.socket]) -> None:
    world = World(stall_seconds=0.2, head_seconds=3_600)
    large = msgspec.json.encode(verdict(1))[:-1] + b', "filler": "' + b"x" * 20_000_000 + b'"}'
    world.gateway.answer = large
    body = json.dumps(EVENT).encode()
    with served(create_app(world.deps)) as port:
        greedy = connect(port)
        # otherwise it grows with what comes
        greedy.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
        greedy.sendall(
            b"POST /v1/score HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            b"Content-Length: %d\r\n\r\n%b" % (len(body), body)
        )

        def cut() -> bool:
            try:
                greedy.sendall(b"x")
            except ConnectionError:
                return True
            return False

        # without reading: a reader would get the whole answer
        eventually("the connection is reset", cut)
        assert len(until_closed(greedy)) < len(large)
        assert httpx.get(f"http://127.0.0.1:{port}/livez").status_code == 200


def test_of_too_many_connections_the_last_is_told_to_come_back(
    connect: Callable[[int], socket.socket],
) -> None:
    with served(create_app(World(connections=2).deps)) as port:
        ask = b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n"
        for _ in range(2):
            one = connect(port)
            one.sendall(ask)
            assert one.recv(12) == b"HTTP/1.1 200"
        answer = until_closed(connect(port))
        assert answer.startswith(b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\n")
        head, _, body = answer.partition(b"\r\n\r\n")
        assert json.loads(body)["code"] == "busy"
        assert head.endswith(b"Content-Length: %d" % len(body))


def test_a_body_that_nobody_reads_ends_the_connection(connect: Callable[[int], socket.socket]) -> None:
    # a stranger's, without a key
    codings = (b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n", b"Content-Length: 99999\r\n\r\nhello")
    with served(Gate(World()).app) as port:
        for path in (b"/v1/score", b"/v1/verdicts/x", b"/nowhere", b"/livez"):
            for coding in codings:
                endless = connect(port)
                endless.sendall(b"POST " + path + b" HTTP/1.1\r\nHost: x\r\n" + coding)
                answer = until_closed(endless)
                assert answer.startswith(b"HTTP/1.1 4"), answer
                assert b"\r\nconnection: close\r\n" in answer.lower()


def test_heads_that_are_too_large_are_refused(connect: Callable[[int], socket.socket]) -> None:
    with served(create_app(World().deps)) as port:
        large = connect(port)
        large.sendall(b"GET /livez HTTP/1.1\r\nHost: x\r\nX-Large: " + b"x" * 20_000)
        assert until_closed(large).startswith(b"HTTP/1.1 400")
        assert httpx.get(f"http://127.0.0.1:{port}/livez").status_code == 200
