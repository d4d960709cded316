"""The one isotonic regression of the house, against scikit-learn's; and the calibration that stands on it."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.isotonic import IsotonicRegression

from detectors.calibration import Calibrator
from detectors.isotonic import isotonic
from detectors.stacking import DAY
from tests.unit.detectors.test_stacking import given


@pytest.mark.parametrize("seed", range(5))
def test_it_is_the_least_squares_fit_that_does_not_fall(seed: int) -> None:
    rng = np.random.default_rng(seed)
    total = rng.integers(1, 40, 300).astype(np.float64) * rng.choice([1.0, 0.37, 11.5], 300)
    share = np.clip(np.linspace(0.0, 0.6, 300) + rng.normal(size=300) * 0.2, 0.0, 1.0)
    fitted = isotonic(share * total, total)
    wanted = IsotonicRegression().fit(np.arange(300), share, sample_weight=total).predict(np.arange(300))
    assert fitted == pytest.approx(wanted, abs=1e-12)
    assert (np.diff(fitted) >= 0.0).all()
    assert 5 < len(np.unique(fitted)) < 200


def test_places_without_anything_know_what_is_below_them() -> None:
    assert isotonic(np.array([0.0, 0.0, 3.0, 0.0]), np.array([0.0, 4.0, 4.0, 0.0])).tolist() == [
        0.0,
        0.0,
        0.75,
        0.75,
    ]
    assert isotonic(np.empty(0), np.empty(0)).tolist() == []


def test_the_calibration_is_that_of_scikit_learn_but_for_one_label_a_step() -> None:
    rng = np.random.default_rng(4)
    score = np.round(rng.random(9_000), 3)  # with ties
    y = (rng.random(9_000) < 0.3 * score**3).astype(np.float64)
    calibrator = Calibrator(seed=1)
    calibrator.learn(given(np.zeros((9_000, 1)), y, score), now=DAY)
    at = np.linspace(0.0, 0.95, 501)  # above, a step rests on few labels
    reference = IsotonicRegression(out_of_bounds="clip").fit(score.astype(np.float32), y).predict(at)
    assert calibrator.probability(at) == pytest.approx(reference, abs=0.02)
