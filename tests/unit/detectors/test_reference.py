"""What is outside of the usual range is told row by row, whatever the batches."""

from __future__ import annotations

import numpy as np
import pytest

from detectors.arrays import pack, unpack
from detectors.reference import ENOUGH, EVERY, ReferenceSample


def test_only_values_far_outside_are_told_and_only_until_they_are_usual() -> None:
    rng = np.random.default_rng(1)
    x = np.column_stack([rng.exponential(size=3 * EVERY), np.ones(3 * EVERY), rng.normal(size=3 * EVERY)])
    x[::7, 2] = np.nan
    sample = ReferenceSample(3, seed=1)
    assert sample.add(x).mean() < 1e-4
    odd = np.array([[1e3, 1.0, 0.0], [0.5, 2.0, np.nan], [-1e3, 1.0, -np.inf], [9.0, 1.0, 4.0]])
    told = [[True, False, False], [False, True, False], [True, False, True], [False] * 3]
    assert sample.outside(odd).tolist() == told
    # a new habit is told until the sample knows it
    high = x.copy()
    high[:, 0] += 1e3
    outside = sample.add(high)[:, 0]
    assert outside[:EVERY].all()
    assert not outside[EVERY:].any()


def test_a_flag_that_was_down_for_long_is_not_out_of_range_when_it_goes_up_again() -> None:
    sample = ReferenceSample(1, seed=1)
    week = np.zeros((100_000, 1))
    sample.add(week[: 2 * EVERY])
    assert sample.outside(np.ones((1, 1))).all()
    assert sample.add(np.ones((2 * EVERY, 1))).any()
    sample.add(week)
    assert sample.outside(np.array([[1.0], [2.5]])).tolist() == [[False], [True]]


def test_few_values_have_no_range() -> None:
    sample = ReferenceSample(2, seed=1)
    x = np.random.default_rng(2).normal(size=(2 * ENOUGH, 2))
    x[::2, 1] = np.nan
    sample.add(x[: ENOUGH - 1])
    assert not sample.outside(np.full((1, 2), 1e9)).any()
    sample.add(x[ENOUGH - 1 :])
    assert sample.outside(np.full((1, 2), 1e9)).tolist() == [[True, True]]


@pytest.mark.parametrize("size", [1, 97])
def test_batches_and_snapshots_change_nothing(size: int) -> None:
    x = np.random.default_rng(3).normal(size=(3_000, 2))
    x[500::100, 0] += 50.0 * np.arange(25)
    whole = ReferenceSample(2, seed=4)
    told = whole.add(x)
    assert told.any()
    part = ReferenceSample(2, seed=4)
    parts = []
    for at in range(0, 3_000, size):
        parts.append(part.add(x[at : at + size]))
        if at % (40 * size) == 0:
            copy = ReferenceSample(2, seed=4)
            copy.restore(unpack(pack(part.snapshot())))
            part = copy
    assert np.array_equal(np.concatenate(parts), told)
    assert pack(part.snapshot()) == pack(whole.snapshot())
