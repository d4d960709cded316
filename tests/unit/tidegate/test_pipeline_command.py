from __future__ import annotations

import csv
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import jsonschema
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from ruamel.yaml import YAML
from typer.testing import CliRunner

from domain.pipeline import AggregateFeature, FieldType, Pipeline
from tidegate.commands.pipeline import app, describe
from tidegate.loading import load
from tidegate.pipeline_draft import field_name

EXAMPLES = Path(__file__).parents[3] / "examples"
START = datetime(2026, 1, 1, tzinfo=UTC)


def run(*arguments: str | Path, code: int = 0) -> tuple[str, str]:
    result = CliRunner().invoke(app, [str(a) for a in arguments], env={"COLUMNS": "200"})
    assert result.exit_code == code, result.output
    return result.stdout, result.stderr


@pytest.mark.parametrize("name", ["payments", "handbook", "logins"])
def test_check_describes_a_valid_file(name: str) -> None:
    path = EXAMPLES / name / "pipeline.yaml"
    text, _ = run("check", path)
    assert "no mistakes" in text
    assert "at most the events of 3h30m before the window's start" in text
    report = json.loads(run("check", path, "--json")[0])
    assert report["ok"] is True
    assert report["digest"] == load(path).digest
    assert len(report["features"]) == 15
    for entity in report["entities"].values():
        assert list(entity["bytes_measured"]) == ["1", "10", "100", "10000"]
        assert (
            0 < entity["bytes_measured"]["1"] < entity["bytes_measured"]["10000"] <= entity["bytes_at_most"]
        )
        assert f"{entity['bytes_at_most']:,}" in text
        assert f"{entity['bytes_measured']['100']:,}" in text
    unmeasured = json.loads(run("check", path, "--json", "--no-measure")[0])
    assert all(list(entity) == ["bytes_at_most"] for entity in unmeasured["entities"].values())


def test_describe_says_how_exact_each_window_is() -> None:
    described = describe(load(EXAMPLES / "payments" / "pipeline.yaml"), lambda pipeline: {"account_id": 7})
    features = {feature["name"]: feature for feature in described["features"]}
    assert features["account_count_1h"]["hop"] == "1m15s"
    assert features["account_count_1h"]["tiles"] == 48 + 48 + 1
    assert features["account_seconds_since_last"]["error"] == "exact"
    assert "128" in features["account_merchants_7d"]["error"]
    assert described["entities"] == {"account_id": {"bytes_at_most": 7}}


def test_check_shows_the_error_of_labels_quantiles_and_decay(tmp_path: Path) -> None:
    path = tmp_path / "all.yaml"
    text = (EXAMPLES / "payments" / "pipeline.yaml").read_text()
    features = (
        "features:\n"
        "  fraud: {entity: merchant_id, aggregate: rate, of: label, window: 28d, delay: 7d}\n"
        "  high: {entity: merchant_id, aggregate: quantile, of: amount, q: 0.95, window: 30d}\n"
        "  pace: {entity: account_id, aggregate: decayed_count, half_life: 1h}\n"
    )
    path.write_text(text.replace("features:\n", features, 1))
    report = json.loads(run("check", path, "--json", "--no-measure")[0])
    found = {f["name"]: (f["what"], f.get("half_life"), f["error"]) for f in report["features"]}
    assert found["fraud"][0] == "rate of label"
    assert "at each end of the window; labels count from when they are known" in found["fraud"][2]
    assert found["high"][0] == "quantile 0.95 of amount"
    assert "15h before the window's start; 1% of the value" in found["high"][2]
    assert found["pace"] == ("decayed_count", "1h", "that of floating point only")
    assert "half-life 1h" in run("check", path, "--no-measure")[0]


