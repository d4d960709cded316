"""A fitted boosting model or random forest as plain arrays, scored by the compiled kernel.

Models are fitted to float32 values (:func:`as_fitted`), and float32 is what they are asked about. ``x <= t``
holds for a float32 x exactly when x is at most the greatest float32 not above t, so thresholds rounded down to
float32 decide as scikit-learn's float64 ones do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from detectors.arrays import Arrays
from detectors.kernels_nodes import LARGEST, walk_nodes
from detectors.kernels_trees import Float32s
from domain.batch import Floats

__all__ = ["FittedTrees", "PackedTrees", "Tree", "as_fitted", "boosted", "grown"]

_TYPES: dict[str, type[np.generic]] = {
    "feature": np.int32,
    "threshold": np.float32,
    "left": np.uint32,
    "value": np.float64,
    "root": np.uint32,
    "depth": np.int32,
}


def as_fitted(x: npt.NDArray[np.floating[Any]]) -> Float32s:
    """``x`` as models are given it: float32, magnitudes cut at 1e30, NaN kept (it means missing)."""
    cut: Float32s = np.clip(x, -LARGEST, LARGEST).astype(np.float32)
    return cut


@dataclass(frozen=True, slots=True)
class Tree:
    """One binary tree as parallel arrays over its nodes; node 0 is the root.

    feature int[n]; threshold float64[n] (x <= threshold goes left); left, right int[n], -1 in leaves;
    missing_left bool[n]; value float64[n].
    """

    feature: npt.NDArray[Any]
    threshold: Floats
    left: npt.NDArray[Any]
    right: npt.NDArray[Any]
    missing_left: npt.NDArray[np.bool_]
    value: Floats


@dataclass(frozen=True, slots=True)
class FittedTrees:
    """Trees whose score is (base + sum of the values of the leaves reached) / divisor."""

    trees: Sequence[Tree]
    base: float
    divisor: float


class PackedTrees:
    """Trees over ``width`` columns, whose score is (base + sum of leaf values) / divisor.

    Arrays as :func:`detectors.kernels_nodes.walk_nodes` describes them.
    """

    def __init__(self, arrays: dict[str, npt.NDArray[Any]], width: int, base: float, divisor: float) -> None:
        self.arrays = {name: arrays[name] for name in _TYPES}  # in this order: snapshots are hashed
        self.width = width
        self.base = base
        self.divisor = divisor

    @classmethod
    def packed(cls, fitted: FittedTrees, width: int) -> PackedTrees:
        """The arrays of ``fitted`` over ``width`` columns; what no walk reaches is left out."""
        parts = [_laid_out(tree, width) for tree in fitted.trees]
        starts = np.cumsum([0, *(len(part["feature"]) for part in parts)])
        for part, start in zip(parts, starts, strict=False):
            part["left"] += np.uint32(start)
        arrays = {name: np.concatenate([part[name] for part in parts]) for name in _TYPES if name != "root"}
        arrays["root"] = starts[:-1].astype(np.uint32)
        return cls(arrays, width, fitted.base, fitted.divisor)

    @classmethod
    def restored(cls, state: Arrays, width: int) -> PackedTrees:
        """The trees of a snapshot. Raises ValueError when its arrays would lead the kernel astray."""
        for name, kind in _TYPES.items():
            if name not in state.arrays or state.arrays[name].dtype != kind or state.arrays[name].ndim != 1:
                raise ValueError(f"snapshot of trees lacks the array {name!r} of type {kind.__name__}")
        arrays = {name: state.arrays[name] for name in _TYPES}
        base, divisor = state.scalars.get("base"), state.scalars.get("divisor")
        nodes, trees = len(arrays["feature"]), len(arrays["root"])
        left, leaf = arrays["left"].astype(np.int64), arrays["left"] == np.arange(nodes)
        fits = (
            trees > 0
            and len(arrays["threshold"]) == len(arrays["left"]) == len(arrays["value"]) == nodes
            and len(arrays["depth"]) == trees
            and bool(((arrays["feature"] >= 0) & (arrays["feature"] < 2 * width)).all())
            and bool((arrays["root"] < nodes).all())
            and bool((leaf | (left + 1 < nodes)).all())
            and bool((arrays["threshold"][leaf] == np.inf).all())
            and bool(((arrays["depth"] >= 0) & (arrays["depth"] < nodes)).all())
        )
        if not fits or not isinstance(base, float) or not isinstance(divisor, float) or divisor <= 0.0:
            raise ValueError("snapshot of trees has arrays that do not fit together or this detector")
        return cls(arrays, width, base, divisor)

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays."""
        return sum(array.nbytes for array in self.arrays.values())

    def score(self, x: Floats) -> Floats:
        """float64[n]: what scikit-learn gives for ``as_fitted(x)``, same bits."""
        out = np.empty(x.shape[0])
        a = self.arrays
        walk_nodes(
            np.ascontiguousarray(x),
            a["feature"],
            a["threshold"],
            a["left"],
            a["value"],
            a["root"],
            a["depth"],
            self.base,
            out,
        )
        out /= self.divisor
        return out

    def snapshot(self) -> Arrays:
        """All arrays; they are never written to again."""
        return Arrays(dict(self.arrays), {"base": self.base, "divisor": self.divisor})


