"""``tidegate rules`` and ``tidegate lists``: over a real SQLite database and a real Kafka."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from domain.clock import SystemClock
from domain.errors import Fatal, RulesInvalid
from domain.privacy import Protector
from lifecycle.rule_store import UnknownRule
from stream.kafka import KafkaConnection
from stream.rules_follower import RulesFollower
from stream.topics import create_topics
from tests.system.scene import PRIVACY_KEY, eventually
from tidegate.cli import app
from tidegate.loading import load

pytestmark = pytest.mark.kafka
PIPELINE = Path(__file__).resolve().parents[1] / "system" / "small_pipeline.yaml"
RULES = """\
rules:
  - {id: big, when: amount > 900.0, action: block, reason: a large amount}
  - {id: known, when: account in lists.bad, action: review}
"""


@dataclass
class Desk:
    """Somebody at a terminal, in a folder."""

    kafka: str
    folder: Path

    def run(self, *arguments: str) -> str:
        result = CliRunner().invoke(app, list(arguments))
        assert result.exit_code == 0, (result.output, result.exception)
        return result.stdout

    def json(self, *arguments: str) -> Any:
        return json.loads(self.run(*arguments, "--json"))

    def fails(self, *arguments: str) -> BaseException | None:
        result = CliRunner().invoke(app, list(arguments))
        assert result.exit_code != 0
        return result.exception

    def follows(self, epoch: int, version: int) -> RulesFollower:
        """A worker's view once it has come so far."""
        pipeline = load(self.folder / "pipeline.yaml")
        follower = RulesFollower(KafkaConnection(self.kafka), pipeline, SystemClock(), client_id="test")
        follower.begin()

        def reached() -> bool:
            follower.poll()
            return (follower.epoch, follower.lists_version) == (epoch, version)

        eventually(f"rules {epoch}, lists {version}", reached)
        return follower


