"""Half-space trees: an online detector of regions that few recent events fall into.

Tan, Ting, Liu, "Fast anomaly detection for streaming data", IJCAI 2011. Random trees cut the feature space
in halves without looking at data; each node counts the rows of the present window, and a row is scored by
the counts of the window before it. Trees, draws and scores are those of ``river.anomaly.HalfSpaceTrees``
(a test compares them row by row), at a fraction of the cost.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np

from detectors.arrays import Arrays
from detectors.kernels_hst import Int32s, score_rows, step_rows
from domain.batch import Floats

__all__ = ["HalfSpaceTrees"]

_PADDING = 0.15
"""Share of a range at either end in which no cut is made, as in River."""


class HalfSpaceTrees:
    """Half-space trees over the columns ``features``, in which NaN means that the feature is absent.

    trees, height, window  as in the paper: number of trees, levels of cuts, rows per window
    limits  range of some features as the trees see them; [0, 1] for the others
    scale   ``minmax``: each value is scaled to [0, 1] by the least and greatest finite value up to and with
            its own row (a constant feature gives 0); ``none``: values are taken as they are

    An absent feature follows the child that more rows of the present window took, as in River. Unlike
    River's, the trees know all features from the start, whatever the first row holds.
    """

    def __init__(
        self,
        features: Sequence[str],
        *,
        seed: int,
        trees: int = 25,
        height: int = 8,
        window: int = 250,
        limits: Mapping[str, tuple[float, float]] | None = None,
        scale: Literal["minmax", "none"] = "minmax",
    ) -> None:
        given = dict(limits or {})
        unknown = sorted(set(given) - set(features))
        if unknown:
            raise ValueError(f"limits name {unknown[0]!r}, which is no feature of this detector")
        if not features:
            raise ValueError("half_space_trees needs at least one feature")
        self._height = height
        self._window = window
        self._scaled = scale == "minmax"
        ranges = {name: given.get(name, (0.0, 1.0)) for name in sorted(features)}
        self._feature, self._threshold = _plant(list(features), ranges, trees, height, seed)
        self._recent = np.zeros((trees, 2 ** (height + 1) - 1), dtype=np.int32)
        self._reference = np.zeros_like(self._recent)
        self._low = np.full(len(features), np.inf)
        self._high = np.full(len(features), -np.inf)
        self._seen = 0
        identity = [list(features), seed, trees, height, window, sorted(given.items()), scale]
        digest = hashlib.sha256(json.dumps(identity).encode()).hexdigest()
        self._version = f"half_space_trees-{digest[:8]}"

    @property
    def ready(self) -> bool:
        """Whether the first window is complete."""
        return self._seen >= self._window

    @property
    def abstains_because(self) -> str | None:
        """Why it is not ready; None when it is."""
        return None if self.ready else f"warming up: needs {self._window} events"

    @property
    def last_failure(self) -> str | None:
        """Always None: every row can be scored."""
        return None

    @property
    def version(self) -> str:
        """Hash of features, parameters and seed."""
        return self._version

    def next_change(self) -> int | None:
        """Rows until the first window is complete; None after it."""
        return None if self.ready else self._window - self._seen

    def score(self, x: Floats) -> Floats:
        """Scores between 0 and 1 (float64[n]) without learning; NaN during the first window."""
        out = np.full(x.shape[0], np.nan)
        if self.ready:
            score_rows(
                np.ascontiguousarray(x),
                self._scaled,
                self._low,
                self._high,
                self._feature,
                self._threshold,
                self._recent,
                self._reference,
                self._height,
                self._window,
                out,
            )
        return out

    def step(self, x: Floats) -> Floats:
        """Score each row, then learn it."""
        out = np.empty(x.shape[0])
        step_rows(
            np.ascontiguousarray(x),
            self._scaled,
            self._low,
            self._high,
            self._feature,
            self._threshold,
            self._recent,
            self._reference,
            self._height,
            self._window,
            self._seen,
            out,
        )
        self._seen += x.shape[0]
        return out

    def fit(self, x: Floats) -> None:
        """Learn past rows, oldest first."""
        self.step(x)

    def snapshot(self) -> Arrays:
        """Masses and extremes; the trees themselves follow from the parameters."""
        arrays = {
            "recent": self._recent.copy(),
            "reference": self._reference.copy(),
            "low": self._low.copy(),
            "high": self._high.copy(),
        }
        return Arrays(arrays, {"version": self._version, "seen": self._seen})

    def restore(self, state: Arrays) -> None:
        """Take over a snapshot. Raises ValueError when it has other parameters."""
        seen = state.scalars.get("seen")
        if state.scalars.get("version") != self._version or not isinstance(seen, int):
            raise ValueError(f"snapshot is of {state.scalars.get('version')}, this is {self._version}")
        own = {"recent": self._recent, "reference": self._reference, "low": self._low, "high": self._high}
        for name, array in own.items():
            stored = state.arrays.get(name)
            if stored is None or stored.shape != array.shape or stored.dtype != array.dtype:
                raise ValueError(f"snapshot of half_space_trees lacks a fitting array {name!r}")
        for name, array in own.items():
            array[:] = state.arrays[name]
        self._seen = seen


def _plant(
    features: list[str], ranges: dict[str, tuple[float, float]], trees: int, height: int, seed: int
) -> tuple[Int32s, Floats]:
    """Columns and thresholds of the inner nodes, by the same draws as River's ``make_padded_tree``."""
    inner = 2**height - 1
    columns = np.zeros((trees, inner), dtype=np.int32)
    thresholds = np.zeros((trees, inner))
    rng = random.Random(seed)  # noqa: S311  (not for secrets: River draws from the same generator)
    names = list(ranges)

    def cut(tree: int, node: int) -> None:
        if node >= inner:
            return
        weights = [high - low for low, high in ranges.values()]
        name = rng.choices(names, weights)[0]
        low, high = ranges[name]
        at = rng.uniform(low + _PADDING * (high - low), high - _PADDING * (high - low))
        columns[tree, node] = features.index(name)
        thresholds[tree, node] = at
        ranges[name] = (low, at)
        cut(tree, 2 * node + 1)
        ranges[name] = (at, high)
        cut(tree, 2 * node + 2)
        ranges[name] = (low, high)

    for tree in range(trees):
        cut(tree, 0)
    return columns, thresholds
