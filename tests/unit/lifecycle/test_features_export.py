"""Training sets from files: which rows, which labels, and what is refused on the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from domain.clock import from_micros, to_micros
from domain.label_codec import JoinedLabel
from lifecycle.label_index import LabelIndex
from tidegate.cli import app

LABELS = Path(__file__).parents[2] / "system" / "labels_pipeline.yaml"
MINUTE = 60_000_000
START = 1_700_000_000_000_000
FRAUD = [1, 0, None, 1, 0, 1]


@pytest.fixture
def events(tmp_path: Path) -> Path:
    """Six events of one account, a minute apart; the second comes twice, one line is broken, the last is late."""
    times = [START + number * MINUTE for number in range(5)] + [START - 70 * MINUTE]
    lines = [
        json.dumps(
            {
                "id": f"e{i}",
                "at": from_micros(t).isoformat(),
                "account": "a",
                "shop": "s",
                "amount": i,
                "fraud": FRAUD[i],
            }
        )
        for i, t in enumerate(times)
    ]
    path = tmp_path / "events.jsonl"
    path.write_text("\n".join([lines[0], lines[1], lines[1], "{", *lines[2:]]) + "\n")
    return path


def export(out: Path, *options: str) -> tuple[int, str]:
    """``tidegate features export``: exit code, and everything it printed."""
    arguments = ["features", "export", "--pipeline", str(LABELS), "--out", str(out), "--json", *options]
    result = CliRunner().invoke(app, arguments, env={"TIDEGATE_PRIVACY_KEY": "k" * 32, "COLUMNS": "200"})
    return result.exit_code, result.output


def rows(out: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = pq.read_table(out).to_pylist()
    return found


def test_rows_and_labels_of_a_file(events: Path, tmp_path: Path) -> None:
    out = tmp_path / "train.parquet"
    code, said = export(out, "--events", str(events), "--label-column", "fraud", "--label-delay", "2m")
    assert code == 0, said
    found = rows(out)
    assert [row["id"] for row in found] == [f"e{i}" for i in range(6)]
    assert [row["offset"] for row in found] == [0, 1, 4, 5, 6, 7]
    assert [row["label"] for row in found] == FRAUD
    assert [row["late"] for row in found] == [False] * 5 + [True]
    assert {(row["partition"], row["e_account"]) for row in found} == {(0, "a")}
    since = [row["label_known_at"] for row in found]
    assert since[2] is None
    assert to_micros(since[3]) == START + 5 * MINUTE
    # e0 is known from e2 on (two minutes later), e3 not before the sixth minute
    assert [row["f_account_rate_4h"] for row in found[:5]] == [None, 0.0, 1 / 2, 1 / 3, 1 / 4]
    facts = json.loads(said.splitlines()[-1])
    assert (facts["read"], facts["rows"], facts["labelled"], facts["positives"]) == (8, 6, 5, 3)
    assert (facts["duplicates"], facts["rejected"], facts["out_of_order"]) == (1, {"not_json": 1}, 1)
    assert len(facts["warnings"]) == 2
    metadata = pq.read_schema(out).metadata
    assert (metadata[b"pipeline"], metadata[b"pipeline_digest"].decode()) == (
        b"labels",
        facts["pipeline_digest"],
    )


def test_as_of_and_since(events: Path, tmp_path: Path) -> None:
    out = tmp_path / "train.parquet"
    options = ["--events", str(events), "--label-column", "fraud", "--label-delay", "2m"]
    times = [from_micros(START + minutes * MINUTE).isoformat() for minutes in (3, 1)]
    code, said = export(out, *options, "--as-of", times[0], "--since", times[1])
    assert code == 0, said
    assert [(row["id"], row["label"]) for row in rows(out)] == [
        ("e1", 0),
        ("e2", None),
        ("e3", None),
        ("e4", None),
    ]
    # what lies before the first row still counts
    assert [row["f_account_count_1h"] for row in rows(out)] == [2, 3, 4, 5]


def test_without_labels_it_says_so(events: Path, tmp_path: Path) -> None:
    lenient = "\n".join(
        json.dumps({k: v for k, v in json.loads(line).items() if k != "fraud"})
        for line in events.read_text().splitlines()
        if line != "{"
    )
    events.write_text(lenient + "\n")
    code, said = export(tmp_path / "train.parquet", "--events", str(events))
    assert code == 0, said
    assert "there are none" in json.loads(said.splitlines()[-1])["warnings"][0]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ([], "give either --events FILE or --topics"),
        (["--topics", "--events", "x.csv"], "give either --events FILE or --topics"),
        (["--topics", "--label-delay", "1d"], "topics carry their own labels"),
        (["--events", "x.csv", "--allow-truncated"], "a file is taken as it is"),
        (["--topics", "--as-of", "soon"], "'soon' is no time"),
        (["--events", "x.csv", "--label-delay", "soon"], "write for example 7d"),
    ],
)
def test_wrong_usage(options: list[str], said: str, tmp_path: Path) -> None:
    code, printed = export(tmp_path / "train.parquet", *options)
    assert code == 2
    assert said in " ".join(printed.split())


def test_the_last_label_known_at_a_time() -> None:
    def told(id_: str, known_at: int, label: Any, time: int = 5) -> JoinedLabel:
        return JoinedLabel(id=id_, event_time=time, known_at=known_at, label=label, entities={})

    log = [told("a", 10, 1), told("b", 11, 0), told("a", 20, 0), told("c", 21, 1), told("c", 22, None)]
    log.append(told("a", 30, 1, time=6))  # another event that shares an id
    ids, times = ["a", "b", "c", "d", "a"], np.array([5, 5, 5, 5, 6])
    for as_of, labels, since in (
        (None, [0, 0, np.nan, np.nan, 1], [20, 11, -1, -1, 30]),
        (21, [0, 0, 1, np.nan, np.nan], [20, 11, 21, -1, -1]),
        (10, [1, np.nan, np.nan, np.nan, np.nan], [10, -1, -1, -1, -1]),
        (9, [np.nan] * 5, [-1] * 5),
    ):
        index = LabelIndex(as_of)
        for number, one in enumerate(log):
            index.add(one)
            for other in range(3_000):  # more than fit into one chunk
                index.add(told(f"other-{number}-{other}", 1, 1))
        found, known_at = index.look_up(ids, times)
        np.testing.assert_array_equal(found, labels)
        assert known_at.tolist() == since
