"""``tidegate cases`` over a real SQLite database."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from typer.testing import CliRunner, Result

from domain.clock import SystemClock
from domain.verdict import Alert, DecisionName, Reason, Source, Versions
from lifecycle.case_records import ArrivedAlert, CaseConflict, HeardAlert, UnknownCase
from lifecycle.case_store import SqlCaseStore
from lifecycle.database import Database
from tidegate.cli import app
from tidegate.loading import load
from tidegate.settings import Settings


@pytest.fixture
def database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Database]:
    url = f"sqlite:///{tmp_path}/cases.sqlite"
    monkeypatch.setenv("TIDEGATE_DATABASE_URL", url)
    monkeypatch.setenv("COLUMNS", "250")
    made = Database(url)
    yield made
    made.close()


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["cases", *arguments])


def printed(*arguments: str) -> dict[str, Any]:
    result = run(*arguments, "--json")
    assert result.exit_code == 0, result.output
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def take(database: Database, *amounts: float) -> None:
    """A case for each amount, one after the other."""
    pipeline, clock = load(Settings().pipeline), SystemClock()
    store = SqlCaseStore(database, pipeline.name, pipeline.reviewing, clock)
    for offset, amount in enumerate(amounts):
        entities = {"account_id": f"a{offset}", "merchant_id": "m"}
        now = clock.now()
        alert = Alert(
            id=f"t{offset}",
            event_time=now,
            scored_at=now,
            entities=entities,
            score=1.0,
            decision=DecisionName.REVIEW,
            reasons=[Reason("high", "amount", 9.0, 1.0, 2.0, 0.5, "[red]amount\x1b[2J is high")],
            flags=[],
            versions=Versions("1", 1, "", {}),
            source=Source("payments.events", 0, offset),
            amount=amount,
        )
        raw = msgspec.json.encode(alert)
        heard = msgspec.json.decode(raw, type=HeardAlert)
        store.take("log", [ArrivedAlert(0, offset, raw, heard, ("account_id", f"a{offset}"))])


def test_without_cases_it_says_who_makes_them(database: Database) -> None:
    assert "tidegate caser" in run("list").stdout
    assert printed("list") == {"cases": [], "next": None}
    result = run("show", "1")
    assert isinstance(result.exception, UnknownCase)


def test_the_queue_is_listed_page_by_page_and_a_case_is_shown(database: Database) -> None:
    take(database, 5.0, 5_000.0, 50.0)
    first = printed("list", "--limit", "2")
    assert [case["id"] for case in first["cases"]] == [2, 3]
    assert [case["id"] for case in printed("list", "--cursor", first["next"], "--limit", "2")["cases"]] == [1]
    text = run("list", "--limit", "2").stdout
    for part in ("5,000.00", "account_id a1", "review", "more: --cursor"):
        assert part in text, part
    text = run("show", "2").stdout
    for part in ("revision 1", "t1", "[red]amount\\x1b[2J is high", "5,000.00", "nobody", "opened", "caser"):
        assert part in text, part
    assert "\x1b[2J" not in text
    assert printed("show", "2")["alerts"][0]["alert"]["reasons"][0]["feature"] == "amount"


def test_a_case_is_assigned_commented_and_decided(database: Database) -> None:
    take(database, 5.0)
    assert "anna has it" in run("assign", "1", "--to", "anna").stdout
    assert [case["id"] for case in printed("list", "--assignee", "anna")["cases"]] == [1]
    assert printed("assign", "1", "--nobody")["assignee"] is None
    assert run("assign", "1", "--nobody", "--to", "bo").exit_code == 2
    assert run("comment", "1", " ").exit_code == 2
    assert printed("comment", "1", "called the holder")["revision"] == 4
    result = run("decide", "1", "fraud", "--revision", "3")
    assert isinstance(result.exception, CaseConflict)
    assert run("decide", "1", "perhaps").exit_code == 2
    decided = printed("decide", "1", "fraud", "--note", "stolen", "--revision", "4")
    assert (decided["decision"], decided["note"], decided["revision"]) == ("fraud", "stolen", 5)
    assert "command line" in decided["decided_by"]
    assert printed("list")["cases"] == []
    assert [case["id"] for case in printed("list", "--status", "decided")["cases"]] == [1]
    assert "1, to be written" in run("show", "1").stdout
    found = printed("stats")
    assert (found["decisions"]["fraud"], found["labels_pending"], found["open"]) == (1, 1, 0)
    assert "half within" in run("stats").stdout
    assert printed("tidy", "--days", "1") == {"deleted": 0}
