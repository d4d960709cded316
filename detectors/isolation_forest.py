"""Isolation forest: rows that random cuts separate early are suspicious.

Liu, Ting, Zhou, "Isolation forest", ICDM 2008. scikit-learn fits it; a compiled kernel scores it with the
same bits as ``-score_samples`` at a fraction of the cost (see docs/detectors.md). It follows a stream by
being refitted from a uniform sample of all past rows, at exact row counts.
"""

from __future__ import annotations

from collections.abc import Sequence

from detectors.forest import PackedForest, medians_of, prepared
from detectors.isolation_fit import isolation_trees
from detectors.refitted import RefittedForest
from domain.batch import Floats

__all__ = ["IsolationForest"]


class IsolationForest(RefittedForest):
    """An isolation forest over the columns ``features``; NaN counts as the feature's median in the sample.

    trees, samples, max_features  as in scikit-learn (max_features: share of the features a tree sees)
    warm_up       rows before the first fit; until then it abstains
    refit_every   most rows between two fits; early ones come closer (detectors/schedule.py)
    reservoir     rows of the uniform sample it is fitted from
    """

    def __init__(
        self,
        features: Sequence[str],
        *,
        seed: int,
        trees: int = 100,
        samples: int = 256,
        warm_up: int = 32,
        refit_every: int = 50_000,
        reservoir: int = 4096,
        max_features: float = 0.7,
    ) -> None:
        super().__init__(
            "isolation_forest",
            features,
            seed=seed,
            warm_up=warm_up,
            refit_every=refit_every,
            reservoir=reservoir,
        )
        self._trees = trees
        self._samples = samples
        self._max_features = max_features

    def _fitted(self, rows: Floats, seed: int) -> tuple[PackedForest, Floats]:
        medians = medians_of(rows)
        x = prepared(rows, medians)
        samples = min(self._samples, x.shape[0])
        fitted = isolation_trees(
            x, trees=self._trees, samples=samples, max_features=self._max_features, seed=seed
        )
        forest = PackedForest.packed(list(fitted), samples, medians)
        return forest, forest.score(rows)
