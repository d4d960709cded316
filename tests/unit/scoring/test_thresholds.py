"""Thresholds from labels and from the capacity of reviewers: right, honest, and of fixed bits."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from detectors.arrays import pack, unpack
from domain.batch import Floats, Ints
from domain.pipeline import Cost, Threshold
from scoring.capacity import DailyCapacity
from scoring.score_labels import DAY, ScoreLabels
from scoring.thresholds import CostThreshold, Learned, PrecisionThreshold, learned_threshold


def labelled(n: int, seed: int) -> tuple[Floats, Floats, Floats, Ints]:
    """Scores, labels, amounts and known-at times of n events over 30 days; 3 % fraud, all of it in the top 6 %."""
    rng = np.random.default_rng(seed)
    score = rng.random(n)
    y = np.where(rng.random(n) < chance(score), 1.0, 0.0)
    return score, y, rng.exponential(80.0, n), np.sort(rng.integers(0, 30 * DAY, n)) + 20_000 * DAY


def chance(score: Floats) -> Floats:
    """The probability of fraud, rising from 0 at 0.94 to 1 at 1."""
    return np.clip((score - 0.94) / 0.06, 0.0, 1.0)


def true_precision(threshold: float) -> float:
    return float(chance(np.linspace(threshold, 1.0, 10_001)).mean())


def test_the_precision_asked_for_is_reached_and_not_wasted() -> None:
    reached = []
    for seed in range(60):
        threshold = PrecisionThreshold(0.8)
        threshold.learn(*labelled(20_000, seed))
        found = threshold.threshold()
        assert found is not None
        reached.append(true_precision(found))
    assert np.mean(np.array(reached) >= 0.8) >= 0.9
    assert np.min(reached) > 0.76
    assert np.mean(reached) < 0.86


def test_without_enough_labels_precision_abstains() -> None:
    threshold = PrecisionThreshold(0.9)
    score, y, amount, known = labelled(300, 1)
    times = np.zeros(300, dtype=np.int64)
    assert not threshold.step(score, amount, times).any()
    assert "precision of 0.9" in str(threshold.abstains_because)
    threshold.learn(score, y, amount, known)
    assert threshold.threshold() is None
    threshold.learn(np.full(25, 0.999), np.ones(25), np.ones(25), np.full(25, known[-1]))
    assert threshold.threshold() is not None
    assert threshold.abstains_because is None
    assert not threshold.step(np.array([np.nan, 0.5]), np.ones(2), np.zeros(2, dtype=np.int64)).any()
    # labels that are taken back are gone
    again = np.full(25, 0.999)
    threshold.learn(again, np.full(25, np.nan), again, np.full(25, known[-1]), previous=np.ones(25))
    assert threshold.threshold() is None


def test_labels_fade() -> None:
    labels = ScoreLabels()
    one = np.array([0.9])
    for year in range(12):
        labels.learn(one, np.array([1.0]), one * 100.0, np.array([year * 360 * DAY], dtype=np.int64))
    # 360 days are six half-lives
    assert labels.counts()[1].sum() == pytest.approx(1.0 / (1.0 - 2.0**-6), rel=1e-9)
    assert labels.mean_amount() == pytest.approx(90.0)


def test_costs_decide_row_by_row() -> None:
    threshold = CostThreshold(Cost(false_alarm=5.0, missed="amount"))
    score, y, amount, known = labelled(40_000, 3)
    assert not threshold.step(score, amount, known).any()
    assert "20 frauds" in str(threshold.abstains_because)
    threshold.learn(score, y, amount, known)
    fresh, truth, stake, _ = labelled(40_000, 4)
    alert = threshold.step(fresh, stake, known)

    def bill(alerts: npt.NDArray[np.bool_]) -> float:
        return float((5.0 * (alerts & (truth == 0.0)) + stake * (~alerts & (truth == 1.0))).sum())

    p = chance(fresh)
    best = bill(p * stake > (1.0 - p) * 5.0)
    assert bill(alert) < 1.05 * best
    assert bill(alert) < 0.97 * min(bill(fresh >= t) for t in np.linspace(0.9, 1.0, 101))
    assert threshold.probability(np.array([0.97]))[0] == pytest.approx(0.5, abs=0.1)
    small, great = threshold.step(np.full(2, 0.945), np.array([1.0, 1e6]), known[:2])
    assert (small, great) == (False, True)


def traffic(days: int, seed: int) -> tuple[Floats, Ints]:
    """Values and times: days of uneven size with a night, values that drift upwards."""
    rng = np.random.default_rng(seed)
    times = []
    for day in range(days):
        n = int(rng.integers(4_000, 8_000))
        hours = np.clip(rng.normal(14.0, 4.0, n), 0.0, 23.999)
        times.append(np.sort(day * DAY + (hours * 3_600e6).astype(np.int64)))
    at = np.concatenate(times)
    return rng.normal(size=len(at)) + 0.1 * at / DAY, at


def test_capacity_is_used_up_and_never_exceeded_by_nearly_the_best_of_each_day() -> None:
    values, times = traffic(12, 5)
    taken = DailyCapacity(50.0).step(values, times)
    share = []
    for day in range(2, 12):
        rows = times // DAY == day
        assert 45 <= taken[rows].sum() <= 50
        best = np.sort(values[rows])[-50:]
        share.append((values[rows & taken] >= best[0]).sum() / 50)
    assert np.mean(share) > 0.75
    # chance would be one in a hundred
    uneven = DailyCapacity(2.5).step(values, times)
    assert [int(uneven[times // DAY == day].sum()) for day in range(2, 12)] == [2, 3] * 5


def test_costs_with_a_capacity_take_what_saves_most() -> None:
    threshold = CostThreshold(Cost(false_alarm=5.0, missed="amount", per_day=40.0), partitions=2)
    score, y, amount, known = labelled(40_000, 6)
    threshold.learn(score, y, amount, known)
    alerts = threshold.step(score, amount, known)
    saved = chance(score) * amount - (1.0 - chance(score)) * 5.0
    hindsight = 0.0
    days = known // DAY - known[0] // DAY
    for day in range(1, 30):
        assert 15 <= alerts[days == day].sum() <= 20
        hindsight += np.sort(saved[days == day])[-20:].sum()
    assert saved[alerts & (days > 0)].sum() > 0.9 * hindsight


@pytest.mark.parametrize(
    "declared",
    [
        Threshold(precision=0.7),
        Threshold(cost=Cost(false_alarm=5.0, missed="amount", per_day=30.0)),
        Threshold(cost=Cost(false_alarm=5.0, missed=100.0)),
        Threshold(per_day=30.0),
    ],
)
def test_batches_and_snapshots_change_nothing(declared: Threshold) -> None:
    score, y, amount, known = labelled(12_000, 7)
    score[::97], y[::89], amount[::83] = np.nan, np.nan, np.nan
    known = known + np.where(np.arange(12_000) > 6_000, 4_000 * DAY, 0)  # the base moves on the way
    previous = np.where(np.arange(12_000) % 50 == 0, 1.0 - np.nan_to_num(y), np.nan)

    def play(size: int, *, put_away: bool) -> tuple[npt.NDArray[np.bool_], bytes]:
        threshold = learned_threshold(declared, partitions=3)
        said = []
        for tick in range(0, 12_000, 3_000):
            parts = [slice(a, min(a + size, tick + 3_000)) for a in range(tick, tick + 3_000, size)]
            for part in parts:
                said.append(threshold.step(score[part], amount[part], known[part]))
                threshold = again(declared, threshold) if put_away else threshold
            for part in parts:
                threshold.learn(score[part], y[part], amount[part], known[part], previous[part])
                threshold = again(declared, threshold) if put_away else threshold
        return np.concatenate(said), pack(threshold.snapshot())

    # labels count at ticks; between them any cut says the same and leaves the same state
    whole = play(3_000, put_away=False)
    for size, put_away in ((3_000, True), (271, False), (271, True)):
        said, state = play(size, put_away=put_away)
        assert np.array_equal(said, whole[0])
        assert state == whole[1]
    assert whole[0].any()


def again(declared: Threshold, threshold: Learned) -> Learned:
    copy = learned_threshold(declared, partitions=3)
    copy.restore(unpack(pack(threshold.snapshot())))
    return copy


def test_foreign_snapshots_are_refused_and_budgets_do_not_learn() -> None:
    small, great = DailyCapacity(3.0), DailyCapacity(4.0)
    with pytest.raises(ValueError, match=r"of 3\.0 a day"):
        great.restore(small.snapshot())
    with pytest.raises(ValueError, match="'counts'"):
        PrecisionThreshold(0.5).restore(small.snapshot())
    with pytest.raises(ValueError, match="budget"):
        learned_threshold(Threshold(budget=0.1))
