"""``tidegate webhooks`` over a real SQLite file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from tidegate.cli import app

URL = "https://hooks.example/T0KEN"


@pytest.fixture(autouse=True)
def surroundings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIDEGATE_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.delenv("TIDEGATE_DATABASE_URL", raising=False)
    monkeypatch.setenv("COLUMNS", "250")


def run(*arguments: str, ok: bool = True) -> Result:
    result = CliRunner().invoke(app, ["webhooks", *arguments])
    assert (result.exit_code == 0) is ok, (result.output, result.exception)
    return result


def shown(*arguments: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(run(*arguments).stdout)
    return found


def test_an_endpoint_from_beginning_to_end(tmp_path: Path) -> None:
    assert "no webhooks" in run("list").output
    made = shown(
        "add", URL, "--decision", "block", "--min-score", "0.5", "--rate", "2", "--order", "key", "--json"
    )
    id_, secret = made["endpoint"]["id"], made["secret"]["secret"]
    assert secret.startswith("whsec_")
    listed = run("list").output
    assert id_ in listed
    assert "block from 0.5" in listed
    # neither in lists nor in the database: the secret, and what may be a token
    assert "T0KEN" not in listed
    assert secret.removeprefix("whsec_").encode() not in (tmp_path / "state" / "tidegate.sqlite").read_bytes()
    run("change", id_, "--rate", "0", "--disable")
    settings = shown("show", id_)["endpoint"]["settings"]
    assert (settings["rate"], settings["enabled"], settings["order"]) == (None, False, "key")
    assert settings["filter"] == {"decisions": ["block"], "min_score": 0.5, "reasons": []}
    run("change", id_, "--enable")
    assert "whsec_" in run("rotate", id_, "--overlap", "1h").output
    assert len(shown("show", id_)["secrets"]) == 2
    message = run("test", id_).output.split()[1].rstrip(";")
    assert message in run("log", id_).output
    assert shown("log", id_, "--message", message)["delivery"]["state"] == "pending"
    assert "0 messages" in run("replay", id_, "--since", "6h").output
    assert "0 messages" in run("replay", id_, "--since", "2025-01-31T10:00:00Z", "--until", "1h").output
    run("delete", id_, "--yes")
    assert "no webhooks" in run("list").output


@pytest.mark.parametrize(
    "arguments",
    [
        ("add", "ftp://x"),
        ("show", "we_0"),
        ("replay", "we_0"),
        ("rotate", "we_0", "--overlap", "soon"),
        ("replay", "we_0", "--since", "soon"),
        ("add", URL, "--reason", " "),
    ],
)
def test_mistakes_are_refused(arguments: tuple[str, ...]) -> None:
    run(*arguments, ok=False)
