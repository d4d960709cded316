"""Rules under one contract: in a real SQLite file, in a real PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from domain.clock import ManualClock
from domain.rule_records import Rule
from lifecycle.database import Database
from lifecycle.rule_store import SqlRuleStore
from tests.contract.check_rule_store import CheckRuleStore, refuse_broken
from tests.models import NOW


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(NOW)


@pytest.fixture
def store(database: Database, clock: ManualClock) -> SqlRuleStore:
    # somebody else's rules in the same database are none of ours
    other = SqlRuleStore(database, "logins", clock, refuse_broken)
    other.apply([Rule(id="a", when="true", score_effect=0.5)], [], by="x", reason="y")
    return SqlRuleStore(database, "payments", clock, refuse_broken)


class TestInSqlite(CheckRuleStore):
    @pytest.fixture
    def database(self, tmp_path: Path) -> Iterator[Database]:
        database = Database(f"sqlite:///{tmp_path}/rules.sqlite")
        yield database
        database.close()


@pytest.mark.postgres
class TestInPostgres(CheckRuleStore):
    @pytest.fixture
    def database(self, postgres_url: str) -> Iterator[Database]:
        database = Database(postgres_url)
        yield database
        database.close()
