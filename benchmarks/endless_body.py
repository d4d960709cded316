"""A request whose chunked body would be a gigabyte, and what it does to the memory of the process that gets it."""

from __future__ import annotations

import socket
import threading
from dataclasses import dataclass

import psutil

__all__ = ["Swallowed", "send_endless_body"]

GIGABYTE = 1 << 30
_CHUNK = b"10000\r\n" + b" " * 0x10000 + b"\r\n"
_SAMPLE_SECONDS = 0.005
_PATIENCE_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Swallowed:
    """``sent`` bytes were taken before the server answered ``status`` (0: it cut the connection without a word) and
    hung up; its memory rose by ``grown`` bytes at most.
    """

    sent: int
    status: int
    grown: int


def send_endless_body(port: int, pid: int, *, path: str = "/v1/score", most: int = GIGABYTE) -> Swallowed:
    """POST up to ``most`` bytes in chunks to 127.0.0.1 and watch the resident memory of process ``pid``."""
    process = psutil.Process(pid)
    before = peak = process.memory_info().rss
    done = threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.wait(_SAMPLE_SECONDS):
            peak = max(peak, process.memory_info().rss)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        sent, status = _send(port, path, most)
    finally:
        done.set()
        watcher.join()
    return Swallowed(sent, status, max(peak, process.memory_info().rss) - before)


def _send(port: int, path: str, most: int) -> tuple[int, int]:
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    head += "Transfer-Encoding: chunked\r\n\r\n"
    sent = 0
    with socket.create_connection(("127.0.0.1", port), timeout=_PATIENCE_SECONDS) as connection:
        connection.sendall(head.encode())
        try:
            while sent < most:
                connection.sendall(_CHUNK)
                sent += len(_CHUNK)
            connection.sendall(b"0\r\n\r\n")
        except (BrokenPipeError, ConnectionResetError):
            pass  # as it should be
        try:
            answer = connection.recv(64)
        except ConnectionResetError:
            answer = b""
    return sent, int(answer[9:12]) if answer.startswith(b"HTTP/1.1 ") else 0
