from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detectors.arrays import Arrays
from detectors.ranks import RankTable
from domain.batch import Floats


def slow_ranks(scores: Floats, window: int, minimum: int) -> Floats:
    """The definition: share of the last ``window`` finite scores that are lower."""
    past: list[float] = []
    out = []
    for score in scores.tolist():
        if not np.isfinite(score):
            out.append(np.nan)
            continue
        recent = past[-window:]
        lower = sum(value < score for value in recent)
        out.append((lower + 0.5) / (len(recent) + 1) if len(recent) >= minimum else np.nan)
        past.append(score)
    return np.array(out)


@given(
    scores=st.lists(
        st.one_of(st.integers(-3, 3).map(float), st.floats(-1, 1), st.sampled_from([np.nan, np.inf])),
        max_size=120,
    ),
    sizes=st.lists(st.integers(1, 40), min_size=1, max_size=5),
    window=st.integers(1, 30),
    data=st.data(),
)
@settings(max_examples=50, deadline=None)
def test_ranks_are_those_of_the_definition_in_any_batches(
    scores: list[float], sizes: list[int], window: int, data: st.DataObject
) -> None:
    minimum = data.draw(st.integers(1, window))
    table = RankTable(window, minimum)
    x = np.array(scores)
    got = []
    at = 0
    turn = 0
    while at < len(x):
        size = sizes[turn % len(sizes)]
        part = x[at : at + size]
        first = table.rank(part[:1])
        stepped = table.step(part)
        assert np.array_equal(first, stepped[:1], equal_nan=True)
        got.append(stepped)
        if turn % 2:
            copy = RankTable(window, minimum)
            copy.restore(table.snapshot())
            table = copy
        at += size
        turn += 1
    np.testing.assert_array_equal(np.concatenate([np.empty(0), *got]), slow_ranks(x, window, minimum))


@pytest.mark.parametrize("shape", ["forest_like", "near_one", "heavy_tailed"])
def test_the_share_above_the_budget_is_the_budget(shape: str) -> None:
    rng = np.random.default_rng(17)
    n = 100_000
    scores = {
        "forest_like": 0.35 + 0.45 * rng.beta(2.0, 6.0, n),
        "near_one": 1.0 - rng.exponential(1e-9, n),
        "heavy_tailed": rng.standard_cauchy(n) * 1e6,
    }[shape]
    ranks = RankTable().step(scores)[500:]
    for budget in (0.001, 0.005, 0.05):
        assert (ranks >= 1.0 - budget).mean() == pytest.approx(budget, rel=0.1)


def test_ties_make_nothing_suspicious() -> None:
    table = RankTable(1000, 100)
    ranks = table.step(np.full(2000, 0.7))
    assert (ranks[100:] < 0.01).all()
    assert table.rank(np.array([0.7001]))[0] > 0.999


def test_it_follows_a_change_of_level_within_its_window() -> None:
    rng = np.random.default_rng(3)
    table = RankTable(2000, 100)
    table.step(rng.normal(size=5000))
    ranks = table.step(rng.normal(3.0, 1.0, size=6000))
    assert ranks[:200].mean() > 0.9
    assert ranks[2000:].mean() == pytest.approx(0.5, abs=0.03)


def test_forget_keeps_the_newest() -> None:
    table = RankTable(100, 5)
    table.step(np.arange(150.0))
    table.forget(10)
    assert len(table) == 10
    assert table.rank(np.array([140.0, 139.0, 200.0])).tolist() == [0.5 / 11, 0.5 / 11, 10.5 / 11]


def test_a_snapshot_of_another_table_is_refused() -> None:
    table = RankTable(100, 5)
    table.step(np.arange(50.0))
    with pytest.raises(ValueError, match="window"):
        RankTable(99, 5).restore(table.snapshot())
    with pytest.raises(ValueError, match="not finite"):
        table.restore(Arrays({"recent": np.array([np.nan])}, {"window": 100, "minimum": 5}))
    with pytest.raises(ValueError, match="between 1 and the window"):
        RankTable(5, 6)
