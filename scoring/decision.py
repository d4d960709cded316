"""From what the thresholds say of each row to its decision.

Alert budgets are held by the ensemble (:mod:`detectors.budget`), as they must see every score in order; thresholds
that learn from labels or count a day's alerts are in :mod:`scoring.thresholds`.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

__all__ = ["Codes", "decide"]

Codes = npt.NDArray[np.int8]


def decide(reached: Codes, others: Iterable[tuple[int, npt.NDArray[np.bool_]]] = ()) -> Codes:
    """Decision code of each row (index into domain.verdict.DECISIONS): the gravest that any threshold grants.

    ``reached`` (int8[n]) is what budgets grant, ``others`` the code and rows (bool[n]) of each further threshold.

    >>> decide(np.array([0, 1, 2], dtype=np.int8), [(2, np.array([True, False, False]))]).tolist()
    [2, 1, 2]
    """
    codes = reached.copy()
    for code, rows in others:
        np.maximum(codes, np.where(rows, np.int8(code), np.int8(0)), out=codes)
    return codes
