"""Labels of files reach features when they were known: against a count by hand, however the file is cut."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from domain.clock import from_micros
from domain.codec import EventCodec
from domain.errors import Fatal
from domain.pipeline import Pipeline
from domain.privacy import Protector
from featurestore.tables import FeatureTables
from lifecycle.backtest import BacktestPlan, run_backtest
from lifecycle.backtest_output import read_feature
from lifecycle.event_files import read_events
from lifecycle.known_labels import History, KnownLabels, read_histories
from lifecycle.label_files import find_labels
from scoring.engine import PartitionScorer
from tests.system.events import events as flow
from tidegate.cli import app
from tidegate.loading import load

LABELS = Path(__file__).parents[2] / "system" / "labels_pipeline.yaml"
KEY = Protector(b"k" * 32)
MINUTE = 60_000_000
START = 1_700_000_000_000_000
ROWS = 400
HOP = 4 * 60 * MINUTE // 48


@pytest.fixture(scope="module")
def pipeline() -> Pipeline:
    """Rates of the key entity (no delay) and of another one (ten minutes)."""
    return load(LABELS)


@pytest.fixture(scope="module")
def rows() -> list[dict[str, Any]]:
    """Events of a few accounts and shops: ties, late ones, repeated ids; a fifth is fraud."""
    chance = random.Random(8)
    made: list[dict[str, Any]] = []
    for number in range(ROWS):
        time = START + (number // 2) * 2 * MINUTE
        if chance.random() < 0.1:
            time -= chance.choice([5, 30, 61]) * MINUTE  # the last is late; older ones would miss tiles
        if made and chance.random() < 0.05:
            made.append(made[-chance.randrange(1, min(9, len(made)) + 1)])
            continue
        fraud = chance.choice([0, 0, 0, 1, None])
        shop, account = f"s{chance.randrange(4)}", f"a{chance.randrange(3)}"
        made.append(
            {
                "id": f"e{number}",
                "time": time,
                "account": account,
                "shop": shop,
                "amount": 1.0,
                "fraud": fraud,
            }
        )
    return made


@pytest.fixture(scope="module")
def events(rows: list[dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The rows as a file."""
    path = tmp_path_factory.mktemp("labels") / "events.jsonl"
    lines = [{k: v for k, v in row.items() if k != "time"} | {"at": iso(row["time"])} for row in rows]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def iso(time: int) -> str:
    return from_micros(time).isoformat()


def slow(rows: list[dict[str, Any]], entity: str, delay: int, told: dict[str, History]) -> list[float]:
    """The rate of four hours at each row: all rows before it, looked through one by one."""
    rates = []
    stream: list[int] = []
    ids = [row["id"] for row in rows]
    repeated = [id_ in ids[:i] for i, id_ in enumerate(ids)]
    for i, row in enumerate(rows):
        stream.append(max([row["time"], *stream[-1:]]))
        if repeated[i]:
            rates.append(math.nan)
            continue
        newest = row["time"] // HOP if not delay else (row["time"] - delay) // HOP - 1
        lowest = (row["time"] - delay) // HOP - 48
        events = positives = 0
        for j, other in enumerate(rows[:i]):
            if repeated[j] or other[entity] != row[entity] or not lowest <= other["time"] // HOP <= newest:
                continue
            events += 1
            label = 0.0
            for known_at, said in told.get(other["id"], ()):
                if max(known_at, stream[j] + 1) <= stream[i]:
                    label = said
            positives += label == 1
        rates.append(positives / events if events else math.nan)
    return rates


def rates(
    pipeline: Pipeline,
    events: Path,
    out: Path,
    *,
    batch_rows: int,
    delay: int = 0,
    histories: dict[str, History] | None = None,
    plan: BacktestPlan | None = None,
) -> dict[str, list[float]]:
    """Both rates of every verdict of a backtest."""
    tables = FeatureTables(pipeline)
    run_backtest(
        pipeline,
        read_events(events, pipeline, KEY, batch_rows=batch_rows, label_column="fraud"),
        lambda partition: PartitionScorer(pipeline, partition, tables=tables),
        out,
        plan or BacktestPlan(label_delay=delay),
        histories=histories,
    )
    return {name: read_feature(out, name).tolist() for name in ("account_rate_4h", "shop_rate_4h")}


def check(got: dict[str, list[float]], rows: list[dict[str, Any]], told: dict[str, History]) -> None:
    for name, entity, delay in (("account_rate_4h", "account", 0), ("shop_rate_4h", "shop", 10 * MINUTE)):
        wanted = slow(rows, entity, delay, told)
        np.testing.assert_array_equal(got[name], wanted[-len(got[name]) :], err_msg=name)
        assert 0.05 < np.nanmean(wanted) < 0.5


@pytest.mark.parametrize("delay", [0, 35 * MINUTE])
def test_labels_count_from_their_delay_on(
    pipeline: Pipeline, rows: list[dict[str, Any]], events: Path, tmp_path: Path, delay: int
) -> None:
    told: dict[str, History] = {}
    for row in rows:
        if row["fraud"] is not None:
            told.setdefault(row["id"], [(row["time"] + delay, float(row["fraud"]))])
    for batch_rows in (7, 20_000):
        got = rates(pipeline, events, tmp_path / "v.parquet", batch_rows=batch_rows, delay=delay)
        check(got, rows, told)


