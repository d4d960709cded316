"""``tidegate models`` over a real SQLite registry; telling workers is in tests/integration/test_models_command.py."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from domain.clock import ManualClock
from domain.errors import ArtefactRefused, RegistryConflict, StageForbids, UnknownModel
from lifecycle.database import Database
from lifecycle.model_keys import ModelKey
from lifecycle.registry import ModelCard, Stage
from lifecycle.registry_sql import SqlModelRegistry
from tests.contract.check_model_registry import add
from tests.models import KEY, NOW, sealed
from tidegate.cli import app

OTHER = ModelKey.parse("22" * 32)


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SqlModelRegistry]:
    url = f"sqlite:///{tmp_path}/models.sqlite"
    monkeypatch.setenv("TIDEGATE_DATABASE_URL", url)
    monkeypatch.setenv("TIDEGATE_MODEL_TRUSTED", KEY.public)
    monkeypatch.setenv("TIDEGATE_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("TIDEGATE_KAFKA_BOOTSTRAP", "127.0.0.1:1")
    monkeypatch.setenv("COLUMNS", "250")
    registry = SqlModelRegistry(Database(url), "payments", ManualClock(NOW))
    yield registry
    registry.close()


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["models", *arguments])


def printed(*arguments: str) -> dict[str, Any]:
    result = run(*arguments, "--json")
    assert result.exit_code == 0, result.output
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def register(registry: SqlModelRegistry, model: bytes, **changes: Any) -> str:
    blob, manifest = sealed(model, **changes)
    card = ModelCard(markdown="# The card\n\x1b[2Jtext", plots={"pr.svg": "<svg/>"})
    registry.register(blob, manifest, by="trainer", reason="[red]drift[/]", card=card)
    return manifest.version


def test_an_empty_registry_says_what_makes_models(registry: SqlModelRegistry) -> None:
    result = run("list")
    assert result.exit_code == 0
    assert "tidegate models retrain" in result.stdout
    assert "own ensemble" in result.stdout
    assert printed("list") == {"pipeline": "payments", "in_force": printed("list")["in_force"], "models": []}
    assert printed("audit") == {"records": []}


def test_the_list_shows_stages_and_what_is_in_force(registry: SqlModelRegistry) -> None:
    a, b = add(registry, "a", shadow=True), add(registry, "b")
    registry.promote(a, epoch=1, reason="better on every day", by="ana")
    text = run("list").stdout
    for part in (a, b, "champion", "candidate", "better on every day", "by ana", "average_precision 0.5"):
        assert part in text, part
    assert [m["version"] for m in printed("list")["models"]] == [b, a]
    assert printed("list")["in_force"]["champion"] == a
    assert [m["version"] for m in printed("list", "--stage", "champion")["models"]] == [a]
    assert [m["version"] for m in printed("list", "--limit", "1")["models"]] == [b]


def test_a_narrow_terminal_shows_versions_whole(
    registry: SqlModelRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = register(registry, b"a")
    monkeypatch.setenv("COLUMNS", "80")
    assert version in run("list").stdout


def test_a_model_is_shown_with_its_card_and_nothing_that_steers_the_terminal(
    registry: SqlModelRegistry,
) -> None:
    version = register(registry, b"a")
    registry.annotate(version, metrics={"gate": {"gain": {"low": -0.01}}})
    text = run("show", version).stdout
    for part in (version, "[red]drift[/]", "gate.gain.low", "-0.01", "verdicts 7", "900 rows", "pr.svg"):
        assert part in text, part
    assert "The card" not in text
    text = run("show", version, "--card").stdout
    assert "The card" in text
    assert "\x1b[2J" not in text
    shown = printed("show", version)
    assert shown["manifest"]["lineage"]["seed"] == 1
    assert shown["plots"] == {"pr.svg": "<svg/>"}
    assert shown["role"] is None
    result = run("show", "m-000000000000")
    assert result.exit_code == 1
    assert isinstance(result.exception, UnknownModel)


def test_two_models_are_compared(registry: SqlModelRegistry) -> None:
    a = register(registry, b"a")
    b = register(registry, b"bb", metrics={"average_precision": 0.625, "recall": 0.5}, features=("amount",))
    found = {d["name"]: (d["first"], d["second"]) for d in printed("diff", a, b)["differences"]}
    assert found["training.average_precision"] == (0.5, 0.625)
    assert found["training.recall"] == (None, 0.5)
    assert found["features"] == (["amount", "count"], ["amount"])
    assert "lineage.seed" not in found
    assert "+0.125" in run("diff", a, b).stdout
    assert run("diff", a).exit_code == 2  # nothing in force to compare with
    registry.promote(b, epoch=0, reason="x", by="x", force=True)
    assert printed("diff", a)["second"] == b


def test_a_training_is_asked_for_once(registry: SqlModelRegistry) -> None:
    run_id = printed("retrain", "--reason", "new category")["id"]
    found = registry.run(run_id)
    assert (found.trigger, found.data) == ("person", {"requested": {"reason": "new category"}})
    assert "command line" in found.requested_by
    again = run("retrain")
    assert again.exit_code == 1
    assert isinstance(again.exception, RegistryConflict)
    assert [r["id"] for r in printed("runs")["runs"]] == [run_id]
    assert "new" not in run("runs", "--limit", "1").stderr
    assert run_id in run("runs").stdout


def test_the_audit_tells_whether_it_is_whole(registry: SqlModelRegistry, tmp_path: Path) -> None:
    version = add(registry, "a")
    registry.set_stage(version, Stage.REFUSED, reason="worse than a dummy", by="gate")
    assert [r["action"] for r in printed("audit")["records"]] == ["stage", "register"]
    assert printed("audit", "--verify")["whole"] is True
    assert "the chain is whole" in run("audit", "--verify").stdout
    database = Database(f"sqlite:///{tmp_path}/models.sqlite")
    with database.writing() as connection:
        connection.exec_driver_sql("UPDATE audit SET reason = 'better' WHERE number = 2")
    database.close()
    result = run("audit", "--verify")
    assert result.exit_code == 1
    assert "broken at record 2" in result.stdout
    assert json.loads(run("audit", "--verify", "--json").stdout)["broken"]["number"] == 2


def test_a_sealed_model_goes_through_a_file(registry: SqlModelRegistry, tmp_path: Path) -> None:
    blob, manifest = sealed(b"elsewhere")
    file = tmp_path / "model.tgm"
    file.write_bytes(blob)
    assert printed("register", str(file), "--reason", "other region")["version"] == manifest.version
    out = tmp_path / "out.tgm"
    assert run("export", manifest.version, str(out)).exit_code == 0
    assert out.read_bytes() == blob
    assert run("export", manifest.version, str(tmp_path / "absent" / "out.tgm")).exit_code == 1
    assert run("register", str(tmp_path / "absent.tgm"), "--reason", "x").exit_code == 1


@pytest.mark.parametrize(
    ("blob", "reason"),
    [
        (sealed(b"x" * 100)[0][:-1], "truncated"),
        (sealed(b"x" * 100)[0][:-1] + b"!", "damaged"),
        (sealed(b"x" * 100, OTHER)[0], "untrusted"),
        (sealed(b"x" * 100, pipeline="logins")[0], "foreign"),
        (b"\x80\x04pickle", "foreign"),
    ],
)
def test_a_file_that_is_not_what_it_should_be_is_refused_and_nothing_kept(
    registry: SqlModelRegistry, tmp_path: Path, blob: bytes, reason: str
) -> None:
    file = tmp_path / "model.tgm"
    file.write_bytes(blob)
    result = run("register", str(file), "--reason", "x")
    assert result.exit_code == 1
    assert isinstance(result.exception, ArtefactRefused)
    assert result.exception.reason == reason
    assert list(registry.models()) == []


def test_unproven_models_and_empty_reasons_are_refused_before_anybody_is_told(
    registry: SqlModelRegistry,
) -> None:
    version = add(registry, "a")
    result = run("promote", version, "--reason", "x", "--yes")
    assert isinstance(result.exception, StageForbids)
    assert run("promote", version, "--reason", " ", "--yes", "--force").exit_code == 2
    assert run("promote", version, "--reason", "a\x1b[2J", "--yes", "--force").exit_code == 2
    assert run("promote", version, "--yes", "--force").exit_code == 2  # without a reason
    assert run("rollback", "--reason", "x" * 501, "--yes").exit_code == 2
    assert isinstance(run("rollback", "--reason", "x", "--yes").exception, StageForbids)
    declined = CliRunner().invoke(
        app, ["models", "promote", version, "--reason", "x", "--force"], input="n\n"
    )
    assert declined.exit_code == 1
    assert "nothing was changed" in declined.stderr
    assert registry.state().epoch == 0


def test_keys_are_made_and_shown(registry: SqlModelRegistry, monkeypatch: pytest.MonkeyPatch) -> None:
    first = run("key").stdout.strip()
    assert re.fullmatch("[0-9a-f]{64}", first)
    assert run("key").stdout.strip() == first  # kept on this machine
    pair = dict(line.split("=") for line in run("key", "--new").stdout.split())
    assert ModelKey.parse(pair["TIDEGATE_MODEL_KEY"]).public == pair["TIDEGATE_MODEL_TRUSTED"] != first
    monkeypatch.setenv("TIDEGATE_MODEL_KEY", pair["TIDEGATE_MODEL_KEY"])
    assert run("key").stdout.strip() == pair["TIDEGATE_MODEL_TRUSTED"]


def test_every_command_has_an_example() -> None:
    names = "list show diff promote challenge rollback retrain runs audit publish export register key"
    for name in names.split():
        assert f"Example: tidegate models {name}" in run(name, "--help").stdout, name
