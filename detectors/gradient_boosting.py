"""Gradient boosting on labels: trees that each correct what those before them got wrong.

Friedman, "Greedy function approximation: a gradient boosting machine", Annals of Statistics 29 (2001), on
binned features as in Ke et al., "LightGBM", NeurIPS 2017. scikit-learn's HistGradientBoostingClassifier fits
it; a compiled kernel scores it with the same bits as ``decision_function``.
"""

from __future__ import annotations

from collections.abc import Sequence

from detectors.compressed_trees import Compression
from detectors.label_memory import TrainingRows
from detectors.label_trained import LabelTrained
from detectors.packed_trees import FittedTrees, boosted

__all__ = ["GradientBoosting"]


class GradientBoosting(LabelTrained):
    """Boosted trees over the columns ``features``; the score is the log-odds of a positive label.

    trees, learning_rate, leaves, depth, min_leaf, l2, max_features  as scikit-learn's max_iter, learning_rate,
        max_leaf_nodes, max_depth, min_samples_leaf, l2_regularization, max_features
    Others: see :class:`detectors.label_trained.LabelTrained`. A missing value goes, at each cut, to the side
    that fits it better; where none was missing at the fit, to the side of more rows.
    """

    kind = "gradient_boosting"

    def __init__(
        self,
        features: Sequence[str],
        *,
        seed: int,
        trees: int = 100,
        learning_rate: float = 0.05,
        leaves: int = 8,
        depth: int = 8,
        min_leaf: int = 40,
        l2: float = 10.0,
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
        self._settings = {
            "max_iter": trees,
            "learning_rate": learning_rate,
            "max_leaf_nodes": leaves,
            "max_depth": depth,
            "min_samples_leaf": min_leaf,
            "l2_regularization": l2,
            "max_features": max_features,
        }

    def _fit(self, rows: TrainingRows) -> FittedTrees:
        # imported where they are needed: loading scikit-learn takes seconds, and only fitting needs it
        from sklearn.ensemble import HistGradientBoostingClassifier
        from threadpoolctl import threadpool_limits

        model = HistGradientBoostingClassifier(
            **self._settings, early_stopping=False, random_state=self._seed
        )
        # sums over several threads depend on how many there are
        with threadpool_limits(limits=1):
            model.fit(rows.x, rows.y, sample_weight=rows.weight)
        return boosted(model)
