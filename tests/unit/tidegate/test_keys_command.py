"""``tidegate keys`` over a real SQLite file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from lifecycle.key_store import UnknownKey
from lifecycle.keys import key_id_of
from tidegate.cli import app


@pytest.fixture(autouse=True)
def surroundings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIDEGATE_DATABASE_URL", f"sqlite:///{tmp_path}/keys.sqlite")
    monkeypatch.setenv("COLUMNS", "250")


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["keys", *arguments])


def printed(*arguments: str) -> dict[str, Any]:
    result = run(*arguments, "--json")
    assert result.exit_code == 0, result.output
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def test_create_prints_the_key_alone_and_list_never_does() -> None:
    assert "no keys" in run("list").stdout
    made = run("create", "[red]shop", "--scope", "score", "-s", "labels:write", "--reason", "new")
    assert made.exit_code == 0, made.output
    text = made.stdout.strip()
    key_id = key_id_of(text)
    assert key_id is not None
    listed = run("list")
    assert key_id in listed.stdout
    assert "[red]shop" in listed.stdout
    assert text.rpartition("_")[2] not in listed.stdout + json.dumps(printed("list"))


def test_roles_rotation_and_revocation() -> None:
    made = printed("create", "anna", "--role", "viewer", "--expires", "90d", "--reason", "new")
    assert "verdicts:read" in made["key"]["scopes"]
    assert "rules:write" not in made["key"]["scopes"]
    key_id = made["key"]["id"]
    new = printed("rotate", key_id, "--overlap", "1h", "--reason", "monthly")
    assert new["key"]["replaces"] == key_id
    assert new["secret"] != made["secret"]
    assert len(printed("list")["keys"]) == 2
    assert run("revoke", key_id, "--reason", "gone").exit_code == 0
    assert [key["id"] for key in printed("list")["keys"]] == [new["key"]["id"]]
    assert len(printed("list", "--all")["keys"]) == 2
    assert "(revoked)" in run("list", "--all").stdout


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (("create", "x", "--reason", "x"), "--scope or --role"),
        (("create", "x", "--reason", "x", "--scope", "everything"), "keys:write"),
        (("create", "x", "--reason", "x", "--role", "king"), "analyst"),
        (("create", "x", "--reason", "x", "--role", "viewer", "--expires", "soon"), "duration"),
        (("create", "x", "--reason", " ", "--role", "viewer"), "printable"),
    ],
)
def test_wrong_usage_is_explained(arguments: tuple[str, ...], what: str) -> None:
    result = run(*arguments)
    assert result.exit_code == 2
    assert what in result.output


def test_an_unknown_key_is_said() -> None:
    result = run("revoke", "abcdef012345", "--reason", "x")
    assert isinstance(result.exception, UnknownKey)


def test_root_makes_a_key_and_stores_nothing(tmp_path: Path) -> None:
    first, second = run("root").stdout.strip(), run("root").stdout.strip()
    assert key_id_of(first) is not None
    assert first != second
    assert list(tmp_path.iterdir()) == []
