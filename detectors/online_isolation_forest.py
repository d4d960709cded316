"""Online isolation forest: histograms that grow where rows come and are given up where they stay away.

Leveni, Weigert Cassales, Pfahringer, Bifet, Boracchi, "Online isolation forest", ICML 2024. Each tree cuts a
leaf at depth d when ``leaf * 2**d`` rows of the window lie in it, and joins it again when they have left; a row
is suspicious when its leaves lie high up and hold few rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from detectors.arrays import Arrays, child, merge
from detectors.kernels_oif import Int32s, replant, score_rows, step_rows
from detectors.online import OnlineDetector, take_over
from detectors.scaling import RobustScale
from domain.batch import Floats, Ints

__all__ = ["OnlineIsolationForest"]


class OnlineIsolationForest(OnlineDetector):
    """An online isolation forest over the columns ``features``.

    trees    number of trees
    window   rows remembered in the trees; the oldest is forgotten when a new one is learned
    memory   rows of the stream over which the window is spread: of more than ``window``, only so many are
             learned, at random; up to ``window``, all are, as in the paper
    leaf     rows in a leaf at depth 0 before it is cut (the paper's eta)
    warm_up  rows before it scores, at least ``2 * leaf``; they give the first scale and are then learned

    Values are scaled by median and interquartile range and compressed far out (:mod:`detectors.scaling`), so
    that no outlier stretches the boxes in which cuts are drawn; a missing value lies at the median. When the
    scale has moved far, the trees are grown anew from the window. Two departures from the authors' code: only
    features that vary in a leaf are cut, and rows that were spread by guess when their leaf was cut leave again
    as what they were counted (:mod:`detectors.kernels_oif`).
    """

    def __init__(
        self,
        features: Sequence[str],
        *,
        seed: int,
        trees: int = 32,
        window: int = 2048,
        memory: int = 20_000,
        leaf: int = 32,
        warm_up: int = 256,
    ) -> None:
        if not features:
            raise ValueError("online_isolation_forest needs at least one feature")
        if warm_up < 2 * leaf or window < 2 * leaf:
            raise ValueError(
                f"warm_up and window must be at least twice leaf ({2 * leaf}): no leaf is cut before"
            )
        super().__init__(
            "online_isolation_forest", warm_up, [list(features), seed, trees, window, memory, leaf, warm_up]
        )
        width = len(features)
        self._leaf = leaf
        self._seed = np.uint64(seed)
        self._scale = RobustScale(width, seed, warm_up, anchored=True, horizon=memory)
        nodes = 2 ** (_levels(window, leaf) + 1) - 1
        self._feature = np.full((trees, nodes), -1, dtype=np.int32)
        self._cut = np.zeros((trees, nodes))
        self._size = np.zeros((trees, nodes), dtype=np.int32)
        self._ghosts = np.zeros((trees, nodes), dtype=np.int32)
        self._births = np.zeros((trees, nodes), dtype=np.int64)
        self._low = np.full((trees, nodes, width), np.inf)
        self._high = np.full((trees, nodes, width), -np.inf)
        self._draws = np.zeros(trees, dtype=np.int64)
        self._rows = np.zeros((window, width))
        self._learned = np.zeros(1, dtype=np.int64)
        self._memory = max(memory, window)
        # how much deeper that many rows could be cut: log4(rows / leaf)
        self._depth_of = np.log(np.maximum(np.arange(window + 2), leaf) / leaf) / np.log(4.0)

    def score(self, x: Floats) -> Floats:
        """Scores between 0 and 1 (float64[n]) without learning; NaN during the warm-up."""
        out = np.full(x.shape[0], np.nan)
        if self.ready:
            score_rows(
                np.ascontiguousarray(x),
                self._scale.center,
                self._scale.scale,
                self._feature,
                self._cut,
                self._size,
                self._depth_of,
                out,
            )
        return out

    def step(self, x: Floats) -> Floats:
        """Score each row, then learn it and forget the oldest of the window."""
        n = x.shape[0]
        out = np.full(n, np.nan)
        at = 0
        while at < n:
            stop = min(n, at + self._scale.until_refresh())
            part = np.ascontiguousarray(x[at:stop])
            was_ready = self.ready
            if was_ready:
                self._learn(part, self._seen, True, out[at:stop])
            rescaled = self._scale.add(part)
            self._seen += stop - at
            if self.ready and not was_ready:
                self._learn(self._scale.rows, 0, False, out[:0])
            elif rescaled:
                replant(
                    self._scale.center,
                    self._scale.scale,
                    self._rows,
                    int(self._learned[0]),
                    self._leaf,
                    *self._trees(),
                    self._draws,
                    self._seed,
                )
            at = stop
        return out

    def snapshot(self) -> Arrays:
        """Trees, window and scale."""
        own = Arrays({name: array.copy() for name, array in self._arrays().items()}, self._scalars())
        return merge({"scale": self._scale.snapshot()}, own)

    def restore(self, state: Arrays) -> None:
        """Take over a snapshot. Raises ValueError when it has other parameters or counts that cannot be."""
        seen = self._checked(state)
        feature, size = state.arrays.get("feature"), state.arrays.get("size")
        if feature is not None and feature.shape == self._feature.shape:
            inner = feature.shape[1] // 2  # nodes from there on have no room for children
            if feature.min() < -1 or feature.max() >= self._rows.shape[1] or feature[:, inner:].max() >= 0:
                raise ValueError("snapshot of online_isolation_forest has a cut that cannot be")
        if size is not None and size.size and not 0 <= size.min() <= size.max() < self._depth_of.size:
            raise ValueError("snapshot of online_isolation_forest counts more rows than its window holds")
        learned = state.arrays.get("learned")
        if learned is not None and size is not None and size.shape == self._size.shape:
            held = np.clip(learned, 0, self._rows.shape[0])
            if (size[:, 0] != held).any():
                raise ValueError(
                    "snapshot of online_isolation_forest has other rows in its trees than it learned"
                )
        self._scale.restore(child(state, "scale"))
        take_over(self._arrays(), state, "online_isolation_forest")
        self._seen = seen

    def _arrays(self) -> dict[str, npt.NDArray[Any]]:
        names = ("feature", "cut", "size", "ghosts", "births", "low", "high")
        trees: dict[str, npt.NDArray[Any]] = dict(zip(names, self._trees(), strict=True))
        return {**trees, "draws": self._draws, "learned": self._learned, "window": self._rows}

    def _trees(self) -> tuple[Int32s, Floats, Int32s, Int32s, Ints, Floats, Floats]:
        """The arrays of the trees in the order in which the kernels take them."""
        return self._feature, self._cut, self._size, self._ghosts, self._births, self._low, self._high

    def _learn(self, x: Floats, seen: int, score: bool, out: Floats) -> None:
        step_rows(
            x,
            self._scale.center,
            self._scale.scale,
            self._rows,
            seen,
            self._learned,
            self._memory,
            self._leaf,
            *self._trees(),
            self._draws,
            self._seed,
            self._depth_of,
            score,
            out,
        )


def _levels(window: int, leaf: int) -> int:
    """Depth of the deepest leaf: a leaf at depth d is cut only while ``leaf * 4**d`` is below all rows.

    For a moment there is one row more than the window: a new one is learned before the oldest is forgotten.
    """
    levels = 0
    while leaf * 4**levels < window + 1:
        levels += 1
    return levels
