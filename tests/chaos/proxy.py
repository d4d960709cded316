"""A TCP proxy before the broker that can lose or delay the answer to a commit, and nothing else.

Kafka's frames: four bytes of length; a request begins with api key (int16), api version (int16) and correlation
id (int32), an answer with the correlation id. EndTxn has api key 26; its last field says commit (1) or abort (0).
"""

from __future__ import annotations

import socket
import struct
import threading
from collections import deque
from contextlib import suppress
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Self

__all__ = ["Harm", "KafkaProxy"]

_END_TXN = 26
_FLEXIBLE = 3
"""From this version of EndTxn on, a byte with the number of tagged fields follows the last field."""


class Harm(StrEnum):
    """What happens to an answer to a commit."""

    CUT = "cut"
    """It is lost, and the connection with it, as when a broker dies after committing."""
    SWALLOW = "swallow"
    """It is lost, and the connection stays: nobody ever answers."""
    DELAY = "delay"
    """It comes late."""


@dataclass
class _Link:
    client: socket.socket
    server: socket.socket
    commits: set[int] = field(default_factory=set)

    pumps: int = 2
    lock: threading.Lock = field(default_factory=threading.Lock)

    def cut(self) -> None:
        """Wake both threads; each then leaves by :meth:`leave`."""
        for end in (self.client, self.server):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def leave(self) -> None:
        """One thread is done with it; the last one closes it (a closed number may be somebody else's at once)."""
        self.cut()
        with self.lock:
            self.pumps -= 1
            if not self.pumps:
                self.client.close()
                self.server.close()


class KafkaProxy:
    """Listens on a free port of 127.0.0.1 and passes frames on to ``target``, set before anybody connects."""

    def __init__(self) -> None:
        self.target: tuple[str, int] = ("127.0.0.1", 0)
        self.harmed: list[Harm] = []
        self._armed: deque[tuple[Harm, float]] = deque()
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._links: list[_Link] = []
        self._pumps: list[threading.Thread] = []
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._socket.getsockname()[1])
        self._thread = threading.Thread(target=self._accept, name="proxy", daemon=True)

    @property
    def bootstrap(self) -> str:
        """The ``bootstrap.servers`` of clients that shall go through here."""
        return f"127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stop.set()
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._thread.join(10)
        for link in self._links:
            link.cut()
        for pump in self._pumps:
            pump.join(10)

    def harm_next(self, harm: Harm, seconds: float = 0.0) -> None:
        """Do that to the answer of the next commit not yet spoken for; ``seconds`` for a delay."""
        with self._lock:
            self._armed.append((harm, seconds))

    def _accept(self) -> None:
        while not self._stop.is_set():
            try:
                client, _ = self._socket.accept()
            except OSError:
                return
            try:
                server = socket.create_connection(self.target, timeout=10)
            except OSError:
                client.close()
                continue
            server.settimeout(None)
            for end in (client, server):
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            link = _Link(client, server)
            self._links.append(link)
            for run in (self._requests, self._answers):
                pump = threading.Thread(target=run, args=(link,), daemon=True)
                self._pumps.append(pump)
                pump.start()

    def _requests(self, link: _Link) -> None:
        try:
            while (frame := _frame(link.client)) is not None:
                key, version, correlation = struct.unpack_from(">hhi", frame, 4)
                if key == _END_TXN and frame[-2 if version >= _FLEXIBLE else -1]:
                    link.commits.add(correlation)
                link.server.sendall(frame)
        except OSError:
            pass
        finally:
            link.leave()

    def _answers(self, link: _Link) -> None:
        try:
            while (frame := _frame(link.server)) is not None:
                (correlation,) = struct.unpack_from(">i", frame, 4)
                if correlation in link.commits:
                    link.commits.discard(correlation)
                    harm, seconds = self._next_harm()
                    if harm is Harm.CUT:
                        return
                    if harm is Harm.SWALLOW:
                        continue
                    if harm is Harm.DELAY:
                        self._stop.wait(seconds)
                link.client.sendall(frame)
        except OSError:
            pass
        finally:
            link.leave()

    def _next_harm(self) -> tuple[Harm | None, float]:
        with self._lock:
            if not self._armed:
                return None, 0.0
            harm, seconds = self._armed.popleft()
            self.harmed.append(harm)
            return harm, seconds


def _frame(source: socket.socket) -> bytes | None:
    """The next frame with its length, None at the end of the stream."""
    head = _exactly(source, 4)
    if head is None:
        return None
    body = _exactly(source, int.from_bytes(head))
    return None if body is None else head + body


def _exactly(source: socket.socket, count: int) -> bytes | None:
    parts = []
    while count:
        part = source.recv(min(count, 1 << 20))
        if not part:
            return None
        parts.append(part)
        count -= len(part)
    return b"".join(parts)