def test_check_lists_every_mistake(tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    text = (EXAMPLES / "payments" / "pipeline.yaml").read_text()
    text = text.replace("of: amount", "of: amuont", 1).replace("account_mean_7d, 1.0", "account_mean_8d, 1.0")
    path.write_text(text.replace("kind: half_space_trees", "kind: half_space_trees, trees: many"))
    shown, _ = run("check", path, code=1)
    for expected in (
        "3 mistake(s)",
        "Did you mean 'amount'?",
        "Did you mean 'account_mean_7d'?",
        "hst.trees",
    ):
        assert expected in shown
    report = json.loads(run("check", path, "--json", code=1)[0])
    assert report["ok"] is False
    lines = [problem["line"] for problem in report["problems"]]
    assert lines == sorted(lines)
    assert len(lines) == 3


def test_check_of_no_file_names_the_remedy(tmp_path: Path) -> None:
    _, error = run("check", tmp_path / "none.yaml", code=1)
    assert "Remedy" in error


def test_schema_is_a_schema_that_takes_the_examples() -> None:
    schema = jsonschema.Draft202012Validator(json.loads(run("schema")[0]))
    schema.check_schema(schema.schema)
    for path in sorted(EXAMPLES.glob("*/pipeline.yaml")):
        schema.validate(YAML(typ="safe").load(path.read_text()))
    assert "half_space_trees" in json.dumps(schema.schema)


def rows() -> list[dict[str, Any]]:
    return [
        {
            "TransactionId": f"tx-{i:05}",
            "when": START + timedelta(minutes=i),
            "cardNumber": f"4929{i % 40:012}",
            "Merchant ID": i % 7,
            "amount": i * 0.25,
            "Online?": i % 3 == 0,
            "note": None if i % 2 else "café",
            "in": i,
            "card_number_count_1d": float(i),
            "nested": [i],
            "is_fraud": 0,
        }
        for i in range(200)
    ]


def write_csv(path: Path) -> None:
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, list(rows()[0]))
        writer.writeheader()
        writer.writerows({**row, "when": row["when"].strftime("%Y-%m-%d %H:%M:%S")} for row in rows())


def write_jsonl(path: Path) -> None:
    lines = [json.dumps({**row, "when": int(row["when"].timestamp() * 1000)}) for row in rows()]
    path.write_text("\n".join(line.replace('"when"', '"event_time"') for line in lines))


def write_parquet(path: Path) -> None:
    pq.write_table(pa.Table.from_pylist(rows()), path)


@pytest.mark.parametrize("write", [write_csv, write_jsonl, write_parquet], ids=["csv", "jsonl", "parquet"])
def test_a_draft_passes_check_and_takes_its_sample(write: Any, tmp_path: Path) -> None:
    sample = tmp_path / f"my sample.{write.__name__.removeprefix('write_')}"
    draft = tmp_path / "draft.yaml"
    write(sample)
    _, messages = run("init", sample, "--out", draft)
    assert "200 of 200 sample rows fit" in messages
    run("check", draft)
    pipeline: Pipeline = load(draft)
    event = pipeline.event
    assert (pipeline.name, event.id, event.key) == ("my_sample", "transaction_id", "card_number")
    assert event.field(event.time).type is FieldType.TIMESTAMP
    assert event.field("card_number").sensitive
    assert event.field("merchant_id").source == "Merchant ID"
    assert not event.field("note").required
    assert event.field("amount").minimum == 0.0
    assert "is_fraud" not in {field.source for field in event.fields}
    assert pipeline.entities == ("card_number", "merchant_id")
    windows = {f.aggregate for f in pipeline.features if isinstance(f, AggregateFeature)}
    assert windows >= {"count", "mean", "distinct", "seconds_since_last"}
    assert "guessed" in draft.read_text()
    assert {d.kind for d in pipeline.detectors} == {"half_space_trees", "isolation_forest"}


def test_init_prints_the_draft_and_overwrites_nothing(tmp_path: Path) -> None:
    sample = tmp_path / "sample.jsonl"
    write_jsonl(sample)
    text, _ = run("init", sample)
    assert text.startswith("# Drafted")
    out = tmp_path / "there.yaml"
    out.write_text("mine")
    _, error = run("init", sample, "--out", out, code=1)
    assert "cannot be written" in error
    assert out.read_text() == "mine"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", "x", "ends in .txt"),
        ("a.csv", "", "no rows"),
        ("a.csv", "id,time\n", "no rows"),
        ("a.jsonl", "[1]\n", "cannot be read"),
        ("a.parquet", "no", "cannot be read"),
        ("a.csv", "user_id\nu1\nu1\n", "event time"),
        ("a.csv", "time,user_id\n2026-01-01T00:00:00Z,u1\n2026-01-01T00:00:00Z,u1\n", "event id"),
        ("a.csv", "time,id\n2026-01-01T00:00:00Z,u1\n2026-01-01T00:00:00Z,u2\n", "the key"),
    ],
)
def test_samples_that_will_not_do_name_the_remedy(
    name: str, content: str, message: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_text(content)
    _, error = run("init", tmp_path / name, code=1)
    assert message in error
    assert "Remedy" in error


def test_names_of_fields() -> None:
    names = {"TX_AMOUNT": "tx_amount", "merchantId": "merchant_id", "in": "in_field", "2x": "f_2x", "ä": "f"}
    assert {column: field_name(column) for column in names} == names
