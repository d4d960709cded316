"""Compiled loop of the alert budget: a limit that answers to what has been spent."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from domain.batch import Floats
from domain.compiled import compiled

__all__ = ["spend"]


@compiled
def _share(budget: float, most: float, balance: float, doubling: float) -> float:
    """``budget`` doubled once for each ``doubling`` of balance (halved when it is negative), at most ``most``.

    Between whole doublings it is a straight line, so that only exact or correctly rounded operations occur.
    """
    steps = balance / doubling
    whole = np.floor(steps)
    share: float = budget * (1.0 + (steps - whole))
    while whole >= 1.0:
        share *= 2.0
        whole -= 1.0
    while whole <= -1.0:
        share *= 0.5
        whole += 1.0
    return share if share < most else most


@compiled
def spend(
    scores: Floats,
    budget: float,
    most: float,
    doubling: float,
    bound: float,
    balance: float,
    learn: bool,
    code: int,
    out: npt.NDArray[np.int8],
) -> float:
    """Write ``code`` to out[i] where scores[i] is among the alerts; returns the new balance.

    Where out[i] is not 0 yet, a stricter budget has let the row pass: it costs, and keeps its code.

    ``balance`` is what the rows so far might have spent and have not, in alerts, kept within ±``bound``. Rows
    without a score (NaN) neither earn nor spend. Without ``learn`` each row is judged under the same balance.
    """
    for i in range(scores.shape[0]):
        score = scores[i]
        if np.isnan(score):
            continue
        alert = out[i] != 0
        affordable = balance + budget - 1.0 >= -bound
        if not alert and affordable and score >= 1.0 - _share(budget, most, balance, doubling):
            alert = True
            out[i] = code
        if learn:
            balance += budget
            if alert:
                balance -= 1.0
            balance = min(max(balance, -bound), bound)
    return balance
