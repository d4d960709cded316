"""A worker as a child process that fault tests can kill: at a random moment, or itself at a named step.

Children are forked by multiprocessing's fork server, which has the imports behind it (five seconds of sklearn,
numba and the rest): a test that needs twenty workers would otherwise mostly import. What runs is
:func:`tidegate.processes.worker`, the function behind ``tidegate worker``.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from domain.errors import TidegateError
from stream.kafka import KafkaConnection
from tidegate.logs import set_up_logging
from tidegate.processes import stop_on_signals, worker
from tidegate.settings import Settings

__all__ = ["KillAt", "WorkerProcess"]

SESSION_MS = 2_500
"""After this the group gives a killed worker's partitions away; ten seconds by default, too long per kill."""
_FATAL = 3
_CONTEXT = multiprocessing.get_context("forkserver")


@dataclass(frozen=True)
class KillAt:
    """SIGKILL to itself at the ``visit``-th call (from 1) of the ``at`` hook with ``point``."""

    point: str
    visit: int


class _QuickGroup(KafkaConnection):
    """The same clients with a shorter memory for dead group members."""

    def group_member(self, client_id: str, group: str) -> dict[str, Any]:
        conf = super().group_member(client_id, group)
        return {**conf, "session.timeout.ms": SESSION_MS, "heartbeat.interval.ms": SESSION_MS // 5}


class _QuickSettings(Settings):
    def kafka(self) -> KafkaConnection:
        return _QuickGroup(self.kafka_bootstrap, self.kafka_extra)


def _killer(kill: KillAt | None) -> Callable[[str], None]:
    visits = 0

    def at(point: str) -> None:
        nonlocal visits
        if kill is not None and point == kill.point:
            visits += 1
            if visits == kill.visit:
                os.kill(os.getpid(), signal.SIGKILL)

    return at


def _main(environment: Mapping[str, str], log: str, kill: KillAt | None) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # a test run that is killed leaves no worker behind
    file = Path(log).open("a", buffering=1)  # noqa: SIM115  (until the process ends)
    os.dup2(file.fileno(), 1)
    os.dup2(file.fileno(), 2)
    sys.stdout = sys.stderr = file
    set_up_logging()
    os.environ.update(environment)
    try:
        worker(_QuickSettings(), stop_on_signals(), at=_killer(kill))
    except TidegateError as error:
        print(f"{type(error).__name__}: {error}", file=file)
        os._exit(_FATAL)


class WorkerProcess:
    """One worker after another under the same id, with one log."""

    def __init__(self, environment: Mapping[str, str], log: Path) -> None:
        self._environment = dict(environment)
        self.log = log
        self._process: Any = None

    def start(self, kill: KillAt | None = None) -> None:
        """Start the next worker."""
        _CONTEXT.set_forkserver_preload(["tests.system.preload"])
        self._process = _CONTEXT.Process(target=_main, args=(self._environment, str(self.log), kill))
        self._process.start()

    @property
    def pid(self) -> int:
        """Of the present worker."""
        return int(self._process.pid)

    @property
    def running(self) -> bool:
        """Whether it lives."""
        return self._process is not None and self._process.is_alive()

    def kill(self) -> None:
        """SIGKILL; returns when it is dead."""
        self._process.kill()
        self.wait(30)

    def wait(self, seconds: float) -> int:
        """Wait for its end; the exit code (negative: the signal that ended it)."""
        self._process.join(seconds)
        code = self._process.exitcode
        if code is None:
            raise AssertionError(f"the worker still runs after {seconds} s\n{self.tail()}")
        return int(code)

    def stop(self) -> float:
        """SIGTERM, as an orchestrator does; seconds until it was gone. AssertionError unless it ended well."""
        started = time.monotonic()
        self._process.terminate()
        code = self.wait(30)
        assert code == 0, f"exit code {code}\n{self.tail()}"
        return time.monotonic() - started

    def close(self) -> None:
        """Leave nothing behind, whatever the test did."""
        if self.running:
            os.kill(self.pid, signal.SIGCONT)
            self._process.kill()
            self._process.join(10)

    def tail(self, lines: int = 25) -> str:
        """The end of its log."""
        text = self.log.read_text(errors="replace") if self.log.exists() else ""
        return f"the end of {self.log.name}:\n" + "\n".join(text.splitlines()[-lines:])
