"""Row by row against River, whose scores ours promise to be."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from river import anomaly, preprocessing

from detectors.half_space_trees import HalfSpaceTrees
from domain.batch import Floats

NAMES = ("velocity", "amount", "hour", "distance")


def stream(n: int, seed: int, missing: float) -> Floats:
    rng = np.random.default_rng(seed)
    x = np.clip(rng.normal(0.5, 0.2, size=(n, len(NAMES))), -0.1, 1.1)
    x[1:][rng.random((n - 1, len(NAMES))) < missing] = np.nan
    return x


def named(row: Floats) -> dict[str, float]:
    return {name: value for name, value in zip(NAMES, row.tolist(), strict=True) if value == value}


@pytest.mark.parametrize(
    ("seed", "trees", "height", "window", "limits", "missing"),
    [
        (42, 25, 8, 250, None, 0.0),
        (7, 10, 3, 37, None, 0.15),
        (1, 5, 1, 100, {"amount": (-1.0, 2.0), "hour": (0.2, 0.9)}, 0.05),
        (3, 4, 10, 60, {"velocity": (0.0, 5.0)}, 0.3),
    ],
)
def test_scores_equal_rivers(
    seed: int, trees: int, height: int, window: int, limits: Any, missing: float
) -> None:
    x = stream(3000, seed, missing)
    river: Any = anomaly.HalfSpaceTrees(
        n_trees=trees, height=height, window_size=window, limits=limits, seed=seed
    )
    expected = np.empty(len(x))
    for i, row in enumerate(x):
        expected[i] = river.score_one(named(row))
        river.learn_one(named(row))
    ours = HalfSpaceTrees(
        NAMES, seed=seed, trees=trees, height=height, window=window, limits=limits, scale="none"
    )
    scores = ours.step(x)
    assert np.isnan(scores[:window]).all()
    assert expected[:window].tolist() == [0.0] * window
    np.testing.assert_allclose(scores[window:], expected[window:], rtol=0, atol=1e-12)
    assert len(np.unique(scores[window:])) > 20


def test_scaled_scores_equal_rivers_behind_its_min_max_scaler() -> None:
    x = stream(2000, 5, 0.1) * np.array([1e-3, 1e4, 1.0, 50.0]) - 7.0
    scaler: Any = preprocessing.MinMaxScaler()
    river: Any = anomaly.HalfSpaceTrees(n_trees=8, window_size=90, seed=2)
    expected = np.empty(len(x))
    for i, row in enumerate(x):
        scaler.learn_one(named(row))
        scaled = scaler.transform_one(named(row))
        expected[i] = river.score_one(scaled)
        river.learn_one(scaled)
    scores = HalfSpaceTrees(NAMES, seed=2, trees=8, window=90).step(x)
    np.testing.assert_allclose(scores[90:], expected[90:], rtol=0, atol=1e-12)


def test_one_infinite_value_does_not_spoil_the_scale() -> None:
    x = stream(1500, 6, 0.0)
    clean = HalfSpaceTrees(NAMES, seed=2, window=100)
    clean.step(x)
    spoiled = HalfSpaceTrees(NAMES, seed=2, window=100)
    poison = x.copy()
    poison[50] = np.inf
    spoiled.step(poison)
    assert np.array_equal(clean.score(x[-50:]), spoiled.score(x[-50:]))


def test_mistakes_are_named() -> None:
    with pytest.raises(ValueError, match="'speed'"):
        HalfSpaceTrees(NAMES, seed=1, limits={"speed": (0.0, 1.0)})
    with pytest.raises(ValueError, match="at least one feature"):
        HalfSpaceTrees((), seed=1)


def test_snapshot_of_other_parameters_is_refused() -> None:
    state = HalfSpaceTrees(NAMES, seed=1).snapshot()
    with pytest.raises(ValueError, match="snapshot is of half_space_trees-"):
        HalfSpaceTrees(NAMES, seed=2).restore(state)
