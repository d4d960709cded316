"""Lists under one contract: in a real SQLite file, in a real PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from domain.clock import ManualClock
from lifecycle.database import Database
from lifecycle.list_store import NewEntry, SqlListStore
from tests.contract.check_list_store import CheckListStore
from tests.models import NOW


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(NOW)


@pytest.fixture
def lists(database: Database, clock: ManualClock) -> SqlListStore:
    # somebody else's lists in the same database are none of ours
    other = SqlListStore(database, "logins", clock)
    other.put("trusted", [NewEntry(field="account", value="a")], by="x", reason="y")
    return SqlListStore(database, "payments", clock)


class TestInSqlite(CheckListStore):
    @pytest.fixture
    def database(self, tmp_path: Path) -> Iterator[Database]:
        database = Database(f"sqlite:///{tmp_path}/lists.sqlite")
        yield database
        database.close()


@pytest.mark.postgres
class TestInPostgres(CheckListStore):
    @pytest.fixture
    def database(self, postgres_url: str) -> Iterator[Database]:
        database = Database(postgres_url)
        yield database
        database.close()
