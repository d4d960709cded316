"""A file of labels means the same changes however often, and in however many pieces, it is imported."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from domain.clock import to_micros
from domain.errors import Fatal
from domain.pipeline import Pipeline
from domain.privacy import Protector
from lifecycle.label_import import (
    ImportPlan,
    LabelledEvent,
    Present,
    decide,
    plan_import,
    records,
)
from lifecycle.label_rows import Label, LabelColumns, LabelFile, Told, find_columns, read_label_file
from tidegate.loading import load

KEY = Protector(b"k" * 32)
NOW = to_micros(datetime(2026, 3, 1, tzinfo=UTC))
EARLIER = to_micros(datetime(2026, 2, 1, 8, tzinfo=UTC))
MAX_FUTURE = 300_000_000


@pytest.fixture
def pipeline(tmp_path: Path) -> Pipeline:
    return declared(tmp_path, "order: {type: integer, source: NO, minimum: 0}")


def declared(folder: Path, id_field: str) -> Pipeline:
    path = folder / "pipeline.yaml"
    path.write_text(
        f"""
pipeline: shop
version: 1
event:
  id: order
  time: at
  key: buyer
  max_future: 5m
  fields:
    {id_field}
    at: {{type: timestamp, source: WHEN}}
    buyer: {{type: string, source: WHO}}
features:
  buyer_rate_1d: {{entity: buyer, aggregate: rate, of: label, window: 1d}}
detectors:
  hst: {{kind: half_space_trees}}
decision:
  review: {{budget: 0.1}}
