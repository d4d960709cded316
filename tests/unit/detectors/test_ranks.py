from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detectors.arrays import Arrays
from detectors.ranks import RankTable
from domain.batch import Floats


def slow_served(count: int, probation: int) -> int:
    """How many of ``count`` scores are off probation, in whole blocks."""
    end = max(min(count, 32), count - min(probation, int(0.75 * count)))
    block = 1
    while block < 256 and end >= 32 * block:
        block *= 2
    return end - end % block


def slow_ranks(scores: Floats, window: int, minimum: int, probation: int) -> Floats:
    """The definition: share of served finite scores that are lower, gaps divided in proportion."""
    past: list[float] = []
    out = []
    for score in scores.tolist():
        if not np.isfinite(score):
            out.append(np.nan)
            continue
        recent = sorted(past[: slow_served(len(past), probation)][-window:])
        lower = sum(value < score for value in recent)
        if len(recent) < minimum:
            out.append(np.nan)
        elif score in recent:
            out.append((lower + 0.5) / (len(recent) + 1))
        else:
            out.append((lower + 0.5 * _part(score, recent, lower)) / (len(recent) + 1))
        past.append(score)
    return np.array(out)


def _part(score: float, recent: list[float], lower: int) -> float:
    if lower == 0:
        return 0.0
    if lower < len(recent):
        return (score - recent[lower - 1]) / (recent[lower] - recent[lower - 1])
    reach = recent[-1] - recent[len(recent) // 2]
    return 1.0 - 1.0 / (1.0 + (score - recent[-1]) / reach) if reach > 0.0 else 1.0


@given(
    scores=st.lists(
        st.one_of(
            st.integers(-3, 3).map(float), st.floats(-1, 1, width=32), st.sampled_from([np.nan, np.inf])
        ),
        max_size=200,
    ),
    sizes=st.lists(st.integers(1, 40), min_size=1, max_size=5),
    window=st.integers(1, 60),
    probation=st.integers(0, 100),
    data=st.data(),
)
@settings(max_examples=60, deadline=None)
def test_ranks_are_those_of_the_definition_in_any_batches(
    scores: list[float], sizes: list[int], window: int, probation: int, data: st.DataObject
) -> None:
    minimum = data.draw(st.integers(1, window))
    table = RankTable(window, minimum, probation)
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
            copy = RankTable(window, minimum, probation)
            copy.restore(table.snapshot())
            table = copy
        at += size
        turn += 1
    expected = slow_ranks(x, window, minimum, probation)
    np.testing.assert_allclose(np.concatenate([np.empty(0), *got]), expected, rtol=0, atol=1e-9)


def test_blocks_serve_what_the_definition_says_over_a_long_stream() -> None:
    x = np.random.default_rng(5).normal(size=6000)
    table = RankTable(1000, 16, 700)
    parts = [table.step(x[at : at + 611]) for at in range(0, 6000, 611)]
    np.testing.assert_allclose(np.concatenate(parts), slow_ranks(x, 1000, 16, 700), rtol=0, atol=1e-9)


def test_a_burst_does_not_vouch_for_itself() -> None:
    rng = np.random.default_rng(6)
    table = RankTable()
    table.step(rng.normal(size=3000))
    burst = table.step(rng.normal(9.0, 0.1, size=2000))
    assert (burst > 0.998).all()
    assert len(np.unique(burst)) == 2000  # beyond all that was seen, order is kept


def test_with_a_prior_the_first_scores_are_those_of_an_exponential() -> None:
    table = RankTable(1000, minimum=0, probation=0, prior=500)
    assert table.rank(np.array([0.0, np.log(200.0)])).tolist() == pytest.approx([0.0, 0.995])
    table.step(np.random.default_rng(7).exponential(50.0, size=1024))
    assert table.rank(np.array([np.log(200.0)]))[0] == pytest.approx(
        1 - np.exp(-np.log(200.0) / 50.0), abs=0.03
    )


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
    # The top 0.1 % of a window are 20 scores: five windows tell their share within about a tenth.
    for budget, tolerance in ((0.001, 0.25), (0.005, 0.1), (0.05, 0.1)):
        assert (ranks >= 1.0 - budget).mean() == pytest.approx(budget, rel=tolerance)


def test_ties_make_nothing_suspicious() -> None:
    table = RankTable(1000, 100, 0)
    ranks = table.step(np.full(2000, 0.7))
    assert (ranks[100:] < 0.01).all()
    assert table.rank(np.array([0.7001]))[0] > 0.999


def test_it_follows_a_change_of_level_within_its_window() -> None:
    rng = np.random.default_rng(3)
    table = RankTable(2000, 100, 1000)
    table.step(rng.normal(size=5000))
    ranks = table.step(rng.normal(3.0, 1.0, size=6000))
    assert ranks[:1000].mean() > 0.9
    assert ranks[3300:].mean() == pytest.approx(0.5, abs=0.03)


def test_forget_keeps_the_newest() -> None:
    table = RankTable(100, 5, 40)
    table.step(np.arange(150.0))
    table.forget(10)
    assert len(table) == 10
    assert table.rank(np.array([140.0, 139.0, 149.0])).tolist() == [0.5 / 11, 0.0, 9.5 / 11]


def test_a_snapshot_of_another_table_is_refused() -> None:
    table = RankTable(100, 5)
    table.step(np.arange(50.0))
    with pytest.raises(ValueError, match="window"):
        RankTable(99, 5).restore(table.snapshot())
    with pytest.raises(ValueError, match="not finite"):
        table.restore(
            Arrays(
                {"recent": np.array([np.nan])}, {**table.snapshot().scalars, "count": 1, "end": 1, "size": 1}
            )
        )
    with pytest.raises(ValueError, match="between 1 and the window"):
        RankTable(5, 6)
