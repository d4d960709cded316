"""All processes of a deployment on one machine, for ``tidegate dev`` and ``tidegate demo``."""

from __future__ import annotations

import re
import sys
import urllib.error
import urllib.request
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import structlog

from stream.topics import create_topics
from tidegate.embedded.choose import Broker, choose_broker
from tidegate.embedded.process import ChildServer, free_port
from tidegate.embedded.redis import EmbeddedRedis
from tidegate.loading import load

__all__ = ["Stack", "StackConfig", "process_of"]

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class StackConfig:
    """What to start. ``directory`` holds data and logs; ``api_port`` 0 means any free one."""

    directory: Path
    pipeline_file: Path
    pipeline_name: str
    partitions: int = 1
    broker: str | None = None
    api_port: int = 0
    keep: bool = False


class _Process(ChildServer):
    """One of our own processes; it answers when its HTTP port does, a worker when it holds a partition."""

    # the first start on a machine compiles the kernels
    _start_seconds = 300.0

    def __init__(self, name: str, directory: Path, environment: dict[str, str], port: int = 0) -> None:
        self.name = name
        super().__init__(directory.resolve())
        self._settings = environment
        self._fixed_port = port
        self.port = port

    def _choose_ports(self) -> None:
        self.port = self._fixed_port or free_port()

    def _command(self) -> list[str]:
        return [sys.executable, "-m", "tidegate", self.name]

    def _environment(self) -> dict[str, str]:
        own = "TIDEGATE_API_PORT" if self.name == "api" else "TIDEGATE_METRICS_PORT"
        return {**self._settings, own: str(self.port)}

    def _answers(self) -> bool:
        path = "livez" if self.name == "api" else "metrics"
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/{path}", timeout=1.0) as answer:
                body = answer.read()
                if self.name == "worker":
                    return (
                        answer.status == 200
                        and re.search(rb"(?m)^tidegate_partitions [1-9]", body) is not None
                    )
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            return False


def process_of(name: str, directory: Path, environment: dict[str, str]) -> ChildServer:
    """One of our processes to enter, with exactly these settings beside the environment's."""
    return _Process(name, directory, environment)


class Stack:
    """A context manager: entering starts everything, leaving ends exactly that."""

    def __init__(self, config: StackConfig) -> None:
        self._config = config
        self._exit = ExitStack()
        self._processes: list[_Process] = []
        self.broker: Broker
        self.api_url = ""
        self.redis_url = ""
        self.database_url = f"sqlite:///{config.directory.resolve() / 'tidegate.sqlite'}"

    def __enter__(self) -> Stack:
        config = self._config
        config.directory.mkdir(parents=True, exist_ok=True)
        try:
            self.broker = self._exit.enter_context(
                choose_broker(directory=config.directory, prefer=config.broker)
            )
            redis = self._exit.enter_context(
                EmbeddedRedis(config.directory / "redis", appendonly=config.keep)
            )
            self.redis_url = redis.url
            create_topics(
                {"bootstrap.servers": self.broker.bootstrap},
                config.pipeline_name,
                config.partitions,
                embedded=not self.broker.exactly_once,
            )
            environment = {
                "TIDEGATE_PIPELINE": str(config.pipeline_file.resolve()),
                "TIDEGATE_KAFKA_BOOTSTRAP": self.broker.bootstrap,
                "TIDEGATE_REDIS_URL": redis.url,
                "TIDEGATE_WORKER_ID": "worker-1",
                "TIDEGATE_OFFLINE_URL": str((config.directory / "offline").resolve()),
                # beside the broker's data: the topic of models and the registry count the same epochs
                "TIDEGATE_DATABASE_URL": self.database_url,
            }
            trains = load(config.pipeline_file).retraining is not None
            for name in (
                "worker",
                "archiver",
                "archiver-offline",
                "joiner",
                "monitor",
                "caser",
                "dispatcher",
                *(("trainer",) if trains else ()),
                "api",
            ):
                port = config.api_port if name == "api" else 0
                process = _Process(name, config.directory / name, environment, port)
                self._processes.append(self._exit.enter_context(process))
            self.api_url = f"http://127.0.0.1:{self._processes[-1].port}"
        except BaseException:
            self._exit.close()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        self._exit.close()

    def check(self) -> None:
        """Start a process of ours again if it died. Raises ServiceMissing when it does not come up."""
        for process in self._processes:
            if not process.running:
                log.error("a process ended; starting it again", name=process.name, log=str(process.log))
                process.restart()

    def logs(self) -> list[Path]:
        """Where the processes write."""
        return [process.log for process in self._processes]
