"""What blinds the original algorithm in real streams, and does not blind the robust mode."""

from __future__ import annotations

import numpy as np
import pytest

from detectors.half_space_trees import HalfSpaceTrees
from detectors.isolation_forest import IsolationForest
from detectors.robust_half_spaces import RobustHalfSpaceTrees
from detectors.schedule import next_fit, trusted
from domain.batch import Floats
from lifecycle.evaluation import ranking

NAMES = ("a", "b", "c")


def traffic(n: int, seed: int) -> Floats:
    return np.random.default_rng(seed).normal(size=(n, 3))


def test_a_burst_longer_than_the_originals_window_stays_suspicious() -> None:
    x = traffic(12_000, 1)
    odd = np.zeros(12_000, dtype=np.bool_)
    odd[8000:9000] = True
    x[odd] = np.random.default_rng(2).normal(size=(1000, 3)) * 0.05 + np.array([2.6, -2.6, 2.6])
    robust = ranking(RobustHalfSpaceTrees(NAMES, seed=1).step(x), odd)
    original = ranking(HalfSpaceTrees(NAMES, seed=1).step(x), odd)
    assert robust.auc > 0.99
    assert robust.average_precision > 0.9
    assert original.average_precision < 0.5  # the burst became what is usual


def test_a_far_outlier_does_not_squeeze_all_others_into_one_leaf() -> None:
    x = traffic(6000, 3)
    x[700, :] = 1e9
    odd = np.zeros(6000, dtype=np.bool_)
    odd[1000::50] = True
    x[odd, :] += 6.0
    robust = ranking(RobustHalfSpaceTrees(NAMES, seed=1).step(x), odd)
    original = ranking(HalfSpaceTrees(NAMES, seed=1).step(x), odd)
    assert robust.average_precision > 0.9
    assert original.average_precision < 0.2  # after min-max scaling all rows are alike


def test_a_lasting_change_becomes_usual() -> None:
    detector = RobustHalfSpaceTrees(NAMES, seed=1)
    detector.step(traffic(2000, 4))
    before = detector.rank(detector.score(traffic(500, 5) + 8.0))
    assert before.mean() > 0.99
    detector.step(traffic(12_000, 6) + 8.0)
    assert detector.rank(detector.score(traffic(500, 5) + 8.0)).mean() < 0.6


@pytest.mark.parametrize("kind", [RobustHalfSpaceTrees, IsolationForest])
def test_ranks_of_ordinary_rows_are_uniform(kind: type[RobustHalfSpaceTrees] | type[IsolationForest]) -> None:
    detector = kind(NAMES, seed=2)
    detector.step(traffic(9000, 7))
    ranks = detector.rank(detector.score(traffic(6000, 8)))
    assert np.quantile(ranks, [0.1, 0.5, 0.9]).tolist() == pytest.approx([0.1, 0.5, 0.9], abs=0.05)
    assert (ranks > 0.99).mean() == pytest.approx(0.01, abs=0.008)


def test_fits_are_close_at_first_and_bounded_later() -> None:
    fits, seen = [], 0
    for _ in range(8):
        seen = next_fit(seen, 32, 500)
        fits.append(seen)
    assert fits == [32, 64, 128, 256, 512, 1012, 1512, 2012]
    assert [trusted(n, 32) for n in (32, 128, 400, 100_000)] == [32, 32, 100, 98_000]
