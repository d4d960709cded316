"""A worker as a child process that fault tests can kill: at a random moment, or itself at a named step.

Children are forked by multiprocessing's fork server, which has the imports behind it (five seconds of sklearn,
numba and the rest): a test that needs twenty workers would otherwise mostly import. What runs is
:func:`tidegate.processes.worker`, the function behind ``tidegate worker``.
"""

from __future__ import annotations

import ctypes
import faulthandler
import importlib
import json
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from domain.errors import TidegateError
from stream.kafka import KafkaConnection
from tidegate.logs import set_up_logging
from tidegate.processes import worker
from tidegate.settings import Settings
from tidegate.signals import stop_on_signals

__all__ = ["PATIENCE", "ActAt", "KillAt", "Tuning", "WorkerProcess"]

SESSION_MS = 2_500
"""After this the group gives a killed worker's partitions away; six seconds by default, too long per kill."""
PATIENCE = float(os.environ.get("TIDEGATE_PATIENCE", "120"))
"""Seconds for anything that has to happen, on a slow and busy machine; nothing waits so long when all is well."""
_FATAL = 3
_CONTEXT = multiprocessing.get_context("forkserver")


@dataclass(frozen=True)
class KillAt:
    """SIGKILL to itself at the ``visit``-th call (from 1) of the ``at`` hook with ``point``."""

    point: str
    visit: int


@dataclass(frozen=True)
class ActAt:
    """At the ``visit``-th call (from 1) of the ``at`` hook with ``point``: send itself ``signal``, or (0) let the
    thread that got there stand still, for ``seconds`` or until there is a file ``until``, while the others go on.
    """

    point: str
    visit: int
    signal: int = 0
    seconds: float = 0.0
    until: Path | None = None


@dataclass(frozen=True)
class Tuning:
    """How a worker of a test differs from the product's.

    ``session_ms`` and ``transaction_ms``: time-outs of group membership and of transactions (None: the product's).
    ``consumer`` and ``producer``: further client settings. ``sabotage``: a function ``module:name`` that breaks
    something on purpose before the worker starts; the tests of the tests.
    """

    session_ms: int | None = SESSION_MS
    transaction_ms: int | None = None
    consumer: Mapping[str, Any] = field(default_factory=dict)
    producer: Mapping[str, Any] = field(default_factory=dict)
    sabotage: str = ""


