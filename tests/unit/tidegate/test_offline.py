"""``tidegate offline`` on a store in a folder."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest
from typer.testing import CliRunner

from domain.errors import Fatal
from domain.verdict import Source
from featurestore.offline import LogRecord, OfflineStore
from tests.unit.featurestore.offline_rows import DAY, LOG, NOON, label, verdict_of
from tidegate.commands.offline import app
from tidegate.loading import load

ROOT = Path(__file__).parents[3]
PIPELINE = ROOT / "tests" / "system" / "small_pipeline.yaml"


@pytest.fixture(params=["folder", "url"])
def run(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CliRunner:
    # by URL the store is read as any object store is
    url = str(tmp_path / "it's here") if request.param == "folder" else f"file://{tmp_path}"
    monkeypatch.setenv("TIDEGATE_PIPELINE", str(PIPELINE))
    monkeypatch.setenv("TIDEGATE_OFFLINE_URL", url)
    store = OfflineStore(url, load(PIPELINE))
    verdicts = [
        verdict_of(
            i, time=NOON + i // 3 * DAY, features={"amount": float(i)}, source=Source("small.events", 0, i)
        )
        for i in range(6)
    ]
    records = [LogRecord(0, i, msgspec.json.encode(v)) for i, v in enumerate(verdicts)]
    store.append_verdicts(records[:4], LOG)
    store.append_verdicts(records[4:], LOG)
    store.append_labels([label(0, verdicts[1], NOON, 1)], "labels")
    return CliRunner(env={"COLUMNS": "200"})


def test_shows_what_is_there(run: CliRunner) -> None:
    shown = json.loads(run.invoke(app, ["show", "--json"]).stdout)
    assert shown["pin"] == "verdicts@2+labels@1"
    assert [(t["table"], t["rows"], t["version"]) for t in shown["tables"]] == [
        ("verdicts", 6, 2),
        ("labels", 1, 1),
        ("dead_letters", 0, -1),
    ]
    assert "verdicts@2+labels@1" in run.invoke(app, ["show"]).stdout


def test_answers_sql(run: CliRunner) -> None:
    def ask(*arguments: str) -> list[dict[str, object]]:
        done = run.invoke(app, ["query", "--json", *arguments])
        assert done.exit_code == 0, done.output
        return [json.loads(line) for line in done.stdout.splitlines()]

    by_day = "SELECT day, count(*) AS n, sum(x_amount) AS total FROM verdicts GROUP BY ALL ORDER BY day"
    first, second = {"day": "2023-11-15", "n": 3, "total": 3.0}, {"day": "2023-11-16", "n": 3, "total": 12.0}
    assert ask(by_day) == [first, second]
    assert ask(by_day, "--to", "2023-11-16") == [first]
    assert ask(by_day, "--from", "2023-11-16T00:00:00Z") == [second]
    assert ask(by_day, "--pin", "verdicts@1+labels@-1")[1]["n"] == 1
    joined = "SELECT v.x_amount FROM verdicts v JOIN labels l USING (id) WHERE l.label = 1"
    assert ask(joined) == [{"x_amount": 1.0}]
    assert ask("SELECT count(*) AS n FROM dead_letters") == [{"n": 0}]
    assert "12.0" in run.invoke(app, ["query", by_day]).stdout
    assert run.invoke(app, ["query", "SELECT 1", "--pin", "7"]).exit_code == 2
    assert run.invoke(app, ["query", "SELECT 1", "--from", "soon"]).exit_code == 2


def test_finds_one_verdict(run: CliRunner) -> None:
    assert json.loads(run.invoke(app, ["find", "e0-4"]).stdout)["features"] == {"amount": 4.0}
    assert isinstance(run.invoke(app, ["find", "nobody"]).exception, Fatal)


def test_tidies_up(run: CliRunner) -> None:
    done = run.invoke(app, ["tidy", "--keep", "verdicts@1+labels@1"])
    assert "verdicts: 0 sorted, 0 compacted, 0 files deleted" in done.stdout
