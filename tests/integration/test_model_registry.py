"""The registry's database: two who promote at once, opening it first, and what can be wrong with it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path
from threading import Barrier
from typing import TypeVar

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import text

from domain.clock import SystemClock
from domain.errors import Fatal, RegistryConflict, RegistryUnavailable
from lifecycle import (  # noqa: F401  # every table of ours is in metadata
    case_tables,
    erasure_tables,
    key_tables,
    rule_tables,
    webhook_tables,
)
from lifecycle.audit import AuditRecord
from lifecycle.database import Database
from lifecycle.registry import RegistryState
from lifecycle.registry_sql import SqlModelRegistry
from lifecycle.registry_tables import metadata
from tests.contract.check_model_registry import add

T = TypeVar("T")


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A new, empty database of either kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/registry.sqlite"
    found: str = request.getfixturevalue("postgres_url")
    return found


def opened(url: str) -> SqlModelRegistry:
    return SqlModelRegistry(Database(url), "payments", SystemClock())


def at_once(*calls: Callable[[], T]) -> list[T | BaseException]:
    """What becomes of ``calls`` that begin together."""
    barrier = Barrier(len(calls))

    def run(call: Callable[[], T]) -> T | BaseException:
        barrier.wait(60)
        try:
            return call()
        except Exception as error:
            return error

    with ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(run, calls))


def test_of_two_who_promote_at_once_exactly_one_wins(url: str) -> None:
    with closing(opened(url)) as first, closing(opened(url)) as second:
        for epoch in range(5):
            challengers = [add(first, f"{name}{epoch}") for name in "ab"]

            def promote(registry: SqlModelRegistry, version: str, epoch: int = epoch) -> RegistryState:
                return registry.promote(version, epoch=epoch, reason="x", by=version, force=True)

            results = at_once(
                lambda a=challengers[0]: promote(first, a),  # type: ignore[misc]
                lambda b=challengers[1]: promote(second, b),  # type: ignore[misc]
            )
            won = [r for r in results if isinstance(r, RegistryState)]
            assert len(won) == 1, results
            assert sum(isinstance(r, RegistryConflict) for r in results) == 1, results
            assert first.state() == second.state() == won[0]
        assert len(first.history()) == 5
        assert sum(record.action == "promote" for record in first.audit()) == 5
        assert first.verify_audit() is None


def test_processes_that_fight_over_the_champion_never_share_an_epoch(tmp_path: Path) -> None:
    url, epochs = f"sqlite:///{tmp_path}/registry.sqlite", 20
    with closing(opened(url)) as registry, ExitStack() as stack:
        running = []
        for name in "ab":
            versions = [add(registry, f"{name}{epoch}") for epoch in range(epochs)]
            command = [sys.executable, "-m", "tests.integration.promote_program", url, *versions]
            root = Path(__file__).resolve().parents[2]
            process = stack.enter_context(
                subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, text=True)
            )
            stack.callback(process.kill)
            running.append(process)
        wins = []
        for process in running:
            out, _ = process.communicate(timeout=120)
            assert process.returncode == 0
            wins.append(int(out.split()[0]))
        assert sum(wins) == epochs
        assert [state.epoch for state in registry.history()] == list(range(epochs, 0, -1))
        assert sum(record.action == "promote" for record in registry.audit()) == epochs
        assert registry.verify_audit() is None


def test_many_notes_at_once_make_one_chain(url: str) -> None:
    with closing(opened(url)) as first, closing(opened(url)) as second:

        def notes(registry: SqlModelRegistry, who: str) -> list[AuditRecord]:
            return [registry.note("note", who, by=who, reason=str(n)) for n in range(20)]

        results = at_once(lambda: notes(first, "a"), lambda: notes(second, "b"))
        assert all(isinstance(r, list) for r in results), results
        assert [r.number for r in first.audit()] == list(range(1, 41))
        assert first.verify_audit() is None


def test_one_of_many_who_open_a_new_database_makes_the_tables(url: str) -> None:
    results = at_once(*[lambda: opened(url)] * 4)
    registries = [r for r in results if isinstance(r, SqlModelRegistry)]
    assert len(registries) == 4, results
    add(registries[0], "a")
    assert [len(r.models()) for r in registries] == [1, 1, 1, 1]
    for registry in registries:
        registry.close()


def test_the_migrations_make_what_the_code_expects(url: str) -> None:
    with closing(Database(url)) as database, database.reading() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, metadata) == []


def test_a_changed_audit_is_found(url: str) -> None:
    database = Database(url)
    with closing(SqlModelRegistry(database, "payments", SystemClock())) as registry:
        for number in range(3):
            registry.note("note", "x", by="ana", reason=str(number))
        with database.writing() as connection:
            connection.execute(text("UPDATE audit SET by = 'eve' WHERE number = 2"))
        broken = registry.verify_audit()
        assert broken is not None
        assert broken.number == 2
        with database.writing() as connection:
            connection.execute(text("UPDATE audit SET by = 'ana' WHERE number = 2"))
        assert registry.verify_audit() is None
        with database.writing() as connection:
            connection.execute(text("DELETE FROM audit WHERE number = 3"))
        broken = registry.verify_audit()
        assert broken is not None
        assert broken.number == 3


@pytest.mark.postgres
def test_one_reading_sees_one_state_while_others_write(postgres_url: str) -> None:
    database = Database(postgres_url)
    with closing(SqlModelRegistry(database, "payments", SystemClock())) as registry:
        registry.note("note", "x", by="ana", reason="before")
        with database.reading() as connection:
            counting = text("SELECT count(*) FROM audit")
            assert connection.execute(counting).scalar_one() == 1
            registry.note("note", "x", by="ana", reason="meanwhile")
            assert connection.execute(counting).scalar_one() == 1
        assert len(registry.audit()) == 2


def test_tables_of_a_newer_version_are_left_alone(url: str) -> None:
    with closing(Database(url)) as database, database.writing() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(Fatal, match="another version") as error:
        Database(url)
    assert error.value.remedy


@pytest.mark.postgres
def test_a_database_that_is_away_is_retriable_and_its_password_stays_secret(postgres_url: str) -> None:
    server = postgres_url.rpartition("@")[2].partition("/")[0]
    with pytest.raises(RegistryUnavailable) as error:
        Database(f"postgresql://tidegate:topsecret@{server}/absent")
    assert error.value.remedy
    assert "topsecret" not in str(error.value)
    assert server in str(error.value)


def test_a_file_that_is_no_database_is_named(tmp_path: Path) -> None:
    (tmp_path / "registry.sqlite").write_bytes(b"not a database " * 100)
    with pytest.raises(RegistryUnavailable, match="not a database"):
        Database(f"sqlite:///{tmp_path}/registry.sqlite")


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("topsecret", "no database URL"),
        ("mysql://u:topsecret@h/d", "mysql"),
        ("sqlite://", "no file"),
        ("sqlite:///:memory:", "no file"),
    ],
)
def test_urls_that_can_not_be_used(url: str, text: str) -> None:
    with pytest.raises(Fatal, match=text) as error:
        Database(url)
    assert error.value.remedy
    assert "topsecret" not in str(error.value)


def test_the_folder_of_a_database_is_made(tmp_path: Path) -> None:
    with closing(opened(f"sqlite:///{tmp_path}/a/b/registry.sqlite")) as registry:
        assert registry.state().epoch == 0
    assert (tmp_path / "a" / "b" / "registry.sqlite").is_file()