class _TunedKafka(KafkaConnection):
    """The same clients with other time-outs."""

    tuning = Tuning()

    def group_member(self, client_id: str, group: str) -> dict[str, Any]:
        conf = {**super().group_member(client_id, group), **self.tuning.consumer}
        if (session := self.tuning.session_ms) is not None:
            conf |= {"session.timeout.ms": session, "heartbeat.interval.ms": session // 5}
        return conf

    def transactional_producer(self, client_id: str, transactional_id: str) -> dict[str, Any]:
        conf = {**super().transactional_producer(client_id, transactional_id), **self.tuning.producer}
        if self.tuning.transaction_ms is not None:
            conf["transaction.timeout.ms"] = self.tuning.transaction_ms
        return conf


def _tuned_settings(tuning: Tuning) -> Settings:
    class Tuned(_TunedKafka):
        pass

    Tuned.tuning = tuning

    class TunedSettings(Settings):
        def kafka(self) -> KafkaConnection:
            return Tuned(self.kafka_bootstrap, self.kafka_extra)

    return TunedSettings()


def _hook(acts: Sequence[KillAt | ActAt]) -> Callable[[str], None]:
    visits: Counter[str] = Counter()

    def at(point: str) -> None:
        visits[point] += 1
        for act in acts:
            if (act.point, act.visit) != (point, visits[point]):
                continue
            number = act.signal if isinstance(act, ActAt) else signal.SIGKILL
            if number:
                # to this thread: sent to the process, another one may take SIGSTOP while this one runs on
                signal.pthread_kill(threading.get_ident(), number)
            else:
                assert isinstance(act, ActAt)
                threading.Event().wait(act.seconds)
                while act.until is not None and not act.until.exists():
                    threading.Event().wait(0.02)

    return at


def _sabotage(what: str) -> None:
    module, _, name = what.partition(":")
    getattr(importlib.import_module(module), name)()


def _main(environment: Mapping[str, str], log: str, acts: Sequence[KillAt | ActAt], tuning: Tuning) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # a test run that is killed leaves no worker behind
    file = Path(log).open("a", buffering=1)  # noqa: SIM115  (until the process ends)
    os.dup2(file.fileno(), 1)
    os.dup2(file.fileno(), 2)
    sys.stdout = sys.stderr = file
    faulthandler.register(signal.SIGUSR1, file, all_threads=True)
    set_up_logging()
    os.environ.update(environment)
    if tuning.sabotage:
        _sabotage(tuning.sabotage)
    try:
        worker(_tuned_settings(tuning), stop_on_signals(), at=_hook(acts))
    except TidegateError as error:
        print(f"{type(error).__name__}: {error}", file=file)
        os._exit(_FATAL)


class WorkerProcess:
    """One worker after another under the same id, with one log."""

    def __init__(self, environment: Mapping[str, str], log: Path, tuning: Tuning | None = None) -> None:
        self._environment = dict(environment)
        self._tuning = tuning or Tuning()
        self.log = log
        self._process: Any = None

    def start(self, *acts: KillAt | ActAt) -> None:
        """Start the next worker; ``acts`` are what it does to itself."""
        _CONTEXT.set_forkserver_preload(["tests.system.preload"])
        arguments = (self._environment, str(self.log), acts, self._tuning)
        self._process = _CONTEXT.Process(target=_main, args=arguments)
        self._process.start()

    @property
    def pid(self) -> int:
        """Of the present worker."""
        return int(self._process.pid)

    @property
    def stopped(self) -> bool:
        """Whether it lives but does not run (SIGSTOP)."""
        return self.running and psutil.Process(self.pid).status() == psutil.STATUS_STOPPED

    @property
    def running(self) -> bool:
        """Whether it lives."""
        return self._process is not None and self._process.is_alive()

    def kill(self) -> None:
        """SIGKILL; returns when it is dead."""
        self._process.kill()
        self.wait()

    def wait(self, seconds: float = PATIENCE) -> int:
        """Wait for its end; the exit code (negative: the signal that ended it)."""
        self._process.join(seconds)
        code = self._process.exitcode
        if code is None:
            raise AssertionError(f"the worker still runs after {seconds} s\n{self.tail()}")
        return int(code)

    def stop(self) -> float:
        """SIGTERM, as an orchestrator does; seconds until it was gone. AssertionError unless it ended well.

        One that has stopped itself is told to go on.
        """
        self._process.terminate()
        started = time.monotonic()
        os.kill(self.pid, signal.SIGCONT)
        self._process.join(PATIENCE)
        if self.running:
            os.kill(self.pid, signal.SIGUSR1)  # its threads' stacks into the log
            self._process.join(1)
        code = self.wait(0)
        assert code == 0, f"exit code {code}\n{self.tail()}"
        return time.monotonic() - started

    def close(self) -> None:
        """Leave nothing behind, whatever the test did."""
        if self.running:
            os.kill(self.pid, signal.SIGCONT)
            self._process.kill()
            self._process.join(PATIENCE)

    def logged(self, event: str) -> list[dict[str, Any]]:
        """The lines of its log with this ``event``."""
        text = self.log.read_text(errors="replace") if self.log.exists() else ""
        mark = f'"event": "{event}"'
        return [json.loads(line) for line in text.splitlines() if line.startswith("{") and mark in line]

    def tail(self, lines: int = 25) -> str:
        """The end of its log."""
        text = self.log.read_text(errors="replace") if self.log.exists() else ""
        return f"the end of {self.log.name}:\n" + "\n".join(text.splitlines()[-lines:])