@pytest.fixture
def desk(kafka: str, topic_prefix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Desk:
    text = PIPELINE.read_text().replace("pipeline: small", f"pipeline: {topic_prefix}")
    (tmp_path / "pipeline.yaml").write_text(text)
    (tmp_path / "rules.yaml").write_text(RULES)
    for name, value in {
        "PIPELINE": tmp_path / "pipeline.yaml",
        "DATABASE_URL": f"sqlite:///{tmp_path}/rules.sqlite",
        "STATE_DIR": tmp_path / "state",
        "KAFKA_BOOTSTRAP": kafka,
        "PRIVACY_KEY": PRIVACY_KEY,
    }.items():
        monkeypatch.setenv(f"TIDEGATE_{name}", str(value))
    create_topics({"bootstrap.servers": kafka}, topic_prefix, 1)
    return Desk(kafka, tmp_path)


def test_rules_are_applied_looked_at_taken_away_and_restored(desk: Desk) -> None:
    assert "no rules" in desk.run("rules", "list")
    file = str(desk.folder / "rules.yaml")
    applied = desk.json("rules", "apply", file, "--reason", "begin")["in_force"]
    assert (applied["epoch"], [rule["id"] for rule in applied["rules"]]) == (1, ["big", "known"])
    assert desk.json("rules", "apply", file, "--reason", "again")["in_force"]["epoch"] == 1
    desk.follows(1, 0).close()
    assert "big" in desk.run("rules", "list")
    assert desk.json("rules", "show", "big")["rule"]["when"] == "amount > 900.0"
    assert desk.json("rules", "delete", "big", "--reason", "x", "--epoch", "1")["in_force"]["epoch"] == 2
    restored = desk.json("rules", "restore", "1", "--reason", "back")["in_force"]
    assert (restored["epoch"], len(restored["rules"])) == (3, 2)
    assert [one["epoch"] for one in desk.json("rules", "history")["rule_sets"]] == [3, 2, 1]
    assert "knew already: epoch 3" in desk.run("rules", "publish")
    desk.follows(3, 0).close()


def test_what_is_wrong_with_rules_is_said_and_changes_nothing(desk: Desk) -> None:
    wrong = desk.folder / "wrong.yaml"
    for text in (
        "rules: [{id: big, when: amunt > 1.0, action: block}]",
        "rules: [",
        "- 1",
        "rules: [{id: X}]",
    ):
        wrong.write_text(text)
        assert isinstance(desk.fails("rules", "apply", str(wrong), "--reason", "x"), RulesInvalid)
    assert isinstance(desk.fails("rules", "apply", str(desk.folder / "none"), "--reason", "x"), RulesInvalid)
    assert isinstance(desk.fails("rules", "show", "big"), UnknownRule)
    assert isinstance(desk.fails("rules", "restore", "4", "--reason", "x"), UnknownRule)
    assert desk.json("rules", "list")["in_force"]["epoch"] == 0


def test_lists_are_filled_from_a_file_and_by_hand(desk: Desk) -> None:
    desk.run("rules", "apply", str(desk.folder / "rules.yaml"), "--reason", "begin")
    cards = desk.folder / "cards.csv"
    cards.write_text("card,expires_at\nacc-1,\nacc-2,2024-03-01T00:00:00Z\nacc-3,\n")
    arguments = (
        "lists",
        "import",
        "bad",
        str(cards),
        "--field",
        "account",
        "--column",
        "card",
        "--reason",
        "feed",
    )
    assert desk.json(*arguments) == {
        "rows": 3, "added": 3, "renewed": 0, "removed": 0, "same": 0, "version": 3,
    }  # fmt: skip
    assert desk.json(*arguments)["same"] == 3
    desk.run("lists", "remove", "bad", "account", "acc-3", "--reason", "paid")
    desk.run("lists", "add", "tag:vip", "account", "acc-7", "--expires", "30d", "--reason", "gold")
    desk.run(
        "lists", "snooze", "account", "acc-7", "--expires", "2030-01-01T00:00:00Z", "--reason", "holiday"
    )
    follower = desk.follows(1, 6)
    try:
        protect = Protector(PRIVACY_KEY.encode()).protect
        times = np.full(3, 1_709_251_200_000_000, dtype=np.int64)
        asked = [protect(account) for account in ("acc-1", "acc-2", "acc-3")]
        assert follower.rules.lists.contains("bad", "account", asked, times).tolist() == [True, False, False]
        assert follower.rules.lists.contains("snoozed", "account", [protect("acc-7")], times[:1]).all()
    finally:
        follower.close()
    shown = desk.run("lists", "show", "bad")
    assert protect("acc-1") in shown
    assert "acc-1" not in shown
    assert "bad: 2 entries of account" in desk.run("lists", "list")
    gone = desk.json("lists", "prune", "bad", "--expired-for", "1d", "--reason", "tidying")
    assert (gone["removed"], gone["version"]) == (1, 7)
    assert "knew already: version 7" in desk.run("lists", "publish")
    cards.write_text("value\n" + "x" * 40 + "\n")
    assert isinstance(
        desk.fails("lists", "import", "bad", str(cards), "--field", "account", "--reason", "feed"), SystemExit
    )
    assert desk.json("lists", "list")["version"] == 7


def test_the_database_keeps_what_the_workers_could_not_be_told(
    desk: Desk, kafka: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (desk.folder / "pipeline.yaml").read_text()
    (desk.folder / "pipeline.yaml").write_text(text.replace("pipeline: ", "pipeline: no"))
    file = str(desk.folder / "rules.yaml")
    failed = desk.fails("rules", "apply", file, "--reason", "begin")
    assert isinstance(failed, Fatal)
    assert "tidegate rules publish" in failed.remedy
    assert desk.json("rules", "list")["in_force"]["epoch"] == 1
    create_topics({"bootstrap.servers": kafka}, load(desk.folder / "pipeline.yaml").name, 1)
    assert "are told: epoch 1" in desk.run("rules", "publish")


def test_rules_are_tried_on_a_file(desk: Desk) -> None:
    events = desk.folder / "events.csv"
    rows = [f"e{n},2024-03-01T00:{n:02d}:00Z,acc-{n % 5},{n * 40.0},,s1,{int(n > 50)}" for n in range(60)]
    events.write_text("id,at,account,amount,pieces,shop,fraud\n" + "\n".join(rows) + "\n")
    report = desk.json(
        "rules", "test", str(desk.folder / "rules.yaml"), "--events", str(events), "--label-column", "fraud"
    )
    big = next(rule for rule in report["rules"] if rule["id"] == "big")
    assert (report["events"], report["frauds"], big["hits"], big["frauds"]) == (60, 9, 37, 9)
    assert big["precision"] == pytest.approx(9 / 37)
    assert desk.json("rules", "list")["in_force"]["epoch"] == 0
