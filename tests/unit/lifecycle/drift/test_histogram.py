from __future__ import annotations

import numpy as np
import pytest
from scipy import stats  # type: ignore[import-untyped]

from lifecycle.drift.gathering import count_into
from lifecycle.drift.histogram import digitise, edges_of, ks, mean_rank, mid_ranks, psi, width_of

RNG = np.random.default_rng(3)


def counted(x: np.ndarray, edges: tuple[np.ndarray, ...]) -> np.ndarray:
    held: dict[int, np.ndarray] = {}
    count_into(held, np.zeros(len(x), dtype=np.int64), x, np.ones(len(x)), edges)
    return held[0]


def test_parts_in_any_order_add_up_to_the_whole_and_what_is_taken_back_was_never_there() -> None:
    x = RNG.normal(size=(500, 3))
    x[RNG.random(x.shape) < 0.1] = np.nan
    x[0] = [np.inf, -np.inf, 0.0]
    edges = tuple(edges_of(column, 5) for column in x.T)
    cells = RNG.integers(0, 4, len(x))
    whole: dict[int, np.ndarray] = {}
    count_into(whole, cells, x, np.ones(len(x)), edges)
    parts: dict[int, np.ndarray] = {}
    order = RNG.permutation(len(x))
    for part in np.array_split(order, 7):
        count_into(parts, cells[part], x[part], np.ones(len(part)), edges)
    count_into(parts, cells[:50], x[:50], np.ones(50), edges)
    count_into(parts, cells[:50], x[:50], -np.ones(50), edges)
    assert whole.keys() == parts.keys()
    assert all(np.array_equal(whole[cell], parts[cell]) for cell in whole)
    assert sum(counts[0].sum() for counts in whole.values()) == len(x)
    assert sum(counts[1, 0] for counts in whole.values()) == np.isnan(x[:, 1]).sum()


def test_a_value_that_fills_half_a_bin_has_a_bin_of_its_own() -> None:
    values = np.array([5.0] * 90 + list(range(10, 20)))
    edges = edges_of(values, 10)
    [five, *others] = digitise(np.array([[5.0], [4.9], [5.1], [np.nan]]), (edges,))[:, 0].tolist()
    assert five not in others
    assert others[2] == 0
    # a column that only ever had one value shows another one
    constant = edges_of(np.full(20, 7.0), 10)
    assert len(set(digitise(np.array([[6.0], [7.0], [8.0]]), (constant,))[:, 0].tolist())) == 3
    assert edges_of(np.array([np.nan, np.inf]), 10).tolist() == []


def test_ks_on_bins_is_the_statistic_of_two_samples_and_psi_the_sum_it_is_defined_as() -> None:
    values = np.arange(6)
    here, there = RNG.integers(0, 6, 80), RNG.integers(1, 6, 50)
    edges = (np.arange(1.0, 6.0),)
    assert width_of(edges) == 7
    p, q = (counted(part[:, None].astype(float), edges) for part in (here, there))
    assert ks(p, q)[0] == pytest.approx(stats.ks_2samp(here, there).statistic, abs=1e-12)
    shares = [np.bincount(part, minlength=6) + 0.5 for part in (here, there)]
    # bin 0, missing values, has its half in both as well
    a, b = (np.concatenate([[0.5], share]) / (share.sum() + 0.5) for share in shares)
    assert psi(p, q, np.ones((1, 7)))[0] == pytest.approx(float(((a - b) * np.log(a / b)).sum()))
    assert psi(p, p, np.ones((1, 7)))[0] == ks(p, p)[0] == 0.0
    assert len(values) == 6


def test_mean_rank_of_what_made_the_ranks_is_a_half_and_of_too_few_unknown() -> None:
    x = RNG.lognormal(size=(400, 1))
    edges = (edges_of(x[:, 0], 10),)
    counts = counted(x, edges)
    mids = mid_ranks(counts)
    assert mean_rank(counts, mids)[0] == pytest.approx(0.5)
    assert mean_rank(counted(x * 3.0, edges), mids)[0] > 0.7
    assert np.isnan(mean_rank(counted(x[:3], edges), mids, 4.0)[0])
    assert np.isnan(mean_rank(counted(np.array([[np.nan]]), edges), mids)[0])
