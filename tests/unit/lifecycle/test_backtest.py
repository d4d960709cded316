"""A backtest is the engine over a file: the same verdicts however it is cut, trained when told, honestly measured."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer import Typer
from typer.testing import CliRunner, Result

from domain.batch import Floats
from domain.clock import from_micros
from domain.pipeline import DetectorSpec, Pipeline
from domain.privacy import Protector
from featurestore.tables import FeatureTables
from lifecycle.backtest import BacktestPlan, BacktestRun, run_backtest
from lifecycle.backtest_report import ReportOptions, evaluate
from lifecycle.evaluation import DAY
from lifecycle.event_files import read_events
from scoring.engine import PartitionScorer
from stream.generator import Traffic, TrafficSettings
from stream.topics import partition_of
from tidegate.commands.backtest import backtest
from tidegate.loading import load

ROOT = Path(__file__).parents[3]
PAYMENTS = ROOT / "examples/payments/pipeline.yaml"
KEY = Protector(b"k" * 32)
ROWS = 4_000


@pytest.fixture(scope="module")
def pipeline() -> Pipeline:
    """The shipped default."""
    return load(PAYMENTS)


@pytest.fixture(scope="module")
def events(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Payments with fraud and repeats, and a column of labels; the file's last tenth holds one broken row."""
    settings = TrafficSettings(seed=3, accounts=300, merchants=60, fraud_share=0.05, duplicate_share=0.01)
    rows: list[dict[str, Any]] = []
    for event in Traffic(settings).take(ROWS):
        assert event.record is not None
        rows.append({**event.record, "fraud": int(bool(event.label))})
    rows[3_900]["amount"] = -1.0
    path = tmp_path_factory.mktemp("events") / "events.parquet"
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def go(
    pipeline: Pipeline,
    events: Path,
    out: Path,
    plan: BacktestPlan,
    *,
    batch_rows: int = 700,
    partitions: int = 1,
) -> BacktestRun:
    """A backtest with labels from the file."""
    held = FeatureTables(pipeline, partitions=partitions)
    chunks = read_events(events, pipeline, KEY, batch_rows=batch_rows, label_column="fraud")
    return run_backtest(
        pipeline,
        chunks,
        lambda partition: PartitionScorer(pipeline, partition, tables=held),
        out,
        plan,
        partitions=partitions,
        place=(lambda key: partition_of(key, partitions)) if partitions > 1 else None,
    )


def middle_time(events: Path) -> int:
    """The time of a row in the middle of the file."""
    text = pq.read_table(events, columns=["event_time"]).column(0)[2_000].as_py()
    return int(np.datetime64(text.removesuffix("Z"), "us").astype(np.int64))


