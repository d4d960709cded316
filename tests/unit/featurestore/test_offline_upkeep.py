"""Compaction, sorting, expiry and vacuum: what readers see stays, what is pinned stays, the rest goes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from domain.clock import ManualClock
from featurestore.offline import OfflineStore, Pin, PinGone
from featurestore.offline_upkeep import (
    Housekeeper,
    UpkeepMetrics,
    UpkeepSettings,
    compact,
    expire,
    sort,
    vacuum,
)
from tests.unit.featurestore.offline_rows import DAY, LOG, NOON, label, scored, small, verdict_of

ALL = (0, 2**60, 2**60)
LATER = 2**55
"""Long after the files were written, whatever the machine's clock says."""
EAGER = UpkeepSettings(small_files=2)


@pytest.fixture
def store(tmp_path: Path) -> OfflineStore:
    """Twelve files of verdicts in two days, six of labels."""
    made = OfflineStore(str(tmp_path), small("amount", "tip"))
    for start in range(0, 60, 10):
        made.append_verdicts(
            [scored(i, time=NOON + i % 2 * DAY, event_id=f"e{i}") for i in range(start, start + 10)], LOG
        )
        made.append_labels(
            [label(start, verdict_of(start, event_id=f"e{start}", time=NOON), NOON, 1)], "labels"
        )
    return made


def sizes(store: OfflineStore) -> list[int]:
    snapshot = store.verdicts.snapshot()
    assert snapshot is not None
    rows: list[int] = snapshot.files()["num_records"].to_pylist()
    return sorted(rows)


def bits(store: OfflineStore, pin: Pin) -> list[bytes]:
    return [np.ascontiguousarray(c).tobytes() for c in store.examples(pin, *ALL).columns().values()]


def test_compaction_joins_files_and_changes_nothing(store: OfflineStore) -> None:
    pin = store.pin()
    before, bodies = bits(store, pin), store.find([f"e{i}" for i in range(60)])
    assert sizes(store) == [5] * 12
    assert compact(store.verdicts, UpkeepSettings(small_files=7)) == 0
    assert compact(store.verdicts, EAGER) == 2
    assert compact(store.labels, EAGER) == 1
    assert sizes(store) == [30, 30]
    assert store.pin() != pin
    assert bits(store, store.pin()) == before == bits(store, pin)
    assert store.find([f"e{i}" for i in range(60)]) == bodies
    assert compact(store.verdicts, EAGER) == 0
    # positions live in the log, not in files
    assert store.append_verdicts([scored(59)], LOG).repeated == 1


def test_quiet_days_are_sorted_once(store: OfflineStore) -> None:
    before = bits(store, store.pin())
    assert sort(store.verdicts, EAGER, 0, set()) == 0
    assert sort(store.verdicts, EAGER, LATER, set()) == 2
    assert sort(store.verdicts, EAGER, LATER, set()) == 0
    snapshot = store.verdicts.snapshot()
    assert snapshot is not None
    assert sizes(store) == [30, 30]
    for day in ("2023-11-15", "2023-11-16"):
        hashes = snapshot.read(["id_hash"], f"day = DATE '{day}'").read_all()["id_hash"].to_pylist()
        assert hashes == sorted(hashes)
    assert bits(store, store.pin()) == before
    assert len(store.find([f"e{i}" for i in range(60)])) == 60


def test_old_days_go_and_pins_of_them_stay_until_vacuum(store: OfflineStore) -> None:
    pin = store.pin()
    before = bits(store, pin)
    assert not expire(store.verdicts, NOON)
    assert expire(store.verdicts, NOON + DAY)
    assert store.find(["e0", "e1"]).keys() == {"e1"}
    assert bits(store, pin) == before
    # a pin that vacuum is told of outlives it, and so does what is younger than the limit
    assert vacuum(store.verdicts, 24 * DAY) == 0
    assert vacuum(store.verdicts, 0, [pin.verdicts]) == 0
    assert bits(store, pin) == before
    assert vacuum(store.verdicts, 0) == 6
    with pytest.raises(PinGone):
        bits(store, pin)
    assert len(store.examples(store.pin(), *ALL)) == 30


def test_months_of_labels_expire_whole(store: OfflineStore) -> None:
    assert not expire(store.labels, NOON + 10 * DAY)
    assert expire(store.labels, NOON + 20 * DAY)
    assert store.count(store.pin(), *ALL).labelled == 0


def test_a_round_does_what_is_due_and_says_so(store: OfflineStore, tmp_path: Path) -> None:
    registry = CollectorRegistry()
    (tmp_path / "small" / "verdicts" / "day=2023-11-15" / "left.parquet").write_text(
        "by a writer that was killed"
    )
    settings = UpkeepSettings(small_files=2, keep_rows=LATER - NOON - DAY, keep_versions=0)
    Housekeeper(store, ManualClock(LATER), settings, UpkeepMetrics(registry)).round()

    def done(table: str, what: str) -> float | None:
        return registry.get_sample_value("tidegate_offline_upkeep_total", {"table": table, "what": what})

    assert [done("verdicts", w) for w in ("expired", "sorted", "compacted", "vacuumed")] == [1, 1, 0, 13]
    assert registry.get_sample_value("tidegate_offline_files", {"table": "verdicts"}) == 1
    assert registry.get_sample_value("tidegate_offline_table_rows", {"table": "verdicts"}) == 30
    assert registry.get_sample_value("tidegate_offline_upkeep_failures_total") == 0


def test_rounds_survive_a_table_that_cannot_be_read_and_one_that_is_not_there(tmp_path: Path) -> None:
    registry = CollectorRegistry()
    log = tmp_path / "small" / "verdicts" / "_delta_log"
    log.mkdir(parents=True)
    (log / "00000000000000000000.json").write_text("no log")
    store = OfflineStore(str(tmp_path), small())
    Housekeeper(store, ManualClock(LATER), EAGER, UpkeepMetrics(registry)).round()
    assert registry.get_sample_value("tidegate_offline_upkeep_failures_total") == 1
