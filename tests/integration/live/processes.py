"""The API and the archiver as child processes, forked from the one that has the imports behind it."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import sys
from collections.abc import Mapping
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from tests.system.worker_program import PATIENCE
from tidegate.logs import set_up_logging
from tidegate.settings import Settings
from tidegate.signals import stop_on_signals

__all__ = ["Child", "run_api", "run_archiver", "run_joiner"]

_CONTEXT = multiprocessing.get_context("forkserver")


def run_api(settings: Settings, told: Connection) -> None:
    """``tidegate api``; tells its port."""
    from tidegate.api_process import api

    api(settings, stop_on_signals(), ready=told.send)


def run_archiver(settings: Settings, told: Connection) -> None:
    """``tidegate archiver``."""
    from tidegate.processes import archiver

    told.send(0)
    archiver(settings, stop_on_signals())


def run_joiner(settings: Settings, told: Connection) -> None:
    """``tidegate joiner``."""
    from tidegate.processes import joiner

    told.send(0)
    joiner(settings, stop_on_signals())


def _main(what: Any, environment: Mapping[str, str], log: str, told: Connection) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # a test run that is killed leaves nothing behind
    file = Path(log).open("a", buffering=1)  # noqa: SIM115  (until the process ends)
    os.dup2(file.fileno(), 1)
    os.dup2(file.fileno(), 2)
    sys.stdout = sys.stderr = file
    set_up_logging()
    os.environ.update(environment)
    what(Settings(), told)


class Child:
    """One process: ``what`` is one of the functions above. ``port`` is what it told when it was ready."""

    def __init__(self, what: Any, environment: Mapping[str, str], log: Path) -> None:
        self.log = log
        _CONTEXT.set_forkserver_preload(["tests.system.preload"])
        mine, theirs = _CONTEXT.Pipe(duplex=False)
        self._process = _CONTEXT.Process(target=_main, args=(what, dict(environment), str(log), theirs))
        self._process.start()
        theirs.close()
        try:
            if not mine.poll(PATIENCE):
                raise AssertionError(f"not ready within {PATIENCE:.0f} s\n{self.tail()}")
            self.port = int(mine.recv())
        except EOFError:
            raise AssertionError(f"it ended\n{self.tail()}") from None
        finally:
            mine.close()

    @property
    def pid(self) -> int:
        """Of the process."""
        return int(self._process.pid or 0)

    def close(self) -> None:
        """SIGTERM, and SIGKILL to one that does not listen."""
        self._process.terminate()
        self._process.join(30)
        if self._process.is_alive():
            self._process.kill()
            self._process.join(PATIENCE)

    def unhandled(self) -> list[str]:
        """Exceptions that nobody expected, as its log has them."""
        return [
            line for line in self._lines() if '"event": "unhandled"' in line or line.startswith("Traceback")
        ]

    def tail(self, lines: int = 10) -> str:
        """The end of its log."""
        return f"the end of {self.log.name}:\n" + "\n".join(line[-1_000:] for line in self._lines()[-lines:])

    def _lines(self) -> list[str]:
        return self.log.read_text(errors="replace").splitlines() if self.log.exists() else []
