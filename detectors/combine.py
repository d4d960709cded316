"""Several detectors' ranks as one number, in which one bad detector cannot drown the others.

Each rank r becomes ``-log(1 - r)``: on stationary traffic that is exponentially distributed with mean 1
whatever the detector, as in Fisher's method for combining tests (Statistical Methods for Research Workers,
1925, section 21.1). A mean of ranks cannot tell a row that is the most suspicious of 20,000 for one detector
from one of the top 100, since both are almost 1; here they differ by five. A detector that says the same of
everything adds about nothing, one that guesses or is inverted adds noise that exceeds x once in exp(x) rows.
"""

from __future__ import annotations

import numpy as np

from detectors.arrays import Arrays
from detectors.protocol import Detector
from detectors.ranks import RankTable
from detectors.refitted import RefittedForest
from domain.batch import Floats
from domain.compiled import compiled

__all__ = ["PRIOR", "OwnRanks", "evidence", "ranks_of"]

PRIOR = 10_000
"""Scores that the expected distribution of :func:`evidence` weighs as much as, until there is a window of them."""


@compiled
def _mean_surprise(ranks: Floats, out: Floats) -> None:
    for i in range(ranks.shape[0]):
        total = 0.0
        count = 0
        for j in range(ranks.shape[1]):
            if not np.isnan(ranks[i, j]):
                total -= np.log1p(-ranks[i, j])
                count += 1
        out[i] = total / count if count else np.nan


def evidence(ranks: Floats) -> Floats:
    """Mean of ``-log(1 - rank)`` over the detectors that have a rank: float64[n], 0 or more, or NaN.

    ``ranks`` is float64[n, detectors], each in [0, 1) or NaN (abstained).

    >>> evidence(np.array([[0.0, 0.5], [np.nan, 0.5], [np.nan, np.nan]])).round(3).tolist()
    [0.347, 0.693, nan]
    """
    out = np.empty(ranks.shape[0])
    _mean_surprise(ranks, out)
    return out


class OwnRanks:
    """Ranks of a detector that knows what its present model says of the rows it was fitted from.

    Such ranks mean the same before and after a fit, where a window of past scores would mix those of many
    models. To the ensemble it looks like a :class:`detectors.ranks.RankTable` that is always ready.
    """

    ready = True
    missing = 0
    abstains_because: str | None = None

    def __init__(self, detector: RefittedForest) -> None:
        self._detector = detector

    def rank(self, scores: Floats) -> Floats:
        """Ranks of scores of the present model."""
        return self._detector.rank(scores)

    def step(self, scores: Floats) -> Floats:
        """Ranks of the rows that the detector has just stepped, whose scores these are; NaN where it failed."""
        ranks = self._detector.stepped_ranks()
        if ranks.shape != scores.shape:
            return self._detector.rank(scores)
        return np.where(np.isfinite(scores), ranks, np.nan)

    def snapshot(self) -> Arrays:
        """Nothing: the detector holds it all."""
        return Arrays()

    def restore(self, state: Arrays) -> None:
        """Nothing to take over."""


def ranks_of(detector: Detector) -> RankTable | OwnRanks:
    """How the scores of ``detector`` become ranks."""
    return OwnRanks(detector) if isinstance(detector, RefittedForest) else RankTable()
