"""A backtest teaches labels when they were known, whatever its chunks; and names features that know them."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from domain.pipeline import Decision, DetectorSpec, Pipeline, Threshold
from lifecycle.backtest import BacktestPlan
from tests.unit.lifecycle.test_backtest import PAYMENTS, events, go, invoke
from tidegate.loading import load

__all__ = ["events"]

HOUR = 3_600_000_000


@pytest.fixture(scope="module")
def pipeline() -> Pipeline:
    labelled = {"min_labels": 50, "min_positive": 5}
    return msgspec.structs.replace(
        load(PAYMENTS),
        detectors=(
            DetectorSpec(name="hst", kind="half_space_trees"),
            DetectorSpec(name="online", kind="logistic", params=labelled),
        ),
        decision=Decision(combine="stacked", review=Threshold(budget=0.02)),
    )


@pytest.mark.parametrize("delay", [HOUR // 60, HOUR])
def test_what_is_learned_does_not_depend_on_how_the_file_is_cut(
    delay: int, pipeline: Pipeline, events: Path, tmp_path: Path
) -> None:
    plan = BacktestPlan(label_delay=delay)
    whole, pieces = tmp_path / "whole.parquet", tmp_path / "pieces.parquet"
    run = go(pipeline, events, whole, plan, batch_rows=4_000)
    go(pipeline, events, pieces, plan, batch_rows=311)
    left, right = (pq.read_table(path).drop_columns(["reasons"]) for path in (whole, pieces))
    assert left.equals(right)
    assert run.probability is not None
    learned = left["d_online"].to_numpy().astype(np.float64)
    assert np.isnan(learned[:50]).all()
    assert not np.isnan(learned[-1_000:][~run.duplicates[-1_000:]]).any()
    # a label says nothing of its own event, and helps with later ones
    counted = ~run.duplicates & (np.arange(len(run.labels)) > 2_000)
    frauds = run.labels[counted] == 1
    assert learned[counted][frauds].mean() > learned[counted][~frauds].mean() + 1.0


def test_features_that_know_the_label_are_named(
    events: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TIDEGATE_PRIVACY_KEY", "k" * 32)
    table = pq.read_table(events)
    refunded = pa.array([3.5 * label for label in table["fraud"].to_pylist()])
    leaking = tmp_path / "leaking.parquet"
    pq.write_table(table.append_column("refunded", refunded), leaking)
    text = PAYMENTS.read_text(encoding="utf-8")
    text = text.replace("  fields:\n", "  fields:\n    refunded: {type: number}\n")
    text = text.replace("features:\n", "features:\n  refunded: {value: refunded}\n", 1)
    declared = tmp_path / "pipeline.yaml"
    declared.write_text(text, encoding="utf-8")
    common = ["--pipeline", str(declared), "--events", str(leaking), "--out", str(tmp_path / "v.parquet")]
    outcome = invoke(*common, "--label-column", "fraud", "--json")
    assert outcome.exit_code == 0, outcome.output
    assert "refunded is 3.5 for every fraud" in outcome.stderr
    assert outcome.stderr.count("refunded") == 1
    assert json.loads(outcome.stdout)["metrics"]["probability"] is None
