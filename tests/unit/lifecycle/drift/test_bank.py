from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from detectors.arrays import Arrays, pack, unpack
from lifecycle.drift.bank import Bank
from lifecycle.drift.settings import Cadence, DriftSettings
from lifecycle.drift.state import restore_bank, snapshot_bank
from lifecycle.drift.watch import Moved
from tests.unit.lifecycle.drift.streams import SMALL, hours, keys, play, small_bank

BEGIN = SMALL.warm_up + SMALL.reference


@pytest.fixture(scope="module")
def watching() -> bytes:
    """A bank whose reference is just complete."""
    bank = small_bank()
    assert play(bank, *hours(BEGIN, seed=1)) == []
    assert bank.watch is not None
    return pack(snapshot_bank(bank))


def revived(state: bytes) -> Bank:
    bank = small_bank()
    restore_bank(bank, unpack(state))
    return bank


def plain(moved: list[Moved]) -> list[Any]:
    return [
        (m.column, m.cell, m.since, m.exceeded, m.expected.tolist(), m.current.tolist(), m.shift)
        for m in moved
    ]


def test_days_and_nights_are_no_drift_and_a_shift_is_told_once_with_since_when(watching: bytes) -> None:
    bank = revived(watching)
    assert play(bank, *hours(96, seed=12, first=BEGIN)) == []
    changed = BEGIN + 96
    [alarm] = play(bank, *hours(60, seed=12, first=changed, shift=0.8))
    assert alarm.column == 0
    assert changed <= alarm.cell < changed + 24
    assert abs(alarm.since - changed) <= 6
    assert alarm.shift > 0.02
    assert {kind for kind, _, _ in alarm.exceeded} & {"psi", "ks", "page_hinkley"}
    assert all(statistic > threshold for kind, statistic, threshold in alarm.exceeded)
    assert alarm.current.sum() == pytest.approx(alarm.expected.sum())


def test_a_column_that_goes_missing_is_told(watching: bytes) -> None:
    bank = revived(watching)
    rows, x = hours(24, seed=3, first=BEGIN)
    x[np.random.default_rng(1).random(len(x)) < 0.3, 1] = np.nan
    [alarm] = play(bank, rows, x)
    assert alarm.column == 1
    assert alarm.current[0] > 0.005 * alarm.current.sum()
    assert alarm.expected[0] < 0.002 * alarm.expected.sum()


def test_stopped_and_revived_at_any_hour_it_says_the_same_bits(watching: bytes) -> None:
    rows, x = hours(40, seed=4, first=BEGIN)
    more_rows, more = hours(60, seed=5, first=BEGIN + 40, shift=1.0)
    rows, x = np.concatenate([rows, more_rows]), np.concatenate([x, more])
    whole = revived(watching)
    expected = plain(play(whole, rows, x))
    assert expected
    bank = revived(watching)
    said: list[Any] = []
    named = keys(len(rows), 0)
    for cell in range(BEGIN, BEGIN + 100):
        own = np.flatnonzero(rows == cell)
        for half in np.array_split(own, 2):
            bank.add(rows[half], named[half], x[half])
            if cell % 7 == 3:
                bank = revived(pack(snapshot_bank(bank)))
        said += plain(bank.close_until(cell + 1))
    assert said == expected
    assert pack(snapshot_bank(bank)) == pack(snapshot_bank(whole))


def test_the_order_of_rows_within_open_cells_changes_nothing() -> None:
    rows, x = hours(BEGIN, seed=1)
    named = keys(len(rows), 0)
    # two partitions, one of which is a day ahead; everything is closed as the slower one comes along
    late = rows + 24 * (named % 2).astype(np.int64)
    order = np.lexsort((named, late))
    bank = small_bank()
    for number, part in enumerate(np.array_split(order, 60)):
        bank.add(rows[part], named[part], x[part])
        bank.close_until(int(late[part].max()) - 25)
        if number in (3, 5, 40):
            bank = revived(pack(snapshot_bank(bank)))
    bank.close_until(BEGIN)
    straight = small_bank()
    play(straight, rows, x)
    assert bank.late == straight.late == 0
    assert bank.watch is not None
    assert pack(snapshot_bank(bank)) == pack(snapshot_bank(straight))


def test_after_an_alarm_a_new_reference_is_gathered_and_takes_over(watching: bytes) -> None:
    bank = revived(watching)
    assert bank.watch is not None
    old = bank.watch.reference.id
    first = BEGIN
    [alarm] = play(bank, *hours(48, seed=6, first=first, shift=3.0))
    assert bank.gathering is not None
    length = alarm.cell + 1 + SMALL.window + SMALL.reference - (first + 48)
    play(bank, *hours(length, seed=6, first=first + 48, shift=3.0))
    assert bank.watch.reference.id != old
    assert play(bank, *hours(48, seed=8, first=bank.watch.next_cell, shift=3.0)) == []


def test_late_rows_are_counted_and_silence_is_passed_over(watching: bytes) -> None:
    bank = revived(watching)
    rows, x = hours(2, seed=1, first=BEGIN - 5)
    bank.add(rows, keys(len(rows), 1), x)
    assert bank.late == len(rows)
    assert bank.close_until(BEGIN + 10_000_000) == []
    rows, x = hours(30, seed=1, first=BEGIN + 10_000_008)
    assert play(bank, rows, x) == []
    assert bank.late == 0 + len(hours(2, seed=1, first=BEGIN - 5)[0])


def test_too_thin_a_reference_is_begun_again_and_says_why() -> None:
    bank = small_bank()
    rows = np.arange(0, BEGIN, 4)
    bank.add(rows, keys(len(rows), 1), np.ones((len(rows), 2)))
    bank.close_until(BEGIN)
    assert bank.watch is None
    assert bank.note is not None
    assert "longer cell" in bank.note
    assert bank.gathering is not None
    assert bank.gathering.first == BEGIN


def test_foreign_state_is_refused(watching: bytes) -> None:
    with pytest.raises(ValueError, match="drift state"):
        restore_bank(small_bank(), Arrays())
    state = unpack(watching)
    del state.arrays["watch/shares"]
    with pytest.raises(ValueError, match="shares"):
        restore_bank(small_bank(), state)


def test_cadences_that_can_not_work_are_refused() -> None:
    with pytest.raises(ValueError, match="two seasons"):
        Cadence(reference=168)
    with pytest.raises(ValueError, match="prime"):
        Cadence(recent=200)
    with pytest.raises(ValueError, match="per_month"):
        DriftSettings(per_month=0.0)
    assert Cadence.hourly(reference_days=30).reference == 28 * 24
    assert Cadence.hourly(reference_days=3).season == 24
