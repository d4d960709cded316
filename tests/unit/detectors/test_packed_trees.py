from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sklearn.ensemble import ExtraTreesClassifier, HistGradientBoostingClassifier, RandomForestClassifier

from detectors.arrays import Arrays, pack, unpack
from detectors.packed_trees import PackedTrees, as_fitted, boosted, grown
from domain.batch import Floats

WIDTH = 5


def traffic(n: int, seed: int, holes: bool) -> Floats:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, WIDTH))
    x[:, 1] = np.exp(x[:, 1] * 3.0) * 1e6
    x[:, 2] = np.floor(x[:, 2])
    x[:, 3] = 1.0
    if holes:
        x[rng.random(x.shape) < 0.1] = np.nan
        x[rng.random(x.shape) < 0.01] = np.inf
        x[rng.random(x.shape) < 0.01] = -np.inf
    return x


def labelled(n: int, seed: int, holes: bool) -> tuple[Floats, Floats, Floats]:
    """Rows, labels and weights; with holes, missing values say something of their own."""
    x = traffic(n, seed, holes)
    rng = np.random.default_rng(seed + 100)
    y = (np.nan_to_num(x[:, 0]) + rng.normal(size=n) > 1.0).astype(np.float64)
    if holes:
        x[(y == 1) & (rng.random(n) < 0.5), 4] = np.nan
    return x, y, np.where(y == 1, 1.0, 3.7)


EDGES = np.array([[np.inf] * WIDTH, [-np.inf] * WIDTH, [np.nan] * WIDTH, [1e31] * WIDTH, [-0.0] * WIDTH])


@pytest.mark.parametrize("holes", [False, True])
@pytest.mark.parametrize("rows", [60, 3000])
def test_boosting_has_scikit_learns_bits(rows: int, holes: bool) -> None:
    x, y, weight = labelled(rows, 1, holes)
    fitted = HistGradientBoostingClassifier(max_iter=30, max_depth=8, early_stopping=False).fit(
        as_fitted(x), y, sample_weight=weight
    )
    packed = PackedTrees.packed(boosted(fitted), WIDTH)
    # The rows it was fitted on lie on thresholds more often; holes come also where none was at the fit.
    for other in (x, traffic(701, 2, True), EDGES):
        assert packed.score(other).tobytes() == fitted.decision_function(as_fitted(other)).tobytes()
    assert len(np.unique(packed.score(x))) > 5


@pytest.mark.parametrize("holes", [False, True])
@pytest.mark.parametrize("kind", [RandomForestClassifier, ExtraTreesClassifier])
@pytest.mark.parametrize(("rows", "leaves"), [(60, None), (3000, None), (3000, 16)])
def test_a_forest_has_scikit_learns_bits(rows: int, leaves: int | None, kind: Any, holes: bool) -> None:
    x, y, weight = labelled(rows, 1, holes)
    fitted = kind(20, max_leaf_nodes=leaves, min_samples_leaf=2, max_features=0.4, random_state=3).fit(
        as_fitted(x), y, sample_weight=weight
    )
    packed = PackedTrees.packed(grown(fitted), WIDTH)
    for other in (x, traffic(701, 2, True), EDGES):
        assert packed.score(other).tobytes() == fitted.predict_proba(as_fitted(other))[:, 1].tobytes()
    assert len(np.unique(packed.score(x))) > 5


def test_a_cut_between_missing_and_present_is_kept() -> None:
    x = np.column_stack([np.where(np.arange(400) % 4 == 0, np.nan, np.arange(400.0))])
    y = (np.arange(400) % 4 == 0).astype(np.float64)
    forest = RandomForestClassifier(3, random_state=0).fit(as_fitted(x), y)
    boosting = HistGradientBoostingClassifier(max_iter=3, early_stopping=False).fit(as_fitted(x), y)
    for packed in (PackedTrees.packed(grown(forest), 1), PackedTrees.packed(boosted(boosting), 1)):
        missing, present, endless = packed.score(np.array([[np.nan], [1.0], [np.inf]]))
        assert missing > present == endless


def test_thresholds_between_floats_decide_as_scikit_learn_does() -> None:
    x = np.repeat(np.array([[1000.0], [np.nextafter(np.float32(1000.0), np.float32(2000.0))]]), [30, 10], 0)
    y = np.repeat([0.0, 1.0], [30, 10])
    packed = PackedTrees.packed(grown(RandomForestClassifier(5, random_state=0).fit(as_fitted(x), y)), 1)
    assert packed.score(x)[0] < packed.score(x)[-1]


def test_a_snapshot_that_would_lead_the_kernel_astray_is_refused() -> None:
    x, y, weight = labelled(200, 1, False)
    fitted = RandomForestClassifier(3, random_state=0).fit(as_fitted(x), y, sample_weight=weight)
    packed = PackedTrees.packed(grown(fitted), WIDTH)
    good = unpack(pack(packed.snapshot()))
    assert np.array_equal(PackedTrees.restored(good, WIDTH).score(x), packed.score(x))

    def changed(name: str, place: int, value: float) -> Arrays:
        array = good.arrays[name].copy()
        array[place] = value
        return Arrays({**good.arrays, name: array}, good.scalars)

    nodes = len(good.arrays["left"])
    leaf = int(np.flatnonzero(good.arrays["left"] == np.arange(nodes))[0])
    for bad in (
        changed("feature", 0, 2 * WIDTH),
        changed("left", 0, nodes - 1),
        changed("root", 1, nodes),
        changed("depth", 0, nodes),
        changed("threshold", leaf, 0.0),
        Arrays({**good.arrays, "value": good.arrays["value"][:-1]}, good.scalars),
        Arrays(good.arrays, {**good.scalars, "divisor": 0.0}),
    ):
        with pytest.raises(ValueError, match="snapshot"):
            PackedTrees.restored(bad, WIDTH)
