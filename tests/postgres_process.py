"""A real PostgreSQL as a child process, for tests."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import uuid
from contextlib import AbstractContextManager, closing
from pathlib import Path
from typing import Any

from pg8000 import dbapi

from domain.errors import ServiceMissing
from tidegate.embedded.process import ChildServer, free_port

__all__ = ["EmbeddedPostgres"]

_USER = "tidegate"
_NOBODY = "nobody"


def _find(program: str) -> str:
    """``program`` of PostgreSQL: where Debian keeps it, or on PATH. Raises ServiceMissing."""
    debian = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{program}"), reverse=True)
    found = str(debian[0]) if debian else shutil.which(program)
    if found is None:
        raise ServiceMissing(
            f"{program} of PostgreSQL was not found",
            remedy="run `make setup`, or `apt-get install postgresql` (Debian, Ubuntu), "
            "`brew install postgresql` (macOS)",
        )
    return found


class EmbeddedPostgres(ChildServer):
    """A PostgreSQL on a free port of 127.0.0.1; ``directory`` keeps its log, its data end with :meth:`close`."""

    name = "postgres"

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self._program = _find("postgres")
        self.port = 0
        # it refuses to run as root, and others can not look into root's folders
        self._data = Path(tempfile.mkdtemp(prefix="tidegate-postgres-"))
        self._as: list[str] = []
        if os.geteuid() == 0:
            shutil.chown(self._data, _NOBODY)
            self._as = [
                *(str(shutil.which("setpriv")), "--reuid", _NOBODY, "--clear-groups"),
                # changing the user has taken away what ChildServer asked for
                *("--pdeathsig", "KILL"),
            ]
        made = subprocess.run(
            [
                *self._as, _find("initdb"), "--pgdata", str(self._data), "--username", _USER, "--auth", "trust",
                "--encoding", "UTF8", "--locale", "C", "--no-sync",
            ],
            cwd=self._data, capture_output=True, text=True, check=False,
        )  # fmt: skip
        if made.returncode:
            raise ServiceMissing(f"initdb failed: {made.stderr}", remedy="read what it says")

    def url(self, database: str = "postgres") -> str:
        """Where clients connect."""
        return f"postgresql://{_USER}@127.0.0.1:{self.port}/{database}"

    def new_database(self) -> str:
        """The URL of a new, empty database."""
        name = f"t{uuid.uuid4().hex}"
        with self._connection(60.0) as connection:
            connection.autocommit = True
            connection.cursor().execute(f'CREATE DATABASE "{name}"')
        return self.url(name)

    def close(self) -> None:
        """End it; its data are gone."""
        super().close()
        shutil.rmtree(self._data, ignore_errors=True)

    def _choose_ports(self) -> None:
        self.port = free_port()

    def _command(self) -> list[str]:
        settings = {
            "listen_addresses": "127.0.0.1",
            "port": str(self.port),
            "unix_socket_directories": "",
            "fsync": "off",
            "shared_buffers": "16MB",
            "max_connections": "50",
        }
        given = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        return [*self._as, self._program, "-D", str(self._data), *given]

    def _answers(self) -> bool:
        try:
            with self._connection(2.0) as connection:
                cursor = connection.cursor()
                cursor.execute("SHOW data_directory")
                found = cursor.fetchone()
        except (dbapi.Error, OSError):
            return False
        # another server may have taken the port between our choice and its bind
        return found is not None and found[0] == str(self._data)

    def _connection(self, seconds: float) -> AbstractContextManager[Any]:
        return closing(
            dbapi.connect(_USER, host="127.0.0.1", port=self.port, database="postgres", timeout=seconds)
        )
