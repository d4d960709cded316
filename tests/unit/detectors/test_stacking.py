"""Weights that labels teach: worth of members, never worse than the best of them; and a probability that holds."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from detectors.arrays import pack, unpack
from detectors.calibration import Calibrator
from detectors.stacking import DAY, Stacker
from domain.batch import Floats
from domain.examples import Examples


def ranks_of(signals: Floats) -> Floats:
    """Each column as ranks in (0, 1)."""
    order = signals.argsort(axis=0).argsort(axis=0)
    result: Floats = (order + 0.5) / (len(signals) + 1)
    return result


def traffic(n: int, strengths: list[float], seed: int) -> tuple[Floats, Floats]:
    """Ranks of members that see fraud (2 %) so many standard deviations above the rest, independently; labels."""
    rng = np.random.default_rng(seed)
    y = (rng.random(n) < 0.02).astype(np.float64)
    return ranks_of(rng.normal(size=(n, len(strengths))) + y[:, None] * strengths), y


def given(ranks: Floats, y: Floats, score: Floats | None = None) -> Examples:
    n = len(y)
    return Examples(
        np.zeros((n, 1)),
        y,
        ranks,
        np.full(n, 0.5) if score is None else score,
        np.arange(n, dtype=np.int64),
        np.arange(n, dtype=np.int64),
    )


def learned(strengths: list[float], seed: int, labelled: list[bool] | None = None) -> Stacker:
    stacker = Stacker(labelled or [False] * len(strengths), seed=1)
    for part in range(10):
        stacker.learn(given(*traffic(2_000, strengths, seed * 100 + part)), now=(part + 1) * DAY)
    return stacker


def test_what_it_learns_is_better_than_each_member_and_than_the_mean() -> None:
    strengths = [2.0, 1.5, 0.0, -2.0]
    stacker = learned(strengths, seed=1)
    ranks, y = traffic(40_000, strengths, seed=7)
    combined = average_precision_score(y, stacker.combine(ranks))
    singles = [average_precision_score(y, ranks[:, i]) for i in range(4)]
    assert combined > max(singles) + 0.03
    assert combined > average_precision_score(y, ranks.mean(axis=1)) + 0.1
    assert stacker.weights[2:].tolist() == pytest.approx([0.0, 0.0], abs=0.05)
    assert stacker.weights.sum() == pytest.approx(1.0)


@pytest.mark.parametrize("seed", range(5))
def test_it_is_not_worse_than_one_good_member_among_noise(seed: int) -> None:
    strengths = [0.0, 0.0, 2.5, 0.0]
    stacker = learned(strengths, seed=seed)
    ranks, y = traffic(40_000, strengths, seed=1_000 + seed)
    best = average_precision_score(y, ranks[:, 2])
    assert average_precision_score(y, stacker.combine(ranks)) > best - 0.01


def test_before_labels_only_members_that_learned_from_labels_count() -> None:
    stacker = Stacker([False, True, True], seed=1)
    ranks = np.array([[0.99, 0.5, 0.7], [0.99, np.nan, np.nan], [np.nan, np.nan, np.nan], [0.9, 0.5, np.nan]])
    combined = stacker.combine(ranks)
    assert combined[0] == pytest.approx(-(np.log(0.5) + np.log(0.3)) / 2)
    assert combined[1] == pytest.approx(-np.log(0.01))
    assert np.isnan(combined[2])
    assert combined[3] == pytest.approx(-np.log(0.5))
    assert stacker.combine(ranks[3:]).tobytes() == combined[3:].tobytes()


def test_a_restored_stacker_goes_on_with_the_same_bits() -> None:
    original = learned([2.0, 1.0], seed=3)
    copy = Stacker([False, False], seed=1)
    copy.restore(unpack(pack(original.snapshot())))
    more = given(*traffic(3_000, [0.0, 2.0], seed=5))
    assert original.learn(more, now=20 * DAY) == copy.learn(more, now=20 * DAY)
    assert original.weights.tobytes() == copy.weights.tobytes()
    assert original.version == copy.version
    with pytest.raises(ValueError, match="snapshot of weights"):
        Stacker([False], seed=1).restore(original.snapshot())


class Scripted(Stacker):
    """Fits what it is told to."""

    script: list[list[float]]

    def _fit(self) -> Floats:
        return np.array(self.script.pop(0))


def scripted(script: list[list[float]]) -> Scripted:
    stacker = Scripted([True, True], seed=1)
    stacker.script = script
    return stacker


def test_only_far_other_weights_are_other_weights() -> None:
    # from 0.5 and 0.5: near, near, far of what was last called far, though each step is near; back; the same again
    script = [[0.55, 0.45], [0.45, 0.55], [0.38, 0.62], [0.3, 0.7], [0.5, 0.5], [0.5, 0.5]]
    stacker = scripted(script)
    lesson = given(*traffic(3_000, [2.0, 2.0], seed=5))
    said = []
    for day in range(6):
        if day == 4:
            successor = scripted(script)
            successor.restore(unpack(pack(stacker.snapshot())))
            stacker = successor
        said.append(stacker.learn(lesson, now=day * DAY))
    assert said == [False, False, True, False, True, False]
    assert stacker.weights.tolist() == [0.5, 0.5]
    # a beginner without members that learned from labels weighs all alike
    even = Scripted([False, False], seed=1)
    even.script = [[0.5, 0.5], [1.0, 0.0]]
    assert [even.learn(lesson, now=day * DAY) for day in range(2)] == [False, True]


def test_probabilities_are_shares() -> None:
    rng = np.random.default_rng(11)
    calibrator = Calibrator(seed=1)
    assert np.isnan(calibrator.probability(np.array([0.5]))).all()
    for part in range(10):
        score = rng.random(20_000)
        y = (rng.random(20_000) < 0.2 * score**4).astype(np.float64)
        calibrator.learn(given(np.zeros((20_000, 1)), y, score), now=(part + 1) * DAY)
    at = np.array([0.1, 0.5, 0.8, 0.95, np.nan])
    said = calibrator.probability(at)
    assert said[:4] == pytest.approx(0.2 * at[:4] ** 4, abs=0.02)
    assert (np.diff(calibrator.probability(np.linspace(0.0, 1.0, 1_000))) >= 0.0).all()
    assert np.isnan(said[4])
    copy = Calibrator(seed=1)
    copy.restore(unpack(pack(calibrator.snapshot())))
    assert copy.probability(at).tobytes() == said.tobytes()
    assert copy.version == calibrator.version


def test_probabilities_of_the_own_detectors_come_from_their_own_scores() -> None:
    """Also while another model decides, whose scores would mean something else."""
    rng = np.random.default_rng(11)
    own = rng.random(20_000)
    y = (rng.random(20_000) < 0.2 * own**4).astype(np.float64)
    alone, led = Calibrator(seed=1), Calibrator(seed=1)
    alone.learn(given(np.zeros((20_000, 1)), y, own), now=DAY)
    led.learn(replace(given(np.zeros((20_000, 1)), y, rng.random(20_000)), own=own), now=DAY)
    assert led.version == alone.version != "unfitted"


def test_two_labels_at_the_top_are_no_certainty() -> None:
    rng = np.random.default_rng(2)
    score, y = rng.random(3_000), np.zeros(3_000)
    y[rng.choice(2_999, 60, replace=False)] = 1.0
    score[-1], y[-1] = 1.0, 1.0
    calibrator = Calibrator(seed=1)
    calibrator.learn(given(np.zeros((3_000, 1)), y, score), now=DAY)
    assert calibrator.probability(np.array([1.0]))[0] == pytest.approx((2 + y.mean()) / 3, abs=0.01)
