"""Entries of lists from CSV files: what is taken, and what is refused before anything is stored."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest

from domain.clock import ManualClock
from domain.errors import Fatal
from domain.list_values import ListInvalid, ListValues
from domain.privacy import Protector
from lifecycle.audit_trail import AuditTrail
from lifecycle.database import Database
from lifecycle.list_import import Columns, Imported, import_file
from lifecycle.list_store import SqlListStore
from tests.models import NOW
from tests.unit.domain.samples import payments

PROTECTOR = Protector(b"k" * 32)
VALUES = ListValues(payments(), PROTECTOR)


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    database = Database(f"sqlite:///{tmp_path_factory.mktemp('lists')}/lists.sqlite")
    yield database
    database.close()


@pytest.fixture
def store(database: Database, request: pytest.FixtureRequest) -> SqlListStore:
    # a pipeline for each test: making the tables takes longer than all the rest
    return SqlListStore(database, request.node.name, ManualClock(NOW))


def write(directory: Path, text: str) -> Path:
    path = directory / "entries.csv"
    path.write_text(text, encoding="utf-8")
    return path


def taken(path: Path, store: SqlListStore, *, field: str = "account", **more: object) -> Imported:
    return import_file(path, store, VALUES, "bad", field, by="x", reason="y", **more)  # type: ignore[arg-type]


def test_rows_are_taken_with_what_they_say_and_else_what_is_said_of_all(
    store: SqlListStore, tmp_path: Path
) -> None:
    path = write(
        tmp_path,
        '\ufeffcard,expires_at,note,other\nA-1,2026-01-31T12:00:00Z,,x\nA-2,,"two, words",x\n'
        "A-1,2026-02-01T00:00:00+01:00,,x\n",
    )
    done = taken(path, store, columns=Columns(value="card"), expires_at=77, note="n", source="feed")
    assert (done.rows, done.added, done.renewed, done.same, done.version) == (3, 2, 0, 1, 2)
    found = {entry.value: entry for entry in store.entries("bad")}
    one, two = found[PROTECTOR.protect("A-1")], found[PROTECTOR.protect("A-2")]
    assert (one.expires_at, one.note, one.source) == (1_769_900_400_000_000, "n", "feed")
    assert (two.expires_at, two.note, two.source) == (77, "two, words", "feed")
    assert taken(path, store, columns=Columns(value="card"), expires_at=77, note="n", source="feed").same == 3
    gone = taken(path, store, columns=Columns(value="card"), remove=True)
    assert (gone.removed, gone.rows) == (2, 3)
    assert store.entries("bad") == []


def test_a_mistake_anywhere_stores_nothing_and_shows_no_value(store: SqlListStore, tmp_path: Path) -> None:
    bad = ["A" * 17, "A-2,tomorrow", "A-3,2026-01-31T12:00:00"]
    done = taken(write(tmp_path, "value,expires_at\nA-1,\n" + "\n".join(bad) + "\n"), store)
    assert [mistake.partition(":")[0] for mistake in done.mistakes] == ["line 3", "line 4", "line 5"]
    assert "AAAA" not in " ".join(done.mistakes)
    assert (done.rows, store.version()) == (0, 0)


@pytest.mark.parametrize("text", ["", "other\nA-1\n", 'value\n"A-1\n'])
def test_what_is_no_such_file_is_refused(store: SqlListStore, tmp_path: Path, text: str) -> None:
    with pytest.raises(Fatal) as refused:
        taken(write(tmp_path, text), store)
    assert refused.value.remedy
    assert store.version() == 0


def test_other_bytes_and_no_file_are_refused(store: SqlListStore, tmp_path: Path) -> None:
    path = tmp_path / "latin.csv"
    path.write_bytes("value\nA-\xe9\n".encode("latin-1"))
    for wrong in (path, tmp_path / "none.csv"):
        with pytest.raises(Fatal, match="can not be read"):
            taken(wrong, store)
    with pytest.raises(ListInvalid):
        taken(write(tmp_path, "value\n1\n"), store, field="amount")


def test_a_long_file_goes_in_by_portions_in_bounded_memory(
    store: SqlListStore, database: Database, tmp_path: Path
) -> None:
    path = write(tmp_path, "value,note\n" + "".join(f"{n},{'x' * 200}\n" for n in range(12_000)))
    steps: list[int] = []
    tracemalloc.start()
    try:
        done = taken(path, store, field="shop", progress=lambda so_far: steps.append(so_far.rows))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (done.rows, done.added, done.version) == (12_000, 12_000, 12_000)
    assert steps == [5_000, 10_000, 12_000]
    # a portion is some 2 MB of entries, and as much again on its way into the database
    assert peak < 40_000_000
    with database.reading() as connection:
        records = AuditTrail(store.pipeline).after(connection, 0, 10)
    assert [record.action for record in records] == ["list.put"] * 3
