"""Isolation forest: rows that random cuts separate early are suspicious.

Liu, Ting, Zhou, "Isolation forest", ICDM 2008. scikit-learn fits it; a compiled kernel scores it with the
same bits as ``-score_samples`` at a fraction of the cost (see docs/detectors.md). It follows a stream by
being refitted from a uniform sample of all past rows, at fixed row counts.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

from detectors.arrays import Arrays, child, merge
from detectors.forest import LARGEST, PackedForest, prepared
from detectors.sampling import Reservoir
from domain.batch import Floats

__all__ = ["IsolationForest"]


class IsolationForest:
    """An isolation forest over the columns ``features``; NaN counts as the feature's median in the sample.

    trees, samples, max_features  as in scikit-learn (max_features: share of the features a tree sees)
    warm_up       rows before the first fit; until then it abstains
    refit_every   rows between two fits
    reservoir     rows of the uniform sample it is fitted from
    """

    def __init__(
        self,
        features: Sequence[str],
        *,
        seed: int,
        trees: int = 100,
        samples: int = 256,
        warm_up: int = 2000,
        refit_every: int = 200_000,
        reservoir: int = 2048,
        max_features: float = 1.0,
    ) -> None:
        if not features:
            raise ValueError("isolation_forest needs at least one feature")
        self._width = len(features)
        self._seed = seed
        self._trees = trees
        self._samples = samples
        self._max_features = max_features
        self._warm_up = warm_up
        self._refit_every = refit_every
        self._reservoir = Reservoir(reservoir, self._width, seed)
        self._due = warm_up
        self._fits = 0
        self._forest: PackedForest | None = None

    @property
    def ready(self) -> bool:
        """Whether a forest has been fitted."""
        return self._forest is not None

    @property
    def abstains_because(self) -> str | None:
        """Why it is not ready; None when it is."""
        return None if self.ready else f"warming up: needs {self._due} events"

    @property
    def last_failure(self) -> str | None:
        """Always None: every row can be scored."""
        return None

    @property
    def version(self) -> str:
        """Hash of the forest; ``isolation_forest-unfitted`` before the first fit."""
        return "isolation_forest-unfitted" if self._forest is None else self._forest.version

    def next_change(self) -> int | None:
        """Rows until the next fit."""
        return self._due - self._reservoir.seen

    def score(self, x: Floats) -> Floats:
        """Scores between 0 and 1 (float64[n]); NaN before the first fit."""
        return np.full(x.shape[0], np.nan) if self._forest is None else self._forest.score(x)

    def step(self, x: Floats) -> Floats:
        """Score each row, then sample it, and fit again where it is due."""
        n = x.shape[0]
        out = np.empty(n)
        at = 0
        while at < n:
            stop = min(n, at + self._due - self._reservoir.seen)
            out[at:stop] = self.score(x[at:stop])
            self._reservoir.add(x[at:stop])
            at = stop
            if self._reservoir.seen == self._due:
                self._refit()
        return out

    def fit(self, x: Floats) -> None:
        """Sample past rows and fit at once, whether or not a fit is due."""
        if x.shape[0]:
            self._reservoir.add(x)
            self._refit()

    def snapshot(self) -> Arrays:
        """The sample and the forest."""
        children = {"reservoir": self._reservoir.snapshot()}
        if self._forest is not None:
            children["forest"] = self._forest.snapshot()
        return merge(children, Arrays({}, {"due": self._due, "fits": self._fits}))

    def restore(self, state: Arrays) -> None:
        """Take over a snapshot. Raises ValueError when it does not fit the parameters."""
        due, fits = state.scalars.get("due"), state.scalars.get("fits")
        if not isinstance(due, int) or not isinstance(fits, int):
            raise ValueError("snapshot of isolation_forest lacks 'due' or 'fits'")
        self._reservoir.restore(child(state, "reservoir"))
        if due <= self._reservoir.seen:
            raise ValueError("snapshot of isolation_forest: 'due' lies in the past")
        packed = child(state, "forest")
        self._forest = PackedForest.restored(packed, self._width) if packed.arrays else None
        self._due = due
        self._fits = fits

    def _refit(self) -> None:
        self._forest = self._fitted(self._reservoir.rows)
        self._fits += 1
        self._due = self._reservoir.seen + self._refit_every

    def _fitted(self, rows: Floats) -> PackedForest:
        medians = _medians(rows)
        x = prepared(rows, medians)
        # Each fit draws anew, or the same cuts would be made for ever.
        drawn = hashlib.sha256(f"{self._seed}:{self._fits}".encode()).digest()
        # imported where it is needed: loading scikit-learn takes seconds, and only fitting needs it
        from sklearn.ensemble import IsolationForest as FittedForest

        fitted = FittedForest(
            n_estimators=self._trees,
            max_samples=min(self._samples, x.shape[0]),
            max_features=self._max_features,
            random_state=int.from_bytes(drawn[:4], "little"),
        ).fit(x)
        return PackedForest.packed(fitted, medians)


def _medians(rows: Floats) -> Floats:
    """Median of each column's values that are there; 0 for a column without any."""
    there = [column[~np.isnan(column)] for column in np.clip(rows, -LARGEST, LARGEST).T]
    return np.array([np.median(values) if values.size else 0.0 for values in there])
