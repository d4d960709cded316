"""A fitted isolation forest as plain arrays, scored by the compiled kernel.

scikit-learn compares float32 values with float64 thresholds. ``x <= t`` holds for a float32 x exactly when x
is at most the greatest float32 not above t, so thresholds rounded down to float32 decide the same, in half
the memory.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from detectors.arrays import Arrays, pack
from detectors.kernels_trees import Float32s, Int32s, sum_leaves, unfold
from domain.batch import Floats

__all__ = ["LARGEST", "PackedForest", "medians_of", "prepared"]

LARGEST = 1e30
"""Infinite and larger values count as this much, which float32 still holds."""

_MAX_DEPTH = 16


def prepared(x: Floats, medians: Floats) -> Float32s:
    """``x`` as scikit-learn is given it: NaN replaced by the column's median, clipped, float32."""
    filled = np.where(np.isnan(x), medians, x)
    return np.clip(filled, -LARGEST, LARGEST, out=filled).astype(np.float32)


def medians_of(rows: Floats) -> Floats:
    """Median of each column's values that are there; 0 for a column without any."""
    there = [column[~np.isnan(column)] for column in np.clip(rows, -LARGEST, LARGEST).T]
    return np.array([np.median(values) if values.size else 0.0 for values in there])


class PackedForest:
    """Trees as complete binary trees of one depth; see :mod:`detectors.kernels_trees`."""

    def __init__(
        self, feature: Int32s, threshold: Float32s, leaf: Floats, medians: Floats, denominator: float
    ) -> None:
        self._feature = feature
        self._threshold = threshold
        self._leaf = leaf
        self._medians = medians
        self._denominator = denominator
        self._depth = (threshold.shape[1] + 1).bit_length() - 1
        self.digest = hashlib.sha256(pack(self.snapshot())).hexdigest()[:8]

    @classmethod
    def packed(
        cls, fitted: Sequence[tuple[Any, npt.NDArray[np.intp]]], samples: int, medians: Floats
    ) -> PackedForest:
        """The arrays of an isolation forest: scikit-learn's trees, each of ``samples`` rows, and their columns."""
        depth = max(1, *(tree.max_depth for tree, _ in fitted))
        feature = np.zeros((len(fitted), 2**depth - 1), dtype=np.int32)
        threshold = np.full((len(fitted), 2**depth - 1), np.inf, dtype=np.float32)
        leaf = np.zeros((len(fitted), 2**depth))
        for t, (tree, columns) in enumerate(fitted):
            # A leaf's value in scikit-learn's own order of operations: (depth + average path) - 1.
            values = tree.compute_node_depths() + _average_path(tree.n_node_samples) - 1.0
            unfold(
                tree.children_left.astype(np.int64),
                tree.children_right.astype(np.int64),
                tree.feature.astype(np.int64),
                np.array(tree.threshold),
                values,
                columns.astype(np.int64),
                feature[t],
                threshold[t],
                leaf[t],
            )
        denominator = float(len(fitted) * _average_path(np.array([samples]))[0])
        return cls(feature, threshold, leaf, medians, denominator)

    @classmethod
    def restored(cls, state: Arrays, width: int) -> PackedForest:
        """The forest of a snapshot. Raises ValueError when its arrays would lead the kernel astray."""
        expected = {"feature": np.int32, "threshold": np.float32, "leaf": np.float64, "medians": np.float64}
        for name, kind in expected.items():
            if name not in state.arrays or state.arrays[name].dtype != kind:
                raise ValueError(f"snapshot of a forest lacks the array {name!r} of type {kind.__name__}")
        feature, threshold, leaf, medians = (state.arrays[name] for name in expected)
        denominator = state.scalars.get("denominator")
        depth = leaf.shape[-1].bit_length() - 1
        fits = (
            leaf.ndim == 2
            and 1 <= depth <= _MAX_DEPTH
            and leaf.shape[1] == 2**depth
            and feature.shape == threshold.shape == (leaf.shape[0], 2**depth - 1)
            and medians.shape == (width,)
            and bool(((feature >= 0) & (feature < width)).all())
        )
        if not fits or not isinstance(denominator, float):
            raise ValueError("snapshot of a forest has arrays that do not fit together or this detector")
        return cls(feature, threshold, leaf, medians, denominator)

    def score(self, x: Floats) -> Floats:
        """``-score_samples`` of the fitted forest, float64[n] between 0 and 1, same bits."""
        depths = np.empty(x.shape[0])
        sum_leaves(
            np.ascontiguousarray(x),
            self._medians,
            LARGEST,
            self._feature,
            self._threshold,
            self._leaf,
            self._depth,
            depths,
        )
        if self._denominator == 0.0:  # fitted on one row: scikit-learn gives 2 ** -1 to everything
            return np.full(x.shape[0], 0.5)
        scores: Floats = 2 ** (-(depths / self._denominator))
        return scores

    def snapshot(self) -> Arrays:
        """All arrays."""
        arrays: dict[str, npt.NDArray[Any]] = {
            "feature": self._feature,
            "threshold": self._threshold,
            "leaf": self._leaf,
            "medians": self._medians,
        }
        return Arrays(arrays, {"denominator": self._denominator})


def _average_path(samples: npt.NDArray[Any]) -> Floats:
    """Average path length of unsuccessful searches in trees of ``samples`` rows (paper, equation 1)."""
    n = samples.astype(np.float64)
    out = np.where(n == 2, 1.0, 0.0)
    many = n > 2
    out[many] = 2.0 * (np.log(n[many] - 1.0) + np.euler_gamma) - 2.0 * (n[many] - 1.0) / n[many]
    return out
