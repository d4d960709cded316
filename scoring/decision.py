"""From score to decision by alert budgets.

The score is the share of recent traffic that looked less suspicious, so a budget of 0.005 is the condition
``score >= 0.995``: no threshold to tune, and it follows the traffic.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from domain.batch import Floats
from domain.pipeline import Decision

__all__ = ["decide"]


def decide(score: Floats, decision: Decision) -> npt.NDArray[np.int8]:
    """Decision code of each score (index into domain.verdict.DECISIONS); an abstained score (NaN) is allowed.

    >>> from domain.pipeline import Threshold
    >>> decide(np.array([0.5, 0.996, 0.9999, np.nan]), Decision(review=Threshold(budget=0.005),
    ...        block=Threshold(budget=0.001))).tolist()
    [0, 1, 2, 0]
    """
    codes = np.zeros(len(score), dtype=np.int8)
    for code, threshold in ((1, decision.review), (2, decision.block)):
        if threshold is not None:
            # a comparison with NaN is false: no score, no alert
            codes[score >= 1.0 - threshold.budget] = code
    return codes
