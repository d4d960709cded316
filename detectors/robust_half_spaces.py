"""Half-space trees that neither a burst of attacks nor a far outlier can blind.

Tan, Ting, Liu, "Fast anomaly detection for streaming data", IJCAI 2011, scores a row by the mass of the node it falls
into, times two to the power of the node's depth. So do these trees, in logarithms and averaged over trees. What
differs is where masses and cuts come from; docs/detectors.md says why the original loses attacks in real
streams. Masses: a uniform sample of all past rows that are off probation, instead of the last 250 rows. Cuts: within
the range of the sampled rows in the node, widened, instead of blind halves of the range of everything ever
seen; each tree sees other rows and another random half or more of the features.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from detectors.forest import PackedForest, medians_of, prepared
from detectors.kernels_halves import plant_trees
from detectors.refitted import RefittedForest
from domain.batch import Floats

__all__ = ["RobustHalfSpaceTrees"]

_SAMPLES = 256
"""Rows that set the ranges of one tree: a rare outlier stretches few trees."""
_LIMITS = (0.0125, 0.2)
"""A node with less than a share of all rows is not cut, so that a cluster of attacks is seen as one, and as small. The
paper takes 0.1 of a window; here each tree draws its own around 0.05, because nobody knows a cluster's size."""
_REACH = 0.5
"""Share by which the range of a node is widened at either end, as the paper's work range is: a cut outside the sampled
rows makes an empty half, which only what was never seen falls into."""


class RobustHalfSpaceTrees(RefittedForest):
    """Half-space trees over the columns ``features``; NaN counts as the feature's median in the sample.

    trees, height  number of trees, levels of cuts
    window         rows of the first window; until then it abstains
    refit_every    most rows between two plantings; early ones come closer (detectors/schedule.py)
    reservoir      rows of the uniform sample from which cuts and masses are taken
    """

    def __init__(
        self,
        features: Sequence[str],
        *,
        seed: int,
        trees: int = 100,
        height: int = 6,
        window: int = 32,
        refit_every: int = 5_000,
        reservoir: int = 4096,
    ) -> None:
        super().__init__(
            "half_space_trees",
            features,
            seed=seed,
            warm_up=window,
            refit_every=refit_every,
            reservoir=reservoir,
        )
        self._trees = trees
        self._height = height

    def _fitted(self, rows: Floats, seed: int) -> tuple[PackedForest, Floats]:
        medians = medians_of(rows)
        inner = 2**self._height - 1
        feature = np.zeros((self._trees, inner), dtype=np.int32)
        threshold = np.full((self._trees, inner), np.inf, dtype=np.float32)
        leaf = np.zeros((self._trees, inner + 1))
        without = np.zeros_like(leaf)
        x = prepared(rows, medians)
        plant_trees(x, _SAMPLES, *_LIMITS, _REACH, np.uint64(seed), feature, threshold, leaf, without)
        # The score is two to the power of minus the mean over the height: higher is more suspicious.
        most = float(self._trees * self._height)
        usual = PackedForest(feature, threshold, without, medians, most).score(rows)
        return PackedForest(feature, threshold, leaf, medians, most), usual
