from __future__ import annotations

import numpy as np
import pytest
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier

from detectors.arrays import Arrays, pack, unpack
from detectors.compressed_trees import Compression, QuantisedTrees, compressed, pruned
from detectors.label_memory import TrainingRows
from detectors.packed_trees import FittedTrees, PackedTrees, as_fitted, boosted, grown
from domain.batch import Floats
from tests.unit.detectors.test_packed_trees import EDGES, WIDTH, labelled, traffic


def fitted_forest(rows: int) -> tuple[FittedTrees, TrainingRows, Floats]:
    x, y, weight = labelled(rows, 1, True)
    forest = RandomForestClassifier(20, min_samples_leaf=3, random_state=3)
    return (
        grown(forest.fit(as_fitted(x), y, sample_weight=weight)),
        TrainingRows(as_fitted(x), y, weight),
        traffic(2000, 2, True),
    )


def test_sixteen_bits_lose_only_the_last_digits_of_leaves() -> None:
    fitted, _, other = fitted_forest(3000)
    packed = PackedTrees.packed(fitted, WIDTH)
    small = QuantisedTrees.of(packed, 16)
    for x in (other, EDGES):
        assert np.abs(small.score(x) - packed.score(x)).max() < 1e-4
    assert small.nbytes < packed.nbytes / 2


def test_eight_bits_keep_every_cut_of_binned_boosting() -> None:
    x, y, weight = labelled(3000, 1, True)
    model = HistGradientBoostingClassifier(max_iter=30, max_depth=8, early_stopping=False)
    packed = PackedTrees.packed(boosted(model.fit(as_fitted(x), y, sample_weight=weight)), WIDTH)
    small = QuantisedTrees.of(packed, 8)
    leaves = packed.arrays["value"]
    step = (leaves.max() - leaves.min()) / 254
    for other in (x, traffic(2000, 2, True), EDGES):
        assert np.abs(small.score(other) - packed.score(other)).max() <= 30 * step / 2 * 1.001
    assert small.nbytes < packed.nbytes / 3


def test_eight_bits_of_a_forest_with_more_cuts_than_that_rank_nearly_alike() -> None:
    fitted, _, other = fitted_forest(3000)
    packed = PackedTrees.packed(fitted, WIDTH)
    small = QuantisedTrees.of(packed, 8)
    assert np.corrcoef(small.score(other), packed.score(other))[0, 1] > 0.99
    assert small.nbytes < packed.nbytes / 3


def test_pruning_bounds_what_a_score_may_move() -> None:
    fitted, _, other = fitted_forest(3000)
    less = FittedTrees(pruned(fitted.trees, 0.3), fitted.base, fitted.divisor)
    before, after = PackedTrees.packed(fitted, WIDTH), PackedTrees.packed(less, WIDTH)
    assert np.abs(before.score(other) - after.score(other)).max() <= 0.15 + 1e-12
    assert after.nbytes < 0.9 * before.nbytes
    untouched = FittedTrees(pruned(fitted.trees, 0.0), fitted.base, fitted.divisor)
    assert np.array_equal(PackedTrees.packed(untouched, WIDTH).score(other), before.score(other))


def test_distilled_trees_say_nearly_the_same_and_are_fewer() -> None:
    fitted, rows, other = fitted_forest(3000)
    packed = PackedTrees.packed(fitted, WIDTH)
    student = compressed(fitted, rows, Compression(distil=20), 1)
    assert np.corrcoef(student.score(other), packed.score(other))[0, 1] > 0.95
    assert student.nbytes < packed.nbytes / 4


def test_a_snapshot_that_would_lead_the_kernel_astray_is_refused() -> None:
    fitted, _, other = fitted_forest(300)
    small = QuantisedTrees.of(PackedTrees.packed(fitted, WIDTH), 8)
    good = unpack(pack(small.snapshot()))
    assert np.array_equal(QuantisedTrees.restored(good, WIDTH).score(other), small.score(other))
    leaf = int(np.flatnonzero(good.arrays["skip"] == 0)[0])

    def changed(name: str, place: int, value: int) -> Arrays:
        array = good.arrays[name].copy()
        array[place] = value
        return Arrays({**good.arrays, name: array}, good.scalars)

    for bad in (
        changed("feature", 0, 2 * WIDTH),
        changed("skip", -1, 7),
        changed("code", leaf, 0),
        changed("ends", -1, 1),
        changed("root", 0, len(good.arrays["code"])),
        Arrays(good.arrays, {}),
    ):
        with pytest.raises(ValueError, match="snapshot"):
            QuantisedTrees.restored(bad, WIDTH)
