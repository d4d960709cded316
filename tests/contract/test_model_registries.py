"""Registries under one contract: in memory, in a real SQLite file, in a real PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from domain.clock import ManualClock
from lifecycle.database import Database
from lifecycle.registry import ModelRegistry
from lifecycle.registry_memory import MemoryModelRegistry
from lifecycle.registry_sql import SqlModelRegistry
from tests.contract.check_model_registry import CheckModelRegistry
from tests.models import NOW


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(NOW)


class TestInMemory(CheckModelRegistry):
    @pytest.fixture
    def registry(self, clock: ManualClock) -> ModelRegistry:
        return MemoryModelRegistry("payments", clock)


class TestInSqlite(CheckModelRegistry):
    @pytest.fixture
    def registry(self, clock: ManualClock, tmp_path: Path) -> Iterator[ModelRegistry]:
        database = Database(f"sqlite:///{tmp_path}/registry.sqlite")
        # somebody else's models in the same database are none of ours
        other = SqlModelRegistry(database, "logins", clock)
        other.start_run("person", by="x")
        registry = SqlModelRegistry(database, "payments", clock)
        yield registry
        registry.close()


@pytest.mark.postgres
class TestInPostgres(CheckModelRegistry):
    @pytest.fixture
    def registry(self, clock: ManualClock, postgres_url: str) -> Iterator[ModelRegistry]:
        database = Database(postgres_url)
        registry = SqlModelRegistry(database, "payments", clock)
        yield registry
        registry.close()
