"""Logistic regression that learns each label as it becomes known.

Stochastic gradient descent with a step size of its own for each weight (Duchi, Hazan and Singer, "Adaptive
subgradient methods for online learning and stochastic optimization", JMLR 12, 2011). It sees a label seconds
after it is known, where a fitted model waits for its next fit, and costs next to nothing.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence

import numpy as np

from detectors.arrays import Arrays
from detectors.kernels_logistic import learn_rows, score_logistic
from domain.batch import Floats, Ints

__all__ = ["Logistic"]

_STATE = ("mean", "spread", "count", "weights", "steps", "labels")


class Logistic:
    """Online logistic regression over the columns ``features``; the score is the log-odds of a positive label.

    rate          how far a label moves the weights
    l2            how strongly weights are drawn to 0
    min_labels    labels before it scores, and
    min_positive  how many of them must be positive, and how many negative

    Columns are standardised by mean and spread of all labelled rows so far and cut at five spreads. Both
    classes have the same say however rare one is; the score takes their shares back into account.
    A missing value counts as the mean, and that it is missing has a weight of its own.
    """

    def __init__(
        self,
        features: Sequence[str],
        *,
        seed: int,
        rate: float = 0.1,
        l2: float = 1e-4,
        min_labels: int = 500,
        min_positive: int = 20,
    ) -> None:
        if not features:
            raise ValueError("logistic needs at least one feature")
        width = len(features)
        self._rate = rate
        self._l2 = l2
        self._min_labels = min_labels
        self._min_positive = min_positive
        self._mean = np.zeros(width)
        self._spread = np.zeros(width)
        self._count = np.zeros(width)
        self._weights = np.zeros(2 * width + 1)
        self._steps = np.zeros(2 * width + 1)
        self._labels = np.zeros(2)
        identity = [list(features), rate, l2, min_labels, min_positive]
        self._version = f"logistic-{hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:8]}"

    @property
    def ready(self) -> bool:
        """Whether enough labels of both kinds have been learned."""
        return bool(self._labels.sum() >= self._min_labels and self._labels.min() >= self._min_positive)

    @property
    def abstains_because(self) -> str | None:
        """Why it is not ready; None when it is."""
        if self.ready:
            return None
        return f"warming up: needs {self._min_labels} labels, {self._min_positive} of each kind"

    @property
    def last_failure(self) -> str | None:
        """Always None: every row can be scored."""
        return None

    @property
    def version(self) -> str:
        """Hash of features and parameters."""
        return self._version

    def next_change(self) -> int | None:
        """None: only labels change it, and they come between batches."""
        return None

    def score(self, x: Floats) -> Floats:
        """Log-odds (float64[n]); NaN while there are too few labels."""
        out = np.full(x.shape[0], np.nan)
        if self.ready:
            score_logistic(
                np.ascontiguousarray(x),
                self._mean,
                self._spread,
                self._count,
                self._weights,
                self._labels,
                out,
            )
        return out

    def step(self, x: Floats) -> Floats:
        """Scores; rows without labels teach nothing."""
        return self.score(x)

    def fit(self, x: Floats) -> None:
        """Learns nothing: past rows without labels."""

    def learn_labels(self, x: Floats, y: Floats, known_at: Ints, now: int) -> None:
        """Learn rows whose labels became known, in order.

        x float64[m, F], the vectors as they were scored; y float64[m], 0 or 1; the times have no say.
        """
        learn_rows(
            np.ascontiguousarray(x),
            np.ascontiguousarray(y),
            self._rate,
            self._l2,
            self._mean,
            self._spread,
            self._count,
            self._weights,
            self._steps,
            self._labels,
        )

    def snapshot(self) -> Arrays:
        """Weights and what columns are standardised by."""
        return Arrays({name: array.copy() for name, array in self._arrays()}, {"version": self._version})

    def restore(self, state: Arrays) -> None:
        """Take over a snapshot. Raises ValueError when it has other parameters."""
        if state.scalars.get("version") != self._version:
            raise ValueError(f"snapshot is of {state.scalars.get('version')}, this is {self._version}")
        for name, array in self._arrays():
            stored = state.arrays.get(name)
            if stored is None or stored.shape != array.shape or stored.dtype != array.dtype:
                raise ValueError(f"snapshot of logistic lacks a fitting array {name!r}")
        for name, array in self._arrays():
            array[:] = state.arrays[name]

    def _arrays(self) -> list[tuple[str, Floats]]:
        return [(name, getattr(self, f"_{name}")) for name in _STATE]
