"""An open-loop HTTP load: requests leave when they are due, whatever became of those before them.

A closed loop (send, wait, send) stops asking while the server is slow and so never measures the slow moments
("coordinated omission"). Here request i is due at ``i / rate`` after the start and its latency counts from then, also
when no connection was free.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Answers", "get", "open_loop", "post"]

CONNECTIONS = 256
"""More than are ever under way at the rates measured; a request that finds none free waits, and that counts."""


@dataclass(frozen=True, slots=True)
class Answers:
    """Seconds from when each request was due to the last byte of its answer; how often each status; how late the
    latest request left (seconds), which is this program's fault and not the server's; the rate that came of it.
    """

    seconds: list[float]
    statuses: dict[int, int]
    latest_start: float
    rate: float


def get(path: str) -> bytes:
    """A GET request as it goes over the wire."""
    return f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()


def post(path: str, body: bytes) -> bytes:
    """A POST request with a JSON body as it goes over the wire."""
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
    return head.encode() + b"\r\n\r\n" + body


def open_loop(port: int, requests: Sequence[bytes], rate: float) -> Answers:
    """Send ``requests`` to 127.0.0.1 at ``rate`` a second over kept connections."""
    return asyncio.run(_Load(port, rate).run(requests))


class _Load:
    def __init__(self, port: int, rate: float) -> None:
        self._port = port
        self._rate = rate
        self._free: deque[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = deque()
        self._slots = asyncio.Semaphore(CONNECTIONS)
        self._seconds: list[float] = []
        self._statuses: Counter[int] = Counter()
        self._latest = 0.0

    async def run(self, requests: Sequence[bytes]) -> Answers:
        tasks: set[asyncio.Task[None]] = set()
        begin = time.perf_counter() + 0.05
        for number, request in enumerate(requests):
            due = begin + number / self._rate
            if (wait := due - time.perf_counter()) > 0:
                await asyncio.sleep(wait)
            self._latest = max(self._latest, time.perf_counter() - due)
            tasks.add(task := asyncio.create_task(self._one(request, due)))
            task.add_done_callback(tasks.discard)
        sent = time.perf_counter() - begin
        await asyncio.gather(*tasks)
        for _, writer in self._free:
            writer.close()
        return Answers(self._seconds, dict(self._statuses), self._latest, len(requests) / sent)

    async def _one(self, request: bytes, due: float) -> None:
        async with self._slots:
            reader, writer = self._free.pop() if self._free else await self._connected()
            writer.write(request)
            head = await reader.readuntil(b"\r\n\r\n")
            await reader.readexactly(_length(head))
            self._seconds.append(time.perf_counter() - due)
            self._statuses[int(head[9:12])] += 1
            if b"\r\nconnection: close\r\n" in head.lower():
                writer.close()
            else:
                self._free.append((reader, writer))

    async def _connected(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return reader, writer


def _length(head: bytes) -> int:
    for line in head.split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            return int(value)
    raise ValueError("an answer without Content-Length")