""",
        encoding="utf-8",
    )
    return load(path)


def written(folder: Path, name: str, rows: list[dict[str, Any]]) -> Path:
    path = folder / name
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif path.suffix == ".jsonl":
        path.write_text("\n".join(json.dumps(row, default=str) for row in rows), encoding="utf-8")
    else:
        lines = [",".join(rows[0])]
        lines += [",".join("" if cell is None else str(cell) for cell in row.values()) for row in rows]
        path.write_text("\n".join(lines), encoding="utf-8")
    return path


def read(path: Path, pipeline: Pipeline, **how: Any) -> LabelFile:
    return read_label_file(path, pipeline, KEY, find_columns(path, pipeline), now=NOW, **how)


@pytest.mark.parametrize("name", ["l.csv", "l.jsonl", "l.parquet"])
def test_rows_of_all_formats_say_the_same(pipeline: Pipeline, tmp_path: Path, name: str) -> None:
    later = datetime(2026, 2, 2, tzinfo=UTC)
    first = datetime(2026, 2, 1, 8, tzinfo=UTC)
    rows: list[dict[str, Any]] = [
        {"NO": 7, "outcome": 0, "known_at": later},
        {"NO": 7, "outcome": 1, "known_at": first},
        {"NO": 8, "outcome": None, "known_at": first},
    ]
    path = written(tmp_path, name, rows)
    assert find_columns(path, pipeline) == LabelColumns("NO", "outcome", "known_at")
    told = read(path, pipeline)
    assert told.rows == 3
    assert told.told == {
        "7": [Told(EARLIER, 1, 1), Told(to_micros(later), 0, 0)],
        "8": [Told(EARLIER, None, 2)],
    }


def test_ids_are_those_of_verdicts(pipeline: Pipeline, tmp_path: Path) -> None:
    # a column with a gap somewhere comes as floats from many programs
    floats = written(tmp_path, "f.parquet", [{"id": 12.0, "label": 1}])
    assert read(floats, pipeline).told == {"12": [Told(NOW, 1, 0)]}
    zeros = written(tmp_path, "z.csv", [{"NO": "0012", "label": 1}])
    assert read(zeros, pipeline, known_at=EARLIER).told == {"12": [Told(EARLIER, 1, 0)]}
    secret = declared(tmp_path, "order: {type: string, max_length: 30, sensitive: true}")
    card = written(tmp_path, "c.csv", [{"order": "0012", "label": 1}])
    assert list(read(card, secret).told) == [KEY.protect("0012")]


@pytest.mark.parametrize(
    ("cell", "micros"),
    [
        ("2026-02-01T08:00:00Z", EARLIER),
        ("2026-02-01T09:00+01:00", EARLIER),
        ("2026-02-01 08:00", EARLIER),
        (str(EARLIER), EARLIER),
        (EARLIER, EARLIER),
        (date(2026, 3, 1), NOW),
    ],
)
def test_times_are_read_in_every_usual_spelling(
    pipeline: Pipeline, tmp_path: Path, cell: Any, micros: int
) -> None:
    path = written(tmp_path, "t.parquet", [{"id": 1, "label": 1, "known_at": cell}])
    assert read(path, pipeline).told["1"][0].known_at == micros


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ({"known_at": "soon"}, "row 1: known_at is no time"),
        ({"known_at": None}, "row 1: known_at is empty"),
        ({"known_at": "1769932800"}, "row 1: known_at is no time"),  # seconds
        ({"known_at": str(NOW + MAX_FUTURE + 1)}, "row 1: known_at lies 5m1us ahead"),
        ({"label": "perhaps"}, "row 1: 'perhaps' is not a label"),
        ({"id": None}, "row 1 has no event id"),
    ],
)
def test_a_bad_row_is_named_with_its_remedy(
    pipeline: Pipeline, tmp_path: Path, row: dict[str, Any], told: str
) -> None:
    good = {"id": "1", "label": "1", "known_at": str(NOW + MAX_FUTURE)}
    path = written(tmp_path, "bad.csv", [good, {**good, **row}])
    with pytest.raises(Fatal, match=told) as caught:
        read(path, pipeline)
    assert caught.value.remedy


def test_a_file_that_does_not_fit_is_refused(pipeline: Pipeline, tmp_path: Path) -> None:
    path = written(tmp_path, "l.csv", [{"txn": "1", "a": "1", "b": "2"}] * 3)
    with pytest.raises(Fatal, match="no column 'NO' of event ids"):
        find_columns(path, pipeline)
    with pytest.raises(Fatal, match="no column 'x'; its columns are txn, a, b") as caught:
        find_columns(path, pipeline, id_column="txn", known_at_column="x")
    assert "--known-at-column" in caught.value.remedy
    with pytest.raises(Fatal, match="no telling which column"):
        find_columns(path, pipeline, id_column="txn")
    assert find_columns(path, pipeline, id_column="txn", known_at_column="b").label == "a"
    columns = find_columns(path, pipeline, id_column="txn", label_column="a")
    with pytest.raises(Fatal, match="more than 2 rows") as caught:
        read_label_file(path, pipeline, KEY, columns, now=NOW, max_rows=2)
    assert "split it" in caught.value.remedy
    assert read_label_file(path, pipeline, KEY, columns, now=NOW, max_rows=3).rows == 3
    with pytest.raises(Fatal, match="--known-at lies 10m ahead"):
        read_label_file(path, pipeline, KEY, columns, now=NOW, known_at=NOW + 2 * MAX_FUTURE)


EVENT = LabelledEvent(1_000, ("b1",), 0, b"b1")


def changes(told: list[Told], present: Present | None = None) -> list[tuple[int, Label, Label]]:
    decided = decide({"e": told}, {} if present is None else {"e": present})
    made = decided.changes.get("e", [])
    assert len(made) + decided.unchanged + decided.superseded == len(told)
    return [(change.known_at, change.label, change.previous) for change in made]


def test_only_what_changes_is_written() -> None:
    assert changes([Told(5, 1, 0), Told(6, 1, 1), Told(7, 0, 2), Told(8, None, 3)]) == [
        (5, 1, None),
        (7, 0, 1),
        (8, None, 0),
    ]
    assert changes([Told(5, None, 0)]) == []
    assert changes([Told(5, 1, 0), Told(5, 0, 1)]) == [(5, 0, None)], "of one moment the last row counts"
    known = Present(1, 6, EVENT)
    assert changes([Told(5, 0, 0)], known) == [], "older than what is known"
    assert changes([Told(6, 0, 0)], known) == [(6, 0, 1)]
    assert changes([Told(9, 1, 0)], known) == []
    assert changes([Told(9, None, 0)], known) == [(9, None, 1)]


def test_changes_go_to_their_event_in_order_of_known_at() -> None:
    told = {
        "a": [Told(30, 1, 0)],
        "b": [Told(10, 1, 1), Told(40, 0, 4)],
        "c": [Told(20, 0, 2)],
        "nowhere": [Told(5, 1, 3)],
        "old": [Told(5, 1, 5)],
        "d": [Told(50, 0, 6)],
    }
    before = LabelledEvent(9, ("b0",), 1, None)
    decided = decide(told, {"d": Present(1, 7, before)})
    assert decided.sought == {"a", "b", "c", "nowhere", "old"}
    there = {
        "a": EVENT,
        "b": LabelledEvent(2_000, ("b2",), 0, b"b2"),
        "c": LabelledEvent(3_000, ("b3",), 1, b"b3"),
        "d": EVENT,
    }
    plan = plan_import(decided, there, {"old"})
    assert plan.orphans == [(3, "nowhere")]
    assert plan.incomplete == [(5, "old")]
    assert plan.by_label == {1: 2, 0: 3}
    assert plan.count == 5
    made = list(records(plan, ("buyer",), origin="bank"))
    assert [(partition, key, label.id, label.known_at) for partition, key, label in made] == [
        (0, b"b2", "b", 10),
        (0, b"b1", "a", 30),
        (0, b"b2", "b", 40),
        (1, b"b3", "c", 20),
        (1, None, "d", 50),
    ]
    last = made[-1][2]
    assert (last.event_time, last.label, last.previous) == (9, 0, 1), (
        "a reversal is about the event it reverses"
    )
    assert (last.entities, last.origin) == ({"buyer": "b0"}, "bank")


def apply(known: dict[str, Present], made: list[Any]) -> None:
    for partition, key, label in made:
        before = known.get(label.id)
        assert label.previous == (None if before is None else before.label)
        assert before is None or label.known_at >= before.known_at
        event = LabelledEvent(label.event_time, tuple(label.entities.values()), partition, key)
        known[label.id] = Present(label.label, label.known_at, event)


def planned(told: dict[str, list[Told]], known: dict[str, Present]) -> ImportPlan:
    return plan_import(decide(told, known), {id_: EVENT._replace(partition=ord(id_) % 2) for id_ in "abcd"})


@settings(max_examples=50, deadline=None)
@given(
    st.lists(
        st.lists(
            st.tuples(st.sampled_from("abcd"), st.integers(0, 6), st.sampled_from([0, 1, None])), max_size=12
        ),
        min_size=1,
        max_size=3,
    ),
    st.data(),
)
def test_cut_anywhere_and_run_again_every_change_is_there_once(
    files: list[list[tuple[str, int, Label]]], data: st.DataObject
) -> None:
    whole: dict[str, Present] = {}
    pieces: dict[str, Present] = {}
    log: list[Any] = []
    wanted: list[Any] = []
    for rows in files:
        told: dict[str, list[Told]] = {}
        for number, (id_, known_at, label) in enumerate(rows):
            told.setdefault(id_, []).append(Told(known_at, label, number))
        for of_one in told.values():
            of_one.sort(key=lambda one: one.known_at)
        at_once = list(records(planned(told, whole), ("buyer",)))
        apply(whole, at_once)
        wanted += at_once
        for _ in range(3):
            made = list(records(planned(told, pieces), ("buyer",)))
            made = made[: data.draw(st.integers(0, len(made)))]
            apply(pieces, made)
            log += made
        made = list(records(planned(told, pieces), ("buyer",)))
        apply(pieces, made)
        log += made
        assert planned(told, pieces).count == 0
    assert pieces == whole
    for id_ in "abcd":
        assert [r for r in log if r[2].id == id_] == [r for r in wanted if r[2].id == id_]
