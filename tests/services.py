"""Real Kafka and Redis for tests: containers where a Docker engine answers, child processes otherwise.

``TIDEGATE_TEST_SERVICES`` decides: ``native``, ``containers``, or ``auto`` (the default: containers
only if an engine answers and holds both images already, so that no test run waits for a download).
A service that is missing fails the test with its remedy; nothing is skipped.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tidegate.embedded.kafka import EmbeddedKafka
from tidegate.embedded.kafka_jars import KAFKA_VERSION
from tidegate.embedded.process import free_port
from tidegate.embedded.redis import EmbeddedRedis

__all__ = [
    "KAFKA_IMAGE",
    "REDIS_IMAGE",
    "choose",
    "handbook_path",
    "running_engine",
    "running_kafka",
    "running_redis",
]

KAFKA_IMAGE = f"apache/kafka:{KAFKA_VERSION}"
REDIS_IMAGE = "redis:8-alpine"
# An engine that does not answer this fast is not one to wait for in every test run.
_ENGINE_SECONDS = 5.0
_CONTAINER_SECONDS = 90


def _docker(*arguments: str) -> bool:
    """Whether a docker command succeeds at once."""
    if shutil.which("docker") is None:
        return False
    try:
        run = subprocess.run(
            ["docker", *arguments], capture_output=True, check=False, timeout=_ENGINE_SECONDS
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return run.returncode == 0


def running_engine() -> bool:
    """Whether a Docker engine answers."""
    return _docker("info")


def choose() -> str:
    """``containers`` or ``native``, as ``TIDEGATE_TEST_SERVICES`` and the machine allow."""
    wanted = os.environ.get("TIDEGATE_TEST_SERVICES", "auto")
    if wanted not in {"auto", "native", "containers"}:
        raise ValueError(
            f"TIDEGATE_TEST_SERVICES is {wanted!r}. Remedy: set it to auto, native or containers."
        )
    if wanted != "auto":
        return wanted
    return "containers" if _docker("image", "inspect", KAFKA_IMAGE, REDIS_IMAGE) else "native"


def _publish(ports: Any, inside: int, outside: int | None) -> None:
    """Publish a container's port on 127.0.0.1 only, which testcontainers' own methods can not say."""
    ports[inside] = ("127.0.0.1", outside)


@contextmanager
def running_kafka(kind: str, directory: Path) -> Iterator[str]:
    """Bootstrap address of an Apache Kafka that lives as long as the block."""
    if kind == "native":
        with EmbeddedKafka(directory) as broker:
            yield broker.bootstrap
        return
    from testcontainers.core.container import DockerContainer
    from testcontainers.core.wait_strategies import LogMessageWaitStrategy

    # The broker advertises one address, which must be the same inside and outside of the container.
    port = free_port()
    container = DockerContainer(KAFKA_IMAGE)
    _publish(container.ports, port, port)
    container.with_envs(
        KAFKA_NODE_ID="1",
        KAFKA_PROCESS_ROLES="broker,controller",
        KAFKA_LISTENERS=f"PLAINTEXT://:{port},CONTROLLER://:9093",
        KAFKA_ADVERTISED_LISTENERS=f"PLAINTEXT://127.0.0.1:{port}",
        KAFKA_CONTROLLER_LISTENER_NAMES="CONTROLLER",
        KAFKA_CONTROLLER_QUORUM_VOTERS="1@localhost:9093",
        KAFKA_LISTENER_SECURITY_PROTOCOL_MAP="CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT",
        KAFKA_OFFSETS_TOPIC_REPLICATION_FACTOR="1",
        KAFKA_TRANSACTION_STATE_LOG_REPLICATION_FACTOR="1",
        KAFKA_TRANSACTION_STATE_LOG_MIN_ISR="1",
        KAFKA_GROUP_INITIAL_REBALANCE_DELAY_MS="0",
        KAFKA_GROUP_MIN_SESSION_TIMEOUT_MS="1000",
        KAFKA_AUTO_CREATE_TOPICS_ENABLE="false",
        KAFKA_MESSAGE_MAX_BYTES="8388608",
    )
    container.waiting_for(
        LogMessageWaitStrategy("Kafka Server started").with_startup_timeout(_CONTAINER_SECONDS)
    )
    with container:
        yield f"127.0.0.1:{port}"


@contextmanager
def running_redis(kind: str, directory: Path) -> Iterator[str]:
    """URL of a redis-server (append-only, never evicting) that lives as long as the block."""
    if kind == "native":
        with EmbeddedRedis(directory, appendonly=True) as server:
            yield server.url
        return
    from testcontainers.core.container import DockerContainer
    from testcontainers.core.wait_strategies import LogMessageWaitStrategy

    container = DockerContainer(REDIS_IMAGE)
    _publish(container.ports, 6379, None)
    container.with_command("redis-server --appendonly yes --maxmemory-policy noeviction")
    container.waiting_for(
        LogMessageWaitStrategy("Ready to accept connections").with_startup_timeout(_CONTAINER_SECONDS)
    )
    with container:
        yield f"redis://127.0.0.1:{container.get_exposed_port(6379)}/0"


def handbook_path() -> Path:
    """The handbook's transactions (Parquet); raises FileNotFoundError with the remedy when absent."""
    repository = Path(__file__).resolve().parents[1]
    folder = Path(os.environ.get("TIDEGATE_DATA") or repository.parent / "shared" / "data")
    path = folder / "fdh" / "transactions.parquet"
    if not path.is_file():
        raise FileNotFoundError(
            f"the handbook data set is not at {path}. Remedy: set TIDEGATE_DATA to the folder "
            "that holds fdh/transactions.parquet."
        )
    return path


if __name__ == "__main__":
    kind = choose()
    print(f"services for tests: Apache Kafka {KAFKA_VERSION} and Redis, {kind} (TIDEGATE_TEST_SERVICES)")
