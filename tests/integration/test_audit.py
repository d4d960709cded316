"""The audit on real databases, its head on a real Kafka: what was changed afterwards is found."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Producer
from msgspec.structs import asdict, replace
from sqlalchemy import Connection, delete, insert, select, text, update
from typer.testing import CliRunner, Result

from domain.clock import ManualClock
from lifecycle.audit import GENESIS, AuditHead, AuditRecord, chained
from lifecycle.audit_trail import AuditTrail
from lifecycle.database import Database
from lifecycle.registry_tables import audit, registries
from stream.audit_topic import HeadExporter, exported_heads
from stream.kafka import KafkaConnection
from stream.topics import Topics, create_topics
from tests.models import NOW
from tidegate.cli import app
from tidegate.keeper import Keeper, head_chore

TRAIL = AuditTrail("payments")
PIPELINE = Path(__file__).resolve().parents[1] / "system" / "small_pipeline.yaml"


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    """Five records in a database of either kind."""
    url = f"sqlite:///{tmp_path}/t.sqlite"
    if request.param == "postgres":
        url = request.getfixturevalue("postgres_url")
    with closing(Database(url)) as opened:
        note(opened, TRAIL, 5)
        yield opened


def note(database: Database, trail: AuditTrail, count: int) -> None:
    for number in range(count):
        with trail.changing(database) as connection:
            trail.note(connection, "rule.add", f"r{number}", by="ana", reason="because", now=NOW + number)


def head_of(database: Database, trail: AuditTrail = TRAIL) -> AuditHead:
    with database.reading() as connection:
        return trail.head(connection, now=NOW)


def altered(connection: Connection) -> None:
    connection.execute(update(audit).where(audit.c.number == 3).values(by="eve"))


def removed(connection: Connection) -> None:
    connection.execute(delete(audit).where(audit.c.number == 3))


def removed_and_renumbered(connection: Connection) -> None:
    removed(connection)
    for number in (4, 5):
        connection.execute(update(audit).where(audit.c.number == number).values(number=number - 1))


def reordered(connection: Connection) -> None:
    for before, after in ((3, 99), (4, 3), (99, 4)):
        connection.execute(update(audit).where(audit.c.number == before).values(number=after))


def cut_with_its_head(connection: Connection) -> None:
    """The last records go, and the head that the database keeps is set back to match."""
    connection.execute(delete(audit).where(audit.c.number > 2))
    last = connection.execute(select(audit.c.hash).where(audit.c.number == 2)).scalar_one()
    connection.execute(update(registries).values(audit_number=2, audit_hash=last))


def rewritten(connection: Connection) -> None:
    """By somebody who owns the database and knows how the chain is made: whole, in itself."""
    previous = GENESIS
    for row in connection.execute(select(audit).order_by(audit.c.number)).all():
        record = chained(replace(AuditRecord(**row._asdict()), by="eve", previous="", hash=""), previous)
        previous = record.hash
        connection.execute(delete(audit).where(audit.c.number == record.number))
        connection.execute(insert(audit).values(**asdict(record)))
    connection.execute(update(registries).values(audit_hash=previous))


@pytest.mark.parametrize(
    ("attack", "alone", "with_head"),
    [
        (altered, 3, 3),
        (removed, 3, 3),
        (removed_and_renumbered, 3, 3),
        (reordered, 3, 3),
        (cut_with_its_head, None, 3),
        (rewritten, None, 5),
    ],
)
def test_what_was_done_to_a_record_is_found(
    database: Database, attack: Callable[[Connection], None], alone: int | None, with_head: int
) -> None:
    head = head_of(database)
    with database.reading() as connection:
        assert TRAIL.verify(connection, [head]) is None
    with database.writing() as connection:
        attack(connection)
    with database.reading() as connection:
        found = TRAIL.verify(connection)
        assert (None if found is None else found.number) == alone
        broken = TRAIL.verify(connection, [head])
    assert broken is not None
    assert broken.number == with_head, broken


def test_a_chain_that_goes_on_fits_every_head_that_was_kept(database: Database) -> None:
    heads = [head_of(database)]
    note(database, TRAIL, 2)
    heads.append(head_of(database))
    with database.reading() as connection:
        assert TRAIL.verify(connection, heads) is None
        forged = replace(heads[0], hash="1" * 64)
        broken = TRAIL.verify(connection, [*heads, forged])
    assert broken is not None
    assert "two heads" in broken.why


@pytest.mark.kafka
def test_the_keeper_exports_each_head_once_and_every_exporter_knows_the_others(
    kafka: str, topic_prefix: str, tmp_path: Path
) -> None:
    connection, trail = KafkaConnection(kafka), AuditTrail(topic_prefix)
    create_topics({"bootstrap.servers": kafka}, topic_prefix, 1)
    with closing(Database(f"sqlite:///{tmp_path}/t.sqlite")) as database:

        def keeper(name: str) -> Keeper:
            exporter = HeadExporter(connection, topic_prefix, name)
            return Keeper({"head": head_chore(lambda: database, trail, exporter, ManualClock(NOW))})

        first, second = keeper("a"), keeper("b")
        first.round()
        assert exported_heads(connection, topic_prefix).heads == []
        note(database, trail, 2)
        first.round()
        first.round()
        second.round()
        assert exported_heads(connection, topic_prefix).heads == [head_of(database, trail)]
        note(database, trail, 1)
        second.round()
        heads = exported_heads(connection, topic_prefix).heads
        assert [head.number for head in heads] == [2, 3]
        with database.reading() as reading:
            assert trail.verify(reading, heads) is None


@pytest.mark.kafka
def test_the_commands_find_a_chain_made_anew_from_the_topic_or_a_file(
    kafka: str, topic_prefix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, heads = f"sqlite:///{tmp_path}/t.sqlite", tmp_path / "heads.jsonl"
    declared = PIPELINE.read_text().splitlines()
    renamed = [f"pipeline: {topic_prefix}" if line.startswith("pipeline:") else line for line in declared]
    (tmp_path / "pipeline.yaml").write_text("\n".join(renamed))
    monkeypatch.setenv("TIDEGATE_PIPELINE", str(tmp_path / "pipeline.yaml"))
    monkeypatch.setenv("TIDEGATE_DATABASE_URL", url)
    monkeypatch.setenv("TIDEGATE_KAFKA_BOOTSTRAP", kafka)
    monkeypatch.setenv("COLUMNS", "200")
    create_topics({"bootstrap.servers": kafka}, topic_prefix, 1)
    trail = AuditTrail(topic_prefix)

    def run(*arguments: str, code: int = 0) -> Result:
        result = CliRunner().invoke(app, ["audit", *arguments])
        assert result.exit_code == code, (result.output, result.exception)
        return result

    def verified(*arguments: str, code: int = 0) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(run("verify", "--json", *arguments, code=code).stdout)
        return found

    with closing(Database(url)) as database:
        note(database, trail, 3)
        assert [r["number"] for r in json.loads(run("show", "--json").stdout)["records"]] == [3, 2, 1]
        assert "rule.add" in run("show", "--limit", "1").stdout
        assert "head 3 is written" in run("export").stdout
        assert "head 3 was there" in run("export").stdout
        run("export", "--head", str(heads), "--records", str(tmp_path / "all.jsonl"))
        assert len((tmp_path / "all.jsonl").read_text().splitlines()) == 3
        assert verified() == {"whole": True, "broken": None, "records": 3, "heads": 1, "unreadable_heads": 0}
        stranger = Producer({"bootstrap.servers": kafka})
        stranger.produce(Topics(topic_prefix).audit, b"nonsense", partition=0)
        stranger.flush(30)
        assert verified()["unreadable_heads"] == 1
        with database.writing() as connection:
            rewritten(connection)
        assert verified("--no-topic")["whole"] is True
        assert verified(code=1)["broken"]["number"] == 3
        assert verified("--no-topic", "--head", str(heads), code=1)["broken"]["number"] == 3
        assert "rewritten" in run("verify", code=1).stdout
        with database.writing() as connection:
            connection.execute(text("DELETE FROM audit"))
            connection.execute(text("DELETE FROM registries"))
        assert verified(code=1)["broken"]["number"] == 1
        (tmp_path / "bad.jsonl").write_text("{}\n")
        assert "no head" in str(run("verify", "--head", str(tmp_path / "bad.jsonl"), code=1).exception)
