"""A random forest on labels: the mean of many trees that differ by chance.

Breiman, "Random forests", Machine Learning 45 (2001): each tree sees a resample of the rows, and each cut is
the best one of some features. Geurts, Ernst and Wehenkel, "Extremely randomized trees", Machine Learning 63
(2006): each tree sees all rows, and each cut is the best one of random cuts, one a feature. scikit-learn fits
both; a compiled kernel scores them with the same bits as ``predict_proba``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from detectors.compressed_trees import Compression
from detectors.label_memory import TrainingRows
from detectors.label_trained import LabelTrained
from detectors.packed_trees import FittedTrees, grown

__all__ = ["RandomForest"]


class RandomForest(LabelTrained):
    """A forest over the columns ``features``; the score is the probability of a positive label.

    cuts                     ``best`` (Breiman) or ``random`` (extremely randomized trees)
    trees, leaves, depth, min_leaf  as scikit-learn's n_estimators, max_leaf_nodes, max_depth, min_samples_leaf
    max_features             share of the features that each cut chooses from
    Others: see :class:`detectors.label_trained.LabelTrained`. A missing value goes, at each cut, to the side
    that fits it better; where none was missing at the fit, to the side of more rows.
    """

    kind = "random_forest"

    def __init__(
        self,
        features: Sequence[str],
        *,
        seed: int,
        cuts: Literal["best", "random"] = "best",
        trees: int = 100,
        leaves: int = 256,
        depth: int = 12,
        min_leaf: int = 10,
        max_features: float = 0.5,
        memory: int = 20_000,
        refit_every: int = 86_400_000_000,
        min_labels: int = 500,
        min_positive: int = 20,
        compress: Compression | None = None,
    ) -> None:
        super().__init__(
            features,
            seed=seed,
            memory=memory,
            refit_every=refit_every,
            min_labels=min_labels,
            min_positive=min_positive,
            compress=compress,
        )
        self._cuts = cuts
        self._settings = {
            "n_estimators": trees,
            "max_leaf_nodes": leaves,
            "max_depth": depth,
            "min_samples_leaf": min_leaf,
            "max_features": max_features,
        }

    def _fit(self, rows: TrainingRows) -> FittedTrees:
        # imported where they are needed: loading scikit-learn takes seconds, and only fitting needs it
        from sklearn.ensemble import ExtraTreesClassifier, RandomForestClassifier

        kind = RandomForestClassifier if self._cuts == "best" else ExtraTreesClassifier
        model = kind(**self._settings, random_state=self._seed, n_jobs=1)
        model.fit(rows.x, rows.y, sample_weight=rows.weight)
        return grown(model)
