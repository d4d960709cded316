"""The offline store on real Delta tables, against lists."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from domain.examples import Examples
from domain.verdict import ModelOutput, ModelRole, Verdict
from featurestore.hot_verdicts_port import VerdictQuery
from featurestore.offline import NEVER, LogRecord, OfflineStore, Pin, PinGone
from featurestore.offline_examples import ExampleReader
from featurestore.offline_schema import VERDICTS, pipeline_columns
from featurestore.offline_sql import SqlLimits
from featurestore.offline_table import OfflineTable
from tests.unit.featurestore.offline_rows import DAY, LOG, NOON, label, scored, small, verdict_of

PIPELINE = small("amount", "tip")
ALL = (0, 2**60, 2**60)


@pytest.fixture
def store(tmp_path: Path) -> OfflineStore:
    return OfflineStore(str(tmp_path), PIPELINE)


def bits(examples: Examples) -> dict[str, bytes]:
    return {name: np.ascontiguousarray(column).tobytes() for name, column in examples.columns().items()}


def offsets(store: OfflineStore) -> list[int]:
    """Seconds after NOON of all rows, in their order."""
    return [(t - NOON) // 1_000_000 for t in store.examples(store.pin(), *ALL).times.tolist()]


def test_without_tables_everything_is_empty(store: OfflineStore) -> None:
    assert store.pin() == Pin(-1, -1)
    assert store.find(["e0-1"]) == {}
    assert store.get("e0-1") is None
    examples = store.examples(store.pin(), *ALL)
    assert (examples.x.shape, examples.ranks.shape, len(examples)) == ((0, 2), (0, 2), 0)
    assert store.verdicts.position(LOG, 0) is None


def test_a_batch_is_written_once(store: OfflineStore) -> None:
    batch = [scored(i) for i in range(5)]
    assert store.append_verdicts(batch, LOG).written == 5
    again = store.append_verdicts([*batch[3:], scored(5)], LOG)
    assert (again.written, again.repeated) == (1, 2)
    nothing = store.append_verdicts(batch, LOG)
    assert (nothing.written, nothing.repeated, nothing.version) == (0, 5, again.version)
    assert offsets(store) == [0, 1, 2, 3, 4, 5]
    assert store.verdicts.position(LOG, 0) == 5


def test_partitions_and_logs_have_their_own_positions(store: OfflineStore) -> None:
    store.append_verdicts([scored(7), scored(3, partition=1)], LOG)
    assert [store.verdicts.position(LOG, p) for p in (0, 1, 2)] == [7, 3, None]
    # partition 1 goes on from 3 although partition 0 is at 7
    assert store.append_verdicts([scored(7), scored(4, partition=1)], LOG).written == 1
    assert store.append_verdicts([scored(1, time=NOON)], "small.verdicts/made anew").written == 1
    assert len(store.examples(store.pin(), *ALL)) == 4


def test_examples_tell_what_the_own_detectors_said_while_a_champion_decided(store: OfflineStore) -> None:
    def judged(own: float | None) -> dict[str, ModelOutput]:
        return {
            "own": ModelOutput(ModelRole.OWN, own, None),
            "m-1": ModelOutput(ModelRole.CHAMPION, 0.9, None, decided=True),
        }

    store.append_verdicts([scored(0, score=0.4)], LOG)
    assert store.examples(store.pin(), *ALL).own is None
    store.append_verdicts(
        [scored(1, score=0.9, models=judged(0.2)), scored(2, score=0.9, models=judged(None))], LOG
    )
    found = store.examples(store.pin(), *ALL)
    assert found.score.tolist() == [0.4, 0.9, 0.9]
    assert found.own is not None
    np.testing.assert_array_equal(found.own, [0.4, 0.2, np.nan])


class _Raced(OfflineTable):
    """A table to which somebody else writes between our look at it and our commit."""

    def __init__(self, other: OfflineTable, theirs: list[LogRecord], *args: Any) -> None:
        super().__init__(*args)
        self._other, self._theirs = other, theirs

    def _write(self, *args: Any) -> None:
        theirs, self._theirs = self._theirs, []
        if theirs:
            self._other.append(theirs, LOG)
        super()._write(*args)


@pytest.mark.parametrize("evolves", [False, True])
def test_a_second_writer_of_the_same_positions_does_not_write_them_again(
    tmp_path: Path, evolves: bool
) -> None:
    where = (str(tmp_path / "t"), VERDICTS, pipeline_columns(PIPELINE))
    other = OfflineTable(*where)
    other.append([scored(0)], LOG)
    theirs = [scored(i, features={"new": 1.0} if evolves else None) for i in (1, 2)]
    raced = _Raced(other, theirs, *where)
    done = raced.append([scored(i) for i in (1, 2, 3)], LOG)
    assert (done.written, done.repeated) == (1, 2)
    snapshot = raced.snapshot()
    assert snapshot is not None
    assert sorted(snapshot.read(["offset"], "true").read_all()["offset"].to_pylist()) == [0, 1, 2, 3]


def test_a_second_writer_of_another_partition_disturbs_nobody(tmp_path: Path) -> None:
    where = (str(tmp_path / "t"), VERDICTS, pipeline_columns(PIPELINE))
    raced = _Raced(OfflineTable(*where), [scored(i, partition=1) for i in (1, 2)], *where)
    assert raced.append([scored(1)], LOG).written == 1
    assert [raced.position(LOG, p) for p in (0, 1)] == [1, 2]


def test_what_is_no_verdict_is_counted_and_left_out(store: OfflineStore) -> None:
    strange = [
        b"",
        b"[]",
        b'{"id": "x"}',
        scored(3).value.replace(b'"event_time":17', b'"event_time":-999999999917'),
    ]
    done = store.append_verdicts(
        [scored(0), *(LogRecord(0, i + 1, v) for i, v in enumerate(strange)), scored(9)], LOG
    )
    assert (done.written, done.strangers) == (2, 4)
    assert (
        store.append_labels(
            [LogRecord(0, 0, b'{"id":"x","event_time":1,"known_at":1,"label":7}')], LOG
        ).strangers
        == 1
    )


def test_finds_the_bytes_of_the_topic(store: OfflineStore) -> None:
    batch = [scored(i, partition=i % 2) for i in range(40)]
    store.append_verdicts(batch[:20], LOG)
    store.append_verdicts([*batch[20:], scored(90, event_id="é\ud7ff'--", time=NOON - 400 * DAY)], LOG)
    ids = [f"e{i % 2}-{i}" for i in range(40)]
    assert store.find([*ids, "absent", ids[0]]) == {i: r.value for i, r in zip(ids, batch, strict=True)}
    assert store.get("é\ud7ff'--") is not None
    assert store.get("e0-1") is None


def test_of_several_on_one_id_the_first_that_is_no_repeat(store: OfflineStore) -> None:
    repeat, first, later = (
        scored(1, event_id="x", repeat_of=2, time=NOON - 5 * DAY),
        scored(2, event_id="x"),
        scored(3, event_id="x", time=NOON - 9 * DAY),
    )
    store.append_verdicts([repeat], LOG)
    assert store.get("x") == repeat.value
    store.append_verdicts([first, later], LOG)
    assert store.find(["x"]) == {"x": first.value}
    # on one day as well, whatever lies before and behind
    middle = scored(7, event_id="y")
    store.append_verdicts([scored(6, event_id="y", repeat_of=7), middle, scored(8, event_id="y")], LOG)
    assert store.find(["y"]) == {"y": middle.value}


def expected(
    verdicts: list[Verdict], changes: list[tuple[int, Verdict, int, int | None]], as_of: int
) -> Examples:
    """Row by row, from lists: what :meth:`OfflineStore.examples` says on its page."""
    rows = sorted(
        (v for v in verdicts if v.first is None),
        key=lambda v: (v.event_time, v.source.partition, v.source.offset),
    )

    def number(value: float | None) -> float:
        return math.nan if value is None else value

    held: dict[str, tuple[int | None, int]] = {}
    for _, about, known_at, value in sorted(changes, key=lambda c: c[0]):
        if known_at <= as_of:
            held[about.id] = (value, known_at)
    labels = [held.get(v.id, (None, NEVER)) for v in rows]
    return Examples(
        x=np.array([[number(v.features.get(n)) for n in PIPELINE.feature_names] for v in rows]),
        y=np.array([number(value) for value, _ in labels]),
        ranks=np.array([[number(v.detectors[n].rank) for n in ("hst", "forest")] for v in rows]),
        score=np.array([number(v.score) for v in rows]),
        times=np.array([v.event_time for v in rows]),
        known_at=np.array([NEVER if value is None else known for value, known in labels]),
    )


def history() -> tuple[list[Verdict], list[tuple[int, Verdict, int, int | None]]]:
    """Four days of verdicts in two partitions with ties in time, odd numbers and repeats; labels with reversals."""
    rng = np.random.default_rng(5)
    odd = [-0.0, 5e-324, 1e308, 0.1 + 0.2, None]
    verdicts = []
    for i in range(120):
        time = NOON + int(rng.integers(-2, 2)) * DAY + int(rng.integers(0, 30)) * 1_000_000_000
        vector = {"amount": odd[i % 5] if i % 3 == 0 else float(rng.normal()), "tip": float(rng.normal())}
        rank = (float(rng.random()), None if i % 7 else float(rng.random()))
        repeat = i - 1 if i % 10 == 9 else None
        verdicts.append(
            verdict_of(
                i, partition=i % 2, time=time, features=vector, ranks=rank, repeat_of=repeat,
                score=None if i < 4 else float(rng.random()),
            )
        )  # fmt: skip
    changes = []
    for n, i in enumerate(rng.integers(0, 119, size=80).tolist()):
        if verdicts[i].first is None:
            changes.append((n, verdicts[i], NOON + n * 1_000, (1, 0, None, 1)[n % 4]))
    return verdicts, changes


def fill(store: OfflineStore) -> tuple[list[Verdict], list[tuple[int, Verdict, int, int | None]]]:
    verdicts, changes = history()
    for start in range(0, len(verdicts), 50):
        records = [
            LogRecord(v.source.partition, v.source.offset, msgspec.json.encode(v))
            for v in verdicts[start : start + 50]
        ]
        store.append_verdicts(records, LOG)
    store.append_labels([label(n, about, known, value) for n, about, known, value in changes], "labels")
    return verdicts, changes


@pytest.mark.parametrize("as_of", [NOON - 1, NOON + 40_000, NOON + 80_000])
def test_examples_are_the_verdicts_bits_and_the_labels_of_the_moment(store: OfflineStore, as_of: int) -> None:
    verdicts, changes = fill(store)
    found = store.examples(store.pin(), 0, 2**60, as_of)
    wanted = expected(verdicts, changes, as_of)
    assert bits(found) == bits(wanted)
    assert np.signbit(found.x[found.x == 0.0]).any()
    counts = store.count(store.pin(), 0, 2**60, as_of)
    assert counts.rows == len(wanted)
    assert counts.labelled == np.isfinite(wanted.y).sum() > (0 if as_of > NOON else -1)
    assert counts.positive == np.nansum(wanted.y)


def test_a_range_is_its_part_of_the_whole(store: OfflineStore) -> None:
    fill(store)
    pin = store.pin()
    whole = store.examples(pin, 0, 2**60, NOON + 80_000)
    start, stop = int(whole.times[20]), int(whole.times[70])
    inside = np.flatnonzero((whole.times >= start) & (whole.times < stop))
    assert 20 < len(inside) < 90
    assert bits(store.examples(pin, start, stop, NOON + 80_000)) == bits(whole.take(inside))


def test_pieces_put_together_are_the_whole(store: OfflineStore) -> None:
    fill(store)
    pin = store.pin()
    reader = ExampleReader(
        PIPELINE, store.verdicts.snapshot(), store.labels.snapshot(), SqlLimits(), piece_rows=10
    )
    pieces = list(reader.pieces(0, 2**60, NOON + 80_000))
    assert len(pieces) > 5
    assert bits(Examples.joined(pieces)) == bits(store.examples(pin, 0, 2**60, NOON + 80_000))


def test_a_share_is_the_same_events_each_time(store: OfflineStore) -> None:
    fill(store)
    pin = store.pin()
    whole = {bytes(row) for row in store.examples(pin, *ALL).x}
    part = store.examples(pin, *ALL, share=0.4)
    assert 20 < len(part) < 70
    assert {bytes(row) for row in part.x} <= whole
    assert bits(part) == bits(store.examples(pin, *ALL, share=0.4))
    assert len(store.examples(pin, *ALL, share=0.0)) == 0


def test_a_pin_holds_still(store: OfflineStore) -> None:
    fill(store)
    pin = store.pin()
    before = bits(store.examples(pin, *ALL))
    store.append_verdicts([scored(500), scored(501, features={"amount": 1.0, "other": 2.0})], LOG)
    store.append_labels([label(500, verdict_of(500), NOON, 1)], "labels")
    assert bits(store.examples(pin, *ALL)) == before
    assert bits(store.examples(Pin.parse(str(pin)), *ALL)) == before
    assert bits(store.examples(store.pin(), *ALL)) != before
    with pytest.raises(PinGone, match="version 99 of the table verdicts"):
        store.examples(Pin(99, -1), *ALL)
    with pytest.raises(ValueError, match="is no pin"):
        Pin.parse("verdicts@x")


def test_a_new_feature_is_missing_in_old_rows_and_an_old_one_in_new_rows(tmp_path: Path) -> None:
    OfflineStore(str(tmp_path), PIPELINE).append_verdicts([scored(0)], LOG)
    newer = OfflineStore(str(tmp_path), small("amount", "speed"))
    # read before any row has it
    assert np.isnan(newer.examples(newer.pin(), *ALL).x[:, 1]).all()
    newer.append_verdicts([scored(1, features={"amount": 2.0, "speed": 3.5})], LOG)
    assert np.array_equal(newer.examples(newer.pin(), *ALL).x, [[0.0, np.nan], [2.0, 3.5]], equal_nan=True)
    older = OfflineStore(str(tmp_path), PIPELINE)
    assert older.append_verdicts([scored(2)], LOG).written == 1
    assert np.array_equal(older.examples(older.pin(), *ALL).x[:, 0], [0.0, 2.0, 2 / 3])


def test_a_verdict_of_a_newer_pipeline_than_ours_loses_nothing(tmp_path: Path) -> None:
    store = OfflineStore(str(tmp_path), PIPELINE)
    store.append_verdicts([scored(0, features={"amount": 1.0, "speed": 3.5})], LOG)
    newer = OfflineStore(str(tmp_path), small("amount", "speed"))
    assert newer.examples(newer.pin(), *ALL).x.tolist() == [[1.0, 3.5]]


def test_entities_are_in_the_order_of_the_examples(store: OfflineStore) -> None:
    store.append_verdicts(
        [scored(i, partition=i % 2, time=NOON + (i * 7 % 10) * 1_000_000) for i in range(10)], LOG
    )
    pin = store.pin()
    times = store.examples(pin, *ALL).times.tolist()
    by_time = {NOON + (i * 7 % 10) * 1_000_000: f"a{i % 3}" for i in range(10)}
    assert store.entity(pin, *ALL, "account") == [by_time[t] for t in times]
    share = store.entity(pin, *ALL, "account", share=0.5)
    assert share == [by_time[t] for t in store.examples(pin, *ALL, share=0.5).times.tolist()]
    assert store.entity(pin, *ALL, "absent") == [None] * 10
    assert store.entity(Pin(-1, -1), *ALL, "account") == []


def test_threads_read_while_one_writes(store: OfflineStore) -> None:
    store.append_verdicts([scored(0)], LOG)
    first = store.get("e0-0")

    def read(_: int) -> bool:
        page = store.page(VerdictQuery(limit=3))
        whole = len(store.examples(store.pin(), *ALL))
        return store.get("e0-0") == first and page.verdicts[-1:] != [] and whole >= 1

    with ThreadPoolExecutor(4) as pool:
        reading = pool.map(read, range(12))
        for i in range(1, 9):
            store.append_verdicts([scored(i)], LOG)
        assert all(reading)
    assert offsets(store) == list(range(9))
