"""A random forest on labels: the mean of many trees, each grown on a resample of rows and random features.

Breiman, "Random forests", Machine Learning 45 (2001). scikit-learn's RandomForestClassifier fits it; a
compiled kernel scores it with the same bits as ``predict_proba``.
"""

from __future__ import annotations

from collections.abc import Sequence

from detectors.compressed_trees import Compression
from detectors.label_memory import TrainingRows
from detectors.label_trained import LabelTrained
from detectors.packed_trees import FittedTrees, grown

__all__ = ["RandomForest"]


class RandomForest(LabelTrained):
    """A forest over the columns ``features``; the score is the probability of a positive label.

    trees, leaves, min_leaf  as scikit-learn's n_estimators, max_leaf_nodes, min_samples_leaf
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
        trees: int = 100,
        leaves: int = 256,
        min_leaf: int = 5,
        max_features: float = 0.4,
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
        self._settings = {
            "n_estimators": trees,
            "max_leaf_nodes": leaves,
            "min_samples_leaf": min_leaf,
            "max_features": max_features,
        }

    def _fit(self, rows: TrainingRows) -> FittedTrees:
        # imported where it is needed: loading scikit-learn takes seconds, and only fitting needs it
        from sklearn.ensemble import RandomForestClassifier

        model = RandomForestClassifier(**self._settings, random_state=self._seed, n_jobs=1)
        model.fit(rows.x, rows.y, sample_weight=rows.weight)
        return grown(model)
