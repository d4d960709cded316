from __future__ import annotations

import numpy as np
import pytest

from detectors.one_class_svm import OneClassSVM
from domain.batch import Floats

NAMES = ("a", "b")


def ring(n: int, seed: int) -> Floats:
    """Points around a circle: the middle is as empty as the outside."""
    rng = np.random.default_rng(seed)
    angle, radius = rng.uniform(0.0, 2.0 * np.pi, n), rng.normal(3.0, 0.1, n)
    return np.column_stack([radius * np.cos(angle), radius * np.sin(angle)])


@pytest.mark.parametrize("nu", [0.05, 0.3])
def test_the_share_outside_is_nu(nu: float) -> None:
    scores = OneClassSVM(NAMES, seed=1, nu=nu, components=64).step(ring(12_000, 1))
    assert np.mean(scores[4000:] > 0.0) == pytest.approx(nu, rel=0.3)


def test_it_bends_around_the_data() -> None:
    """Outliers on all sides and in the hole: no line separates them."""
    detector = OneClassSVM(NAMES, seed=2, gamma=4.0)
    detector.step(ring(6000, 2))
    usual = detector.score(ring(500, 3))
    odd = detector.score(np.array([[0.0, 0.0], [9.0, 0.0], [-9.0, 0.0], [0.0, 9.0], [0.0, -9.0]]))
    assert odd.min() > np.quantile(usual, 0.98)


def test_it_forgets() -> None:
    detector = OneClassSVM(NAMES, seed=3, memory=1000)
    old, new = ring(400, 4), ring(400, 5) + 12.0
    detector.step(ring(3000, 6))
    before = np.mean(detector.score(new)) - np.mean(detector.score(old))
    detector.step(ring(6000, 7) + 12.0)
    after = np.mean(detector.score(new)) - np.mean(detector.score(old))
    assert before > 0.05
    assert after < -0.05


def test_frequencies_are_those_of_the_kernel() -> None:
    """The mean product of lifted rows is 1 / (1 + gamma |a - b|^2)."""
    frequencies = OneClassSVM(NAMES, seed=5, gamma=0.7, components=20_000)._frequencies
    for a in ([0.3, 0.0], [1.0, -2.0], [10.0, 10.0]):
        kernel = 1.0 / (1.0 + 0.7 * np.dot(a, a))
        assert np.cos(np.array(a) @ frequencies).mean() == pytest.approx(kernel, abs=0.02)


def test_steps_are_those_of_the_objective() -> None:
    """Against the same steps written in plain numpy."""
    x = ring(900, 8)
    detector = OneClassSVM(NAMES, seed=4, nu=0.2, components=16, warm_up=200)
    scores = detector.step(x)
    state = detector.snapshot().arrays
    rng = np.random.default_rng(4)
    widths = np.sqrt(rng.exponential(size=16))
    frequencies = rng.normal(size=(2, 16)) * widths
    first = x[:200]
    center = np.median(first, axis=0)
    scale = np.subtract(*np.quantile(first, (0.75, 0.25), axis=0)) / 1.3489795003921634
    weights, rho, expected = np.zeros(32), 0.0, []
    for t, row in enumerate(np.concatenate([np.tile(first, (5, 1)), x[200:]])):
        z = (row - center) / scale
        far = np.abs(z) > 1.0
        power = np.floor(np.log2(np.abs(z)))
        z = np.where(far, np.sign(z) * (power + np.abs(z) / 2.0**power), z)
        lifted = np.concatenate([np.cos(z @ frequencies), np.sin(z @ frequencies)]) / 4.0
        margin = float(weights @ lifted)
        expected.append(rho - margin)
        rate = 1.0 / (50.0 + t)
        outside = bool(margin < rho)
        weights = (1.0 - rate) * weights + (rate / 0.2 * lifted if outside else 0.0)
        rho += rate * (1.0 - float(outside) / 0.2)
    np.testing.assert_allclose(scores[200:], expected[1000:], rtol=0, atol=1e-9)
    np.testing.assert_allclose(state["weights"], weights, rtol=0, atol=1e-9)


def test_mistakes_are_named() -> None:
    with pytest.raises(ValueError, match="at least one feature"):
        OneClassSVM((), seed=1)
    state = OneClassSVM(NAMES, seed=1).snapshot()
    with pytest.raises(ValueError, match="snapshot is of one_class_svm-"):
        OneClassSVM(NAMES, seed=2).restore(state)
