from __future__ import annotations

import numpy as np
import pytest

from detectors.arrays import Arrays
from detectors.reference import ReferenceSample
from detectors.sampling import Reservoir


def test_the_sample_is_uniform_over_the_past() -> None:
    taken = np.zeros(10)
    for seed in range(40):
        sample = Reservoir(100, 1, seed * 7919)
        sample.add(np.arange(5000.0)[:, None])
        taken += np.bincount((sample.rows[:, 0] // 500).astype(int), minlength=10)
    # 4000 rows in 10 parts of the stream: 400 each, standard deviation about 19.
    assert np.abs(taken - 400).max() < 80


def test_with_a_horizon_it_holds_recent_rows() -> None:
    sample = Reservoir(200, 1, 1, horizon=1000)
    sample.add(np.arange(50_000.0)[:, None])
    ages = 50_000 - sample.rows[:, 0]
    assert ages.mean() == pytest.approx(1000, rel=0.25)


def test_batches_do_not_change_the_sample() -> None:
    x = np.random.default_rng(1).normal(size=(3000, 2))
    whole, parts = Reservoir(50, 2, 9), Reservoir(50, 2, 9)
    whole.add(x)
    for at in range(0, 3000, 7):
        parts.add(x[at : at + 7])
    assert np.array_equal(whole.rows, parts.rows)
    other = Reservoir(50, 2, 10)
    other.add(x)
    assert not np.array_equal(whole.rows, other.rows)


def test_reference_knows_what_is_usual_and_what_it_never_saw() -> None:
    rng = np.random.default_rng(2)
    x = np.column_stack([rng.normal(10.0, 2.0, 5000), np.full(5000, np.nan), rng.exponential(1.0, 5000)])
    x[::3, 2] = np.nan
    x[::5, 0] = np.inf
    reference = ReferenceSample(3, seed=4)
    assert np.isnan(reference.median).all()
    reference.add(x)
    assert reference.median[0] == pytest.approx(10.0, abs=0.3)
    assert reference.low[0] == pytest.approx(10.0 - 1.645 * 2, abs=0.5)
    assert reference.high[2] == pytest.approx(3.0, abs=0.5)
    assert np.isnan([reference.low[1], reference.median[1], reference.high[1]]).all()


def test_reference_does_not_depend_on_batches_or_restarts() -> None:
    x = np.random.default_rng(3).normal(size=(2600, 2))
    whole, parts = ReferenceSample(2, 1), ReferenceSample(2, 1)
    whole.add(x)
    for at in range(0, 2600, 13):
        parts.add(x[at : at + 13])
        if at % 650 == 0:
            copy = ReferenceSample(2, 1)
            copy.restore(parts.snapshot())
            parts = copy
    assert np.array_equal(whole.median, parts.median)
    assert np.array_equal(whole.high, parts.high)
    with pytest.raises(ValueError, match="percentiles"):
        ReferenceSample(3, 1).restore(whole.snapshot())
    with pytest.raises(ValueError, match="sample snapshot"):
        Reservoir(50, 2, 1).restore(Arrays({}, {}))
