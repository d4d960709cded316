from __future__ import annotations

import numpy as np
import pytest

from detectors.arrays import Arrays
from detectors.kernels_scaling import squash
from detectors.online_isolation_forest import OnlineIsolationForest
from domain.batch import Floats

NAMES = ("a", "b", "c")


def traffic(n: int, seed: int, shift: float = 0.0) -> Floats:
    x = np.random.default_rng(seed).normal(shift, 1.0, size=(n, 3))
    x[:, 2] = 7.0  # a feature that never varies is never cut
    return x


def forest(seed: int = 1) -> OnlineIsolationForest:
    return OnlineIsolationForest(NAMES, seed=seed, trees=12, window=512, memory=512, leaf=8, warm_up=128)


def test_counts_are_those_of_the_window() -> None:
    """Halves of a cut hold all rows of it, and exactly the window's once a window has passed since the cut."""
    detector = forest()
    x = traffic(3000, 1)
    x[1500:, 0] *= np.linspace(1.0, 0.05, 1500)  # leaves empty, others fill: cuts come and go
    detector.step(x)
    state = detector.snapshot().arrays
    rows = np.array(
        [
            [squash(*value) for value in zip(row, state["scale/center"], state["scale/scale"], strict=True)]
            for row in state["window"]
        ]
    )
    checked, empty = 0, 0
    for tree in range(12):
        feature, size, cut = state["feature"][tree], state["size"][tree], state["cut"][tree]
        assert size[0] == 512
        assert 2 not in feature
        live = [(0, np.ones(512, dtype=bool), True)]
        while live:
            node, here, settled = live.pop()
            assert size[node] >= 0
            if settled:
                assert size[node] == here.sum()
                checked += node > 0
            if feature[node] < 0:
                empty += size[node] == 0
                continue
            assert size[node] >= 8 * 2 ** ((node + 1).bit_length() - 1)  # or it would be a leaf again
            left, right = 2 * node + 1, 2 * node + 2
            assert size[left] + size[right] == size[node]
            settled = settled and state["births"][tree][node] <= 3000 - 512
            above = rows[:, feature[node]] >= cut[node]
            live += [(left, here & ~above, settled), (right, here & above, settled)]
    assert checked > 40
    assert empty > 0


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_planted_anomaly_stands_out(seed: int) -> None:
    x = traffic(5000, seed)
    odd = np.arange(2100, 5000, 100)
    x[odd, :2] += np.array([6.0, -5.0])
    scores = OnlineIsolationForest(NAMES, seed=seed).step(x)
    usual = np.delete(scores[2000:], odd - 2000)
    assert scores[odd].min() > np.quantile(usual, 0.98)


def test_it_forgets_what_has_left_the_window() -> None:
    detector = forest()
    old, new = traffic(300, 3), traffic(300, 4, shift=5.0)
    detector.step(traffic(2000, 5))
    before = np.mean(detector.score(new)) - np.mean(detector.score(old))
    detector.step(traffic(2000, 6, shift=5.0))
    after = np.mean(detector.score(new)) - np.mean(detector.score(old))
    assert before > 0.05
    assert after < -0.05


def test_trees_grow_anew_when_the_scale_has_moved_far() -> None:
    """At a row count, whatever the batches and restarts; and afterwards they see in the new coordinates."""
    x = traffic(8192 + 50, 10)
    x[1500:, 0] = x[1500:, 0] * 1000.0 - 1e6
    whole = OnlineIsolationForest(NAMES, seed=1, memory=2048)
    scores = whole.step(x)
    parts, restarted = [], OnlineIsolationForest(NAMES, seed=1, memory=2048)
    for at in range(0, len(x), 531):
        parts.append(restarted.step(x[at : at + 531]))
        state, restarted = restarted.snapshot(), OnlineIsolationForest(NAMES, seed=1, memory=2048)
        restarted.restore(state)
    assert np.concatenate(parts).tobytes() == scores.tobytes()
    arrays = whole.snapshot().arrays
    assert arrays["scale/center"][0] < -9e5
    assert (arrays["size"][:, 0] == 2048).all()
    assert (arrays["births"][:, 0] > 1500).all()
    odd = x[-50:].copy()
    odd[:, 0] += 6000.0
    assert whole.score(odd).mean() > whole.score(x[4000:]).mean() + 0.05


def test_one_infinite_value_does_not_spoil_the_trees() -> None:
    clean, spoiled = OnlineIsolationForest(NAMES, seed=1), OnlineIsolationForest(NAMES, seed=1, memory=2048)
    x = traffic(3000, 7)
    poison = x.copy()
    poison[[50, 700], 0] = np.inf
    clean.step(x)
    spoiled.step(poison)
    probe = traffic(500, 8)
    probe[:25, :2] = 6.0
    for detector in (clean, spoiled):
        scores = detector.score(probe)
        assert scores[:25].min() > np.quantile(scores[25:], 0.98)


def test_a_snapshot_that_would_lead_the_kernel_astray_is_refused() -> None:
    detector = forest()
    detector.step(traffic(1000, 9))
    good = detector.snapshot()
    forest().restore(good)
    deep, wide, many = (
        good.arrays["feature"].copy(),
        good.arrays["feature"].copy(),
        good.arrays["size"].copy(),
    )
    deep[0, -1] = 0
    wide[0, 0] = 3
    many[0, 0] = 600
    for name, array, reason in (
        ("feature", deep, "cannot be"),
        ("feature", wide, "cannot be"),
        ("size", many, "more rows"),
        ("learned", np.zeros(1, dtype=np.int64), "other rows"),
        ("window", good.arrays["window"][:-1], "'window'"),
        ("scale/rows", good.arrays["scale/rows"][:, :-1], "shape"),
    ):
        with pytest.raises(ValueError, match=reason):
            forest().restore(Arrays({**good.arrays, name: array}, good.scalars))
    with pytest.raises(ValueError, match="snapshot is of online_isolation_forest-"):
        forest(seed=2).restore(good)


def test_mistakes_are_named() -> None:
    with pytest.raises(ValueError, match="at least one feature"):
        OnlineIsolationForest((), seed=1)
    with pytest.raises(ValueError, match="twice leaf"):
        OnlineIsolationForest(NAMES, seed=1, leaf=200)