def test_verdicts_do_not_depend_on_how_the_file_is_cut(
    pipeline: Pipeline, events: Path, tmp_path: Path
) -> None:
    plan = BacktestPlan(train_until=middle_time(events), retrain_every=DAY // 2)
    one = go(pipeline, events, tmp_path / "one.parquet", plan, batch_rows=ROWS)
    many = go(pipeline, events, tmp_path / "many.parquet", plan, batch_rows=333)
    # Reasons look at traffic up to the end of their batch, so they alone may differ.
    whole, cut = (pq.read_table(tmp_path / f"{name}.parquet").drop(["reasons"]) for name in ("one", "many"))
    assert whole.equals(cut)
    assert one.fits == many.fits
    assert len(one.fits) >= 2
    assert one.fits[0][0] >= middle_time(events)
    assert one.trained_only + len(one.times) + sum(one.rejected.values()) == ROWS
    assert dict(one.rejected) == {"out_of_range": 1}
    assert one.rejected_examples[0].row == 3_900
    # Detectors that were trained have a say from the first measured event on.
    assert not np.isnan(one.score).any()


def test_without_training_detectors_warm_up_and_nothing_is_left_out(
    pipeline: Pipeline, events: Path, tmp_path: Path
) -> None:
    out = tmp_path / "v.parquet"
    run = go(pipeline, events, out, BacktestPlan())
    assert (run.trained_only, run.fits, len(run.times)) == (0, (), ROWS - 1)
    table = pq.read_table(out)
    assert table.num_rows == ROWS - 1
    features = [f"f_{name}" for name in pipeline.feature_names]
    assert table.column_names == [
        "id", "row", "event_time", "score", "decision", "flags", *features, "d_hst", "d_iforest", "reasons",
    ]  # fmt: skip
    rows = table.to_pylist()
    assert rows[0]["flags"] == "warming_up"
    assert rows[0]["score"] is None
    alerts = [row for row in rows if row["decision"] != "allow" and "duplicate" not in row["flags"]]
    assert alerts
    reasons = [reason["feature"] for row in alerts for reason in json.loads(row["reasons"])]
    assert len(reasons) > len(alerts)
    assert set(reasons) <= set(pipeline.feature_names)
    assert int(run.duplicates.sum()) == sum("duplicate" in row["flags"] for row in rows) > 10


def test_partitions_keep_each_accounts_features(pipeline: Pipeline, events: Path, tmp_path: Path) -> None:
    lean = msgspec.structs.replace(pipeline, detectors=(DetectorSpec(name="hst", kind="half_space_trees"),))
    go(lean, events, tmp_path / "one.parquet", BacktestPlan())
    go(lean, events, tmp_path / "three.parquet", BacktestPlan(), partitions=3)
    columns = ["row", "f_account_count_1d", "f_account_mean_7d", "f_account_merchants_7d"]
    one, three = (
        pq.read_table(tmp_path / f"{name}.parquet", columns=columns).sort_by("row")
        for name in ("one", "three")
    )
    assert one.equals(three)


def test_a_failed_run_leaves_no_file(pipeline: Pipeline, events: Path, tmp_path: Path) -> None:
    class Broken(PartitionScorer):
        def process(self, *_: object, **__: object) -> Any:
            raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        run_backtest(
            pipeline,
            read_events(events, pipeline, KEY),
            lambda partition: Broken(pipeline, partition),
            tmp_path / "v.parquet",
            BacktestPlan(),
        )
    assert list(tmp_path.iterdir()) == []


def invoke(*arguments: str) -> Result:
    app = Typer()
    app.command()(backtest)
    return CliRunner().invoke(app, arguments)


def test_the_command_measures_against_a_dummy_and_the_best_feature(
    events: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TIDEGATE_PRIVACY_KEY", "k" * 32)
    until = from_micros(middle_time(events)).isoformat()
    common = ["--pipeline", str(PAYMENTS), "--events", str(events), "--train-until", until]
    known = ["--labels", str(events), "--group-by", "country", "--json"]
    same = invoke(*common, "--out", str(tmp_path / "a.parquet"), *known)
    assert same.exit_code == 0, same.output
    result = json.loads(same.stdout)
    groups = result["fairness"]["groups"]
    assert sum(g["events"] for g in groups) + result["fairness"]["ungrouped"] == result["metrics"]["rows"]
    assert sum(g["frauds"] for g in groups) <= result["metrics"]["frauds"]
    assert result["fairness"]["gate"]["max_ratio"] == 1.25
    assert result["rejected"] == {"out_of_range": 1}
    assert result["verdicts"] == pq.read_metadata(tmp_path / "a.parquet").num_rows
    metrics = result["metrics"]
    assert metrics["rows"] == result["verdicts"] - result["duplicates"]
    assert metrics["score"]["auc"] > metrics["dummy"]["auc"] + 0.1
    assert metrics["dummy"]["average_precision"] == pytest.approx(metrics["prevalence"], abs=0.03)
    assert metrics["best_feature"]["average_precision"] == metrics["features"][0]["average_precision"]
    assert metrics["score"]["auc_interval"]["low"] < metrics["score"]["auc"]
    assert "warning: 1 rows were refused" in same.stderr

    labels = tmp_path / "labels.csv"
    table = pq.read_table(events, columns=["transaction_id", "fraud"]).to_pydict()
    lines = [f"{i},{y}" for i, y in zip(table["transaction_id"], table["fraud"], strict=True)]
    labels.write_text("\n".join(["transaction_id,fraud", *lines]), encoding="utf-8")
    apart = invoke(*common, "--out", str(tmp_path / "b.parquet"), "--labels", str(labels), "--json")
    assert json.loads(apart.stdout)["metrics"] == metrics

    card = tmp_path / "card.md"
    shown = invoke(
        *(*common, "--out", str(tmp_path / "a.parquet"), "--labels", str(events)),
        *("--group-by", "country", "--card", str(card)),
    )
    assert shown.exit_code == 0
    told = card.read_text(encoding="utf-8")
    assert f"| average precision | {metrics['score']['average_precision']:.3f} (" in told
    assert "By `country`" in told
    assert "(card-precision-recall.svg)" in told
    assert (tmp_path / "card-precision-recall.svg").is_file()
    assert "By country" in shown.stdout
    assert "best single feature" in shown.stdout


def test_the_command_names_what_is_wrong(events: Path, tmp_path: Path) -> None:
    out = tmp_path / "v.parquet"
    for arguments, message in (
        (["--events", str(tmp_path / "absent.csv")], "no file"),
        (["--events", str(events), "--train-until", "tomorrow"], "--train-until"),
        (["--events", str(events), "--label-delay", "soon"], "--label-delay"),
        (["--events", str(events), "--card", str(tmp_path / "card.html")], "no Markdown file"),
        (["--events", str(events), "--card", str(tmp_path / "absent" / "card.md")], "no folder"),
        (["--events", str(events), "--labels", str(events), "--label-column", "nope"], "no column 'nope'"),
    ):
        outcome = invoke("--pipeline", str(PAYMENTS), "--out", str(out), *arguments)
        assert outcome.exit_code == 2
        assert message in outcome.stderr
    assert not out.exists()


def test_known_cards_leave_card_precision_after_the_delay_and_unlabelled_rows_are_not_measured(
    pipeline: Pipeline,
) -> None:
    days = np.array([0, 0, 1, 2, 2, 3])
    score: Floats = np.array([0.9, 0.1, 0.8, 0.7, 0.2, 0.99])
    run = BacktestRun(
        rows=6,
        trained_only=0,
        rejected={},
        rejected_examples=(),
        out_of_order=0,
        fits=(),
        times=days * DAY,
        score=score,
        labels=np.array([1.0, 0.0, 1.0, 1.0, 0.0, np.nan]),
        cards=np.array([0, 1, 0, 0, 1, 1]),
        decision=np.array([2, 0, 1, 0, 0, 2], dtype=np.int8),
        flags=np.zeros(6, dtype=np.uint8),
    )
    report = evaluate(run, pipeline, lambda name: -score, ReportOptions(label_delay=DAY, k=1, replicates=0))
    assert report is not None
    assert (report.rows, report.frauds, report.unlabelled, report.days) == (5, 3, 1, 3)
    # Card 0 is blocked after day 0, so days 1 and 2 find nothing; unless cards stay.
    assert report.score.card_precision == pytest.approx(1 / 3)
    assert report.score.card_precision_nothing_removed == 1.0
    assert report.known_removed == 1
    assert report.features[0].direction == "low"
    assert [(d.decision, d.alerts) for d in report.decided] == [("review", 2), ("block", 1)]
    assert [d.recall for d in report.decided] == pytest.approx([2 / 3, 1 / 3])
    assert evaluate(run, pipeline, lambda name: score, ReportOptions(since=9 * DAY)) is None
