"""Fixtures for every suite: real services started once, and own instances for tests that break them."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import redis

from domain.compiled import forget_stale_code
from tests import services
from tidegate.embedded.kafka import EmbeddedKafka
from tidegate.embedded.redis import EmbeddedRedis

if TYPE_CHECKING:
    from tests.postgres_process import EmbeddedPostgres

# Cheap suites first: a mistake shows in seconds, before any broker starts.
_ORDER = ("unit", "contract", "integration", "system", "browser")


def pytest_sessionstart() -> None:
    """A kernel that was changed must be compiled anew, also where another file calls it."""
    forget_stale_code(Path(__file__).resolve().parent.parent)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run unit, contract, integration, system in this order whatever the command line says."""

    def rank(item: pytest.Item) -> int:
        return next((i for i, name in enumerate(_ORDER) if name in item.path.parts), len(_ORDER))

    items.sort(key=rank)


@pytest.fixture(scope="session")
def service_kind() -> str:
    """``containers`` or ``native``."""
    return services.choose()


@pytest.fixture(scope="session")
def kafka(service_kind: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """``bootstrap.servers`` of one real Apache Kafka for the whole run; topics must be created."""
    with services.running_kafka(service_kind, tmp_path_factory.mktemp("kafka")) as bootstrap:
        yield bootstrap


@pytest.fixture(scope="session")
def redis_server(service_kind: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URL of one real redis-server for the whole run."""
    with services.running_redis(service_kind, tmp_path_factory.mktemp("redis")) as url:
        yield url


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedPostgres]:
    """One real PostgreSQL for the whole run."""
    # only here: who runs other tests needs no driver
    from tests.postgres_process import EmbeddedPostgres

    with EmbeddedPostgres(tmp_path_factory.mktemp("postgres")) as server:
        yield server


@pytest.fixture
def postgres_url(postgres: EmbeddedPostgres) -> str:
    """A new database in it."""
    return postgres.new_database()


@pytest.fixture
def topic_prefix() -> str:
    """A pipeline name no other test uses: prefix of topics and Redis keys."""
    return f"t{uuid.uuid4().hex[:10]}"


@pytest.fixture
def redis_url(redis_server: str) -> str:
    """The shared redis-server, emptied."""
    with redis.Redis.from_url(redis_server) as client:
        client.flushall()
    return redis_server


@pytest.fixture
def new_kafka(tmp_path: Path) -> Iterator[Callable[[], EmbeddedKafka]]:
    """Starts an Apache Kafka of the test's own, to kill, pause and restart."""
    with ExitStack() as stack:
        count = iter(range(100))
        yield lambda: stack.enter_context(EmbeddedKafka(tmp_path / f"kafka-{next(count)}"))


@pytest.fixture
def new_redis(tmp_path: Path) -> Iterator[Callable[[], EmbeddedRedis]]:
    """Starts a redis-server of the test's own (append-only), to kill, pause and restart."""
    with ExitStack() as stack:
        count = iter(range(100))
        yield lambda: stack.enter_context(EmbeddedRedis(tmp_path / f"redis-{next(count)}", appendonly=True))


@pytest.fixture(scope="session")
def fdh_transactions() -> Path:
    """The handbook's transactions, 1.75 million rows (Parquet)."""
    return services.handbook_path()