def histories_of(rows: list[dict[str, Any]]) -> dict[str, History]:
    """Labels known an hour before to an hour after the event; some are taken back, some of these come again."""
    chance = random.Random(4)
    told: dict[str, History] = {}
    for row in rows:
        known = row["time"] + chance.randrange(-60, 60) * MINUTE
        if row["id"] in told or not row["fraud"]:
            continue
        told[row["id"]] = [(known, 1.0)]
        if chance.random() < 0.5:
            told[row["id"]] = [(known, 1.0), (known + 30 * MINUTE, chance.choice([0.0, math.nan]))]
        if chance.random() < 0.2:
            told[row["id"]] = [*told[row["id"]], (known + 50 * MINUTE, 1.0)]
    return told


def test_labels_with_a_known_at_come_and_go(
    pipeline: Pipeline, rows: list[dict[str, Any]], events: Path, tmp_path: Path
) -> None:
    written = histories_of(rows)
    lines = ["id,fraud,known_at"]
    for id_, changes in written.items():
        # not in order of time: that is told by the column
        for known, label in reversed(changes):
            lines.append(f"{id_},{'' if math.isnan(label) else int(label)},{iso(known)}")
    file = tmp_path / "labels.csv"
    file.write_text("\n".join(lines) + "\n")
    found = find_labels(events, pipeline, file, None, KEY)
    assert found.histories is not None
    assert found.by_id is not None
    ends = {id_: changes[-1][1] for id_, changes in written.items()}
    assert found.by_id == {id_: label for id_, label in ends.items() if not math.isnan(label)}
    assert any(math.isnan(label) for label in ends.values())
    assert 0.0 in found.by_id.values()
    for batch_rows in (7, 20_000):
        got = rates(
            pipeline, events, tmp_path / "v.parquet", batch_rows=batch_rows, histories=dict(found.histories)
        )
        check(got, rows, written)


def test_labels_are_counted_while_detectors_wait_to_be_trained(
    pipeline: Pipeline, rows: list[dict[str, Any]], events: Path, tmp_path: Path
) -> None:
    told: dict[str, History] = {}
    for row in rows:
        told.setdefault(row["id"], [(row["time"], float(row["fraud"] or 0))])
    plan = BacktestPlan(train_until=START + ROWS // 2 * MINUTE, label_delay=0)
    got = rates(pipeline, events, tmp_path / "v.parquet", batch_rows=50, plan=plan)
    assert ROWS // 4 < len(got["account_rate_4h"]) < ROWS
    check(got, rows, told)


def test_a_known_at_that_is_no_time_names_the_row(pipeline: Pipeline, tmp_path: Path) -> None:
    file = tmp_path / "labels.csv"
    file.write_text("id,fraud,known_at\ne1,1,2024-01-01T00:00:00Z\ne2,1,soon\n")
    with pytest.raises(Fatal, match=r"row 1: known_at is 'soon'.*--label-delay"):
        read_histories(file, pipeline, KEY)
    file.write_text("id,fraud\ne1,1\n")
    assert read_histories(file, pipeline, KEY) is None


def test_a_backtest_without_labels_says_what_rates_are_worth(events: Path, tmp_path: Path) -> None:
    plain = tmp_path / "plain.jsonl"
    lines = [json.loads(line) for line in events.read_text().splitlines()[:20]]
    plain.write_text("".join(json.dumps({k: v for k, v in r.items() if k != "fraud"}) + "\n" for r in lines))
    arguments = ["backtest", "-p", str(LABELS), "-e", str(plain), "-o", str(tmp_path / "v.parquet")]
    result = CliRunner().invoke(app, arguments, env={"TIDEGATE_PRIVACY_KEY": "k" * 32})
    assert result.exit_code == 0, result.output
    assert "features count labels" in result.output
    told = CliRunner().invoke(
        app,
        [*arguments[:4], str(events), *arguments[5:], "--label-column", "fraud"],
        env={"TIDEGATE_PRIVACY_KEY": "k" * 32},
    )
    assert told.exit_code == 0, told.output
    assert "features count labels" not in told.output


def test_labels_carry_the_score_of_the_own_detectors_where_another_model_decided() -> None:
    learning = load(LABELS.with_name("learning_pipeline.yaml"))
    codec = EventCodec(learning, KEY)
    batch = codec.to_batch([codec.decode(e.payload, received_at=2**62) for e in flow(4)], range(4))
    x, ranks = np.zeros((2, len(learning.features))), np.zeros((2, len(learning.detectors)))
    known = KnownLabels(
        learning, 1, {f"e{n}": [(int(batch.times[n]) + 1, 1.0)] for n in range(4)}, learn=True
    )
    known.note(0, batch, np.empty(0))
    known.said(0, np.array([0, 1]), x, ranks, np.array([0.1, 0.2]))
    known.said(0, np.array([2, 3]), x, ranks, np.array([0.3, 0.4]), np.array([0.5, np.nan]))
    examples = known.due(0, int(batch.times[1])).examples
    assert examples is not None
    assert (len(examples), examples.own) == (1, None)
    examples = known.due(0, 2**60).examples
    assert examples is not None
    assert examples.own is not None
    assert np.array_equal(examples.score, [0.2, 0.3, 0.4])
    assert np.array_equal(examples.own, [0.2, 0.5, np.nan], equal_nan=True)
