"""Nobody teaches the detectors much more than others do, and who may not teach leaves no trace."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from detectors.arrays import Arrays, pack, unpack
from detectors.ensemble import Ensemble
from detectors.guard import WINDOW, TeachingGuard
from domain.batch import Floats
from domain.pipeline import DetectorSpec, Guards
from tests.unit.detectors.test_ensemble import FOREST, HST, pipeline, traffic

ROWS = 2_600


def crowd(n: int, attacker: float, seed: int = 3) -> list[str]:
    """Values of 200 honest entities, and of one that sends a share."""
    rng = np.random.default_rng(seed)
    return ["him" if rng.random() < attacker else f"h{rng.integers(200)}" for _ in range(n)]


def test_one_value_teaches_no_more_than_its_multiple_of_the_average() -> None:
    values = crowd(3 * WINDOW, 0.3)
    may = TeachingGuard(4.0).admit(values)
    his = np.array([value == "him" for value in values])
    window = slice(2 * WINDOW, 3 * WINDOW)
    # the average of 201 values in a window is 49.8 rows
    assert may[window][his[window]].sum() == pytest.approx(4 * WINDOW / 201, abs=25)
    assert may[~his].mean() > 0.9999
    # the first of a value always may, and who is alone too
    assert TeachingGuard(1.0).admit([*values, "new"])[-1]
    assert TeachingGuard(1.0).admit(["him"] * 500).all()
    with pytest.raises(ValueError, match="1 at least"):
        TeachingGuard(0.5)


def test_who_falls_silent_may_teach_again_and_the_window_is_all_it_remembers() -> None:
    guard = TeachingGuard(1.5)
    guard.admit(["a"] + ["b"] * 10)
    first = guard.admit(["a"] * 40).tolist()
    assert not all(first)
    guard.admit([f"h{i % 300}" for i in range(WINDOW)])
    fresh = TeachingGuard(1.5)
    fresh.admit([f"h{i % 300}" for i in range(WINDOW)])
    later = crowd(500, 0.2)
    assert guard.admit(later).tolist() == fresh.admit(later).tolist()
    assert pack(guard.snapshot()) == pack(fresh.snapshot())


def test_cuts_and_snapshots_of_the_guard_change_nothing() -> None:
    values = crowd(WINDOW + 3_000, 0.2)
    whole = TeachingGuard(3.0).admit(values)
    guard = TeachingGuard(3.0)
    parts = []
    for at in range(0, len(values), 777):
        parts.append(guard.admit(values[at : at + 777]))
        successor = TeachingGuard(3.0)
        successor.restore(unpack(pack(guard.snapshot())))
        guard = successor
    assert np.array_equal(np.concatenate(parts), whole)
    assert 0.7 < whole.mean() < 0.95
    with pytest.raises(ValueError, match="'value'"):
        TeachingGuard(3.0).restore(Arrays())


ONLINE = DetectorSpec(name="online", kind="online_isolation_forest", params={"trees": 4, "memory": 256})


def test_rows_that_may_not_teach_are_scored_and_leave_no_trace() -> None:
    x = traffic(ROWS)
    teach = np.random.default_rng(5).random(ROWS) < 0.7
    declared = pipeline(HST, FOREST, ONLINE)
    whole = Ensemble(declared)
    said = whole.step(x, (), teach)
    # as if the others had not been there
    without = Ensemble(declared)
    alone = without.step(x[teach])
    for name in ("raw", "ranks", "score", "outside"):
        assert getattr(said, name)[teach].tobytes() == getattr(alone, name).tobytes(), name
    # and they got what they would have got then
    again = Ensemble(declared)
    at = 0
    for row in np.flatnonzero(~teach)[::16].tolist():
        again.step(x[at:row][teach[at:row]])
        at = row
        asked = again.score(x[row : row + 1])
        for name in ("raw", "ranks", "score", "outside"):
            assert getattr(said, name)[row].tobytes() == getattr(asked, name)[0].tobytes(), (name, row)
    assert np.isfinite(said.score[~teach][-200:]).all()


@pytest.mark.parametrize("size", [1, 7, 500])
def test_batches_change_no_bit_where_some_rows_do_not_teach(size: int) -> None:
    x, teach = traffic(ROWS), np.random.default_rng(6).random(ROWS) < 0.5
    declared = pipeline(HST, FOREST, ONLINE)
    whole = Ensemble(declared).step(x, (), teach)
    ensemble = Ensemble(declared)
    parts = [ensemble.step(x[at : at + size], (), teach[at : at + size]) for at in range(0, ROWS, size)]
    for name in ("raw", "ranks", "score", "outside", "reached"):
        assert (
            np.concatenate([getattr(p, name) for p in parts]).tobytes() == getattr(whole, name).tobytes()
        ), name


def test_who_sends_a_twentieth_of_the_traffic_does_not_teach_it_to_be_usual() -> None:
    """The attack of benchmarks/poisoning.py, small: without the guard the fraud ends among the usual."""
    rng = np.random.default_rng(8)
    fraud = np.array([9.0, 0.0, -9.0, 9.0])

    def attacked(times: float | None) -> Floats:
        declared = pipeline(*(DetectorSpec(name=k, kind=k) for k in ("half_space_trees", "isolation_forest")))
        ensemble = Ensemble(msgspec.structs.replace(declared, guards=Guards(teach_per_entity=times)))
        values = [f"h{i}" for i in rng.integers(0, 2_000, 16_000)]
        x = rng.normal(size=(16_000, 4))
        mine = (rng.random(16_000) < 0.05) & (np.arange(16_000) >= 3_000)
        x[mine] = fraud + rng.normal(size=(int(mine.sum()), 4)) * 0.1
        names = ["him" if own else value for own, value in zip(mine.tolist(), values, strict=True)]
        guard = ensemble.guard
        ensemble.step(x, (), None if guard is None else guard.admit(names))
        return ensemble.score(fraud + np.zeros((1, 4))).score

    assert attacked(4.0)[0] > 0.995
    assert attacked(None)[0] < 0.985
