"""Several detectors' ranks as one number, in which one bad detector cannot drown the others.

Each rank r becomes ``-log(1 - r)``: on stationary traffic that is exponentially distributed with mean 1
whatever the detector, as in Fisher's method for combining tests (Statistical Methods for Research Workers,
1925, section 21.1). A mean of ranks cannot tell a row that is the most suspicious of 20,000 for one detector
from one of the top 100, since both are almost 1; here they differ by five. A detector that says the same of
everything adds about nothing, one that guesses or is inverted adds noise that exceeds x once in exp(x) rows.
"""

from __future__ import annotations

import numpy as np

from domain.batch import Floats
from domain.compiled import compiled

__all__ = ["evidence"]


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
