"""A server program run as a child of this process: started until it answers, ended by its pid alone."""

from __future__ import annotations

import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Self

from domain.errors import ServiceMissing

__all__ = ["ChildServer", "free_port"]

# Below the ranges from which Linux (32768) and macOS (49152) take ports of outgoing connections: a client
# that retries a dead server's port could otherwise be given that port itself and block the restart.
_PORTS = range(20_000, 32_000)
_PORT_ATTEMPTS = 8
# How often a starting server is asked whether it answers: far below any server's start-up time.
_POLL_SECONDS = 0.02
_LOG_LINES = 15

# Run before the server in its own process: asks Linux to kill it when its parent dies, however that happens.
# Started this way rather than by preexec_fn, which is not safe in a parent that has threads.
_GUARD = (
    "import ctypes,os,sys\n"
    "ctypes.CDLL(None).prctl(1, 9)\n"  # PR_SET_PDEATHSIG, SIGKILL
    "if os.getppid() == int(sys.argv[1]): os.execv(sys.argv[2], sys.argv[2:])\n"
)


def free_port() -> int:
    """A TCP port of 127.0.0.1 that was free a moment ago.

    Someone else may take it before the server binds it, so every start that uses it must expect
    that and try another (:meth:`ChildServer.start` does).
    """
    for _ in range(200):
        port = _PORTS[secrets.randbelow(len(_PORTS))]
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise ServiceMissing(
        f"no free port of 127.0.0.1 found between {_PORTS.start} and {_PORTS.stop}.",
        remedy="end other servers on this machine, or check that binding to 127.0.0.1 is allowed.",
    )


class ChildServer(ABC):
    """One server program as a child process, with the life cycle that fault tests need.

    ``start`` chooses ports and returns when the server answers; ``kill``, ``pause``, ``resume`` and
    ``restart`` keep ports and data, so that clients reconnect. ``close`` ends it. Only the process
    with the pid started here is ever signalled. On Linux the kernel kills it when the parent dies;
    that follows the *thread* which started it, so it is armed only when that is the main thread.

    Ports cannot be reserved for another program: between choosing and binding somebody else may
    take one. A start that fails so is recognised by the server's log and repeated with new ports.
    """

    name: str
    _start_seconds: float = 60.0
    _stop_seconds: float = 15.0
    _bind_failures: tuple[str, ...] = ("Address already in use", "Address in use")

    def __init__(self, directory: Path) -> None:
        self.directory = directory.resolve()
        self.directory.mkdir(parents=True, exist_ok=True)
        self.log = self.directory / f"{self.name}.log"
        self._process: subprocess.Popen[bytes] | None = None
        self._paused = False

    @abstractmethod
    def _choose_ports(self) -> None:
        """Take new ports; called before the first start and after each bind failure."""

    @abstractmethod
    def _command(self) -> list[str]:
        """Program and arguments for the present ports; the program by its absolute path."""

    def _environment(self) -> dict[str, str]:
        """Environment variables beyond those of this process."""
        return {}

    @abstractmethod
    def _answers(self) -> bool:
        """Whether this very server (not another on its port) serves requests; never raises."""

    @property
    def pid(self) -> int:
        """The process id; raises ValueError when it does not run."""
        if self._process is None:
            raise ValueError(f"{self.name} is not running")
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether the process exists (also while paused)."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> Self:
        """Start on new ports and wait until it answers.

        Raises ServiceMissing, with the end of its log, if it does not come up.
        """
        for _ in range(_PORT_ATTEMPTS):
            self._choose_ports()
            if self._launch():
                return self
        raise self._failure(f"found no port it could bind in {_PORT_ATTEMPTS} attempts")

    def restart(self) -> None:
        """End it if it runs, then start it on the same ports and data."""
        self.close()
        deadline = time.monotonic() + self._start_seconds
        # The old ports are our identity here: if one is taken for a moment, only trying again helps.
        while not self._launch():
            if time.monotonic() > deadline:
                raise self._failure("could not bind its previous ports again")

    def kill(self) -> None:
        """SIGKILL, as a crash would: nothing is flushed. Returns when the process is gone."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        self._process, self._paused = None, False

    def pause(self) -> None:
        """SIGSTOP: connections stay open and nothing answers."""
        os.kill(self.pid, signal.SIGSTOP)
        self._paused = True

    def resume(self) -> None:
        """SIGCONT: undo :meth:`pause`."""
        os.kill(self.pid, signal.SIGCONT)
        self._paused = False

    def close(self) -> None:
        """End it in order (SIGTERM), or by SIGKILL if that takes too long; repeated calls do nothing."""
        process = self._process
        if process is not None and process.poll() is None:
            if self._paused:
                self.resume()
            process.terminate()
            try:
                process.wait(self._stop_seconds)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._process, self._paused = None, False

    def __enter__(self) -> Self:
        return self if self.running else self.start()

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _launch(self) -> bool:
        """Start with the present ports: True when it answers, False when a port was taken."""
        before = self.log.stat().st_size if self.log.exists() else 0
        command = self._command()
        if sys.platform == "linux" and threading.current_thread() is threading.main_thread():
            command = [sys.executable, "-I", "-S", "-c", _GUARD, str(os.getpid()), *command]
        with self.log.open("ab") as log:
            # Its own session: Ctrl-C in the terminal reaches us first, and we end it last.
            self._process = process = subprocess.Popen(  # noqa: S603 - our own argument list, no shell
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.directory,
                env={**os.environ, **self._environment()},
                start_new_session=True,
            )
        deadline = time.monotonic() + self._start_seconds
        try:
            while not self._answers():
                try:
                    process.wait(_POLL_SECONDS)
                except subprocess.TimeoutExpired:
                    if time.monotonic() < deadline:
                        continue
                    raise self._failure(f"did not answer within {self._start_seconds:.0f} s") from None
                self._process = None
                if any(text in self._log_since(before) for text in self._bind_failures):
                    return False
                raise self._failure(f"ended at once with exit code {process.returncode}")
        except BaseException:
            self.kill()
            raise
        return True

    def _log_since(self, offset: int) -> str:
        with self.log.open("rb") as log:
            log.seek(offset)
            return log.read().decode(errors="replace")

    def _failure(self, what: str) -> ServiceMissing:
        end = "\n".join(self._log_since(0).splitlines()[-_LOG_LINES:])
        return ServiceMissing(
            f"{self.name} {what}. The end of {self.log}:\n{end}\n",
            remedy="read the log above; free memory, disk and ports of 127.0.0.1 are the usual causes.",
        )
