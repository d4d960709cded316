"""Several detectors' ranks as one number, in which one bad detector cannot drown the others.

A rank r leaves a tail share p = 1 - r. Averaging p or r cannot tell a row that is the most suspicious of thousands for
one detector from one of the top hundred; averaging log p (Fisher) lets two mildly unusual ranks outweigh it. The
generalised mean of p with the exponent -1/4 lies between the two and the harmonic mean (Vovk, Wang, "Combining p-values
via averaging", Biometrika 2020), whatever the dependence of the detectors. A detector that says the same of everything,
or the opposite of the truth, only shifts it; one that guesses reaches x once in about exp(x) rows.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from detectors.arrays import Arrays
from detectors.protocol import Detector
from detectors.ranks import RankTable
from detectors.refitted import RefittedForest
from domain.batch import Floats
from domain.compiled import compiled

__all__ = ["OwnRanks", "evidence", "ranks_of", "score_table"]

_WINDOW = 50_000
"""Pieces of evidence among which a row is ranked at the end. Traffic differs from hour to hour, and a shorter
window calls the most unusual rows of a quiet hour as suspicious as those of an attack."""
_PRIOR = 10_000
"""As how many of them the expected distribution counts at first: with a few hundred rows seen, knowing that ordinary
evidence is about exponential says more than they do."""


@compiled
def _surprise(ranks: Floats, out: Floats) -> None:
    for i in range(ranks.shape[0]):
        total = 0.0
        count = 0
        for j in range(ranks.shape[1]):
            if not np.isnan(ranks[i, j]):
                total += np.sqrt(np.sqrt(1.0 / (1.0 - ranks[i, j])))
                count += 1
        out[i] = 4.0 * np.log(total / count) if count else np.nan


def evidence(ranks: Floats) -> Floats:
    """Minus the logarithm of the mean tail share of the detectors that have a rank: float64[n], 0 or more, or NaN.

    ``ranks`` is float64[n, detectors], each in [0, 1) or NaN (abstained). On ordinary traffic the result is at least
    about exponential with mean 1: detectors that agree make it exactly so.

    >>> evidence(np.array([[0.5, 0.5], [np.nan, 0.5], [0.0, 0.9999], [np.nan, np.nan]])).round(3).tolist()
    [0.693, 0.693, 6.819, nan]
    """
    out = np.empty(ranks.shape[0])
    _surprise(ranks, out)
    return out


def score_table() -> RankTable:
    """Where :func:`evidence` becomes the score; it is ready from the first row on."""
    return RankTable(_WINDOW, minimum=0, prior=_PRIOR)


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

    def step(self, scores: Floats, count: npt.NDArray[np.bool_] | None = None) -> Floats:
        """Ranks of the rows that the detector has just stepped, whose scores these are; NaN where it failed.

        Which of them ``count`` was the detector's to know.
        """
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