def boosted(fitted: Any) -> FittedTrees:
    """A fitted binary HistGradientBoostingClassifier or a -Regressor, without categories: its raw prediction."""
    trees = []
    for (predictor,) in fitted._predictors:
        nodes = predictor.nodes
        leaf = nodes["is_leaf"].astype(bool)
        trees.append(
            Tree(
                feature=nodes["feature_idx"],
                threshold=nodes["num_threshold"],
                left=np.where(leaf, -1, nodes["left"].astype(np.int64)),
                right=np.where(leaf, -1, nodes["right"].astype(np.int64)),
                missing_left=nodes["missing_go_to_left"].astype(bool),
                value=nodes["value"],
            )
        )
    return FittedTrees(trees, float(np.asarray(fitted._baseline_prediction).ravel()[0]), 1.0)


def grown(fitted: Any) -> FittedTrees:
    """A fitted binary RandomForestClassifier: its probability of the second class."""
    trees = []
    for estimator in fitted.estimators_:
        tree = estimator.tree_
        trees.append(
            Tree(
                feature=tree.feature,
                threshold=tree.threshold,
                left=tree.children_left,
                right=tree.children_right,
                missing_left=tree.missing_go_to_left.astype(bool),
                value=np.ascontiguousarray(tree.value[:, 0, 1]),
            )
        )
    return FittedTrees(trees, 0.0, float(len(trees)))


def _laid_out(tree: Tree, width: int) -> dict[str, npt.NDArray[Any]]:
    """The arrays of one tree, level by level, so that the children of a node are neighbours."""
    order = [0]
    left: list[int] = []
    levels = [0]
    for place, node in enumerate(order):
        if tree.left[node] < 0:
            left.append(place)
            continue
        left.append(len(order))
        order += [int(tree.left[node]), int(tree.right[node])]
        levels += [levels[place] + 1] * 2
    nodes = np.array(order)
    leaf = tree.left[nodes] < 0
    # +inf means "all that is there goes left": above it missing values, written as +inf, must still differ
    exact = np.where(leaf, 0.0, np.minimum(tree.threshold[nodes], np.float64(np.float32(LARGEST))))
    rounded = exact.astype(np.float32)
    rounded = np.where(rounded > exact, np.nextafter(rounded, np.float32(-np.inf)), rounded)
    column = tree.feature[nodes].astype(np.int64) + width * ~tree.missing_left[nodes]
    return {
        "feature": np.where(leaf, 0, column).astype(np.int32),
        "threshold": np.where(leaf, np.float32(np.inf), rounded).astype(np.float32),
        "left": np.array(left, dtype=np.uint32),
        "value": np.where(leaf, tree.value[nodes], 0.0),
        "depth": np.array([levels[-1]], dtype=np.int32),
    }
