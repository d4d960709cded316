from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sklearn.ensemble import IsolationForest as Reference

from detectors.arrays import Arrays, pack, unpack
from detectors.forest import PackedForest, prepared
from detectors.isolation_fit import isolation_trees
from detectors.isolation_forest import IsolationForest
from domain.batch import Floats

NAMES = tuple(f"f{i}" for i in range(6))


def traffic(n: int, seed: int) -> Floats:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 6))
    x[:, 1] = np.exp(x[:, 1] * 3.0) * 1e6
    x[:, 2] = np.floor(x[:, 2])
    x[:, 3] = 1.0
    x[rng.random(x.shape) < 0.03] = np.nan
    return x


def trees_of(fitted: Reference) -> list[tuple[Any, Any]]:
    """scikit-learn's own trees, as ours are given."""
    return [(one.tree_, f) for one, f in zip(fitted.estimators_, fitted.estimators_features_, strict=True)]


@pytest.mark.parametrize(
    ("rows", "trees", "samples", "max_features"),
    [(2000, 100, 256, 1.0), (500, 30, 100, 0.5), (40, 10, 40, 0.1), (3, 5, 2, 1.0), (1, 3, 1, 1.0)],
)
def test_scores_have_scikit_learns_bits(rows: int, trees: int, samples: int, max_features: float) -> None:
    x = traffic(rows, 1)
    medians = np.linspace(-1.0, 1.0, 6)
    filled = prepared(x, medians)
    fitted = Reference(
        n_estimators=trees, max_samples=samples, max_features=max_features, random_state=3
    ).fit(filled)
    ours = isolation_trees(filled, trees=trees, samples=samples, max_features=max_features, seed=3)
    forest = PackedForest.packed(list(ours), samples, medians)
    assert forest.digest == PackedForest.packed(trees_of(fitted), samples, medians).digest
    # The rows it was fitted on lie exactly on thresholds more often than others.
    for other in (x, traffic(701, 2), np.array([[np.inf, -np.inf, 1e308, -1e31, 0.0, -0.0]])):
        expected = -fitted.score_samples(prepared(other, medians))
        assert forest.score(other).tobytes() == expected.tobytes()
    assert rows < 40 or len(np.unique(forest.score(traffic(701, 2)))) > 5


def test_thresholds_between_floats_decide_as_scikit_learn_does() -> None:
    x = np.repeat(np.array([[1000.0], [np.nextafter(np.float32(1000.0), np.float32(2000.0))]]), [30, 10], 0)
    fitted = Reference(n_estimators=50, max_samples=40, random_state=0).fit(x.astype(np.float32))
    forest = PackedForest.packed(trees_of(fitted), 40, np.zeros(1))
    assert forest.score(x).tobytes() == (-fitted.score_samples(x)).tobytes()
    assert len(np.unique(forest.score(x))) == 2


def test_fits_come_at_exact_row_counts() -> None:
    forest = IsolationForest(NAMES, seed=1, trees=5, samples=32, warm_up=100, refit_every=70, reservoir=64)
    x = traffic(400, 3)
    versions: dict[int, str] = {}
    for at in range(400):
        versions.setdefault(at, forest.version)
        forest.step(x[at : at + 1])
    changes = [at for at in range(1, 400) if versions[at] != versions[at - 1]]
    assert changes == [100, 170, 240, 310, 380]
    at_once = IsolationForest(NAMES, seed=1, trees=5, samples=32, warm_up=100, refit_every=70, reservoir=64)
    at_once.step(x)
    assert at_once.version == forest.version


def test_a_feature_that_is_always_missing_is_ignored() -> None:
    x = traffic(300, 4)
    x[:, 5] = np.nan
    forest = IsolationForest(NAMES, seed=1, trees=10, samples=64)
    forest.fit(x)
    other = x.copy()
    other[:, 5] = 0.0
    assert np.array_equal(forest.score(x), forest.score(other))


def test_a_snapshot_that_would_lead_the_kernel_astray_is_refused() -> None:
    forest = IsolationForest(NAMES, seed=1, trees=3, samples=32)
    forest.fit(traffic(100, 5))
    good = forest.snapshot()
    forest.restore(unpack(pack(good)))
    feature = good.arrays["forest/feature"].copy()
    feature[0, 0] = 6
    for name, array in (
        ("forest/feature", feature),
        ("forest/leaf", good.arrays["forest/leaf"][:, :-1]),
        ("forest/threshold", good.arrays["forest/threshold"].astype(np.float64)),
        ("reservoir/rows", good.arrays["reservoir/rows"][:, :-1]),
    ):
        with pytest.raises(ValueError, match="snapshot"):
            forest.restore(Arrays({**good.arrays, name: array}, good.scalars))
