"""Alert budgets: which scores are among the most suspicious ``budget`` of the traffic, also while scores drift.

A score is the share of the last 20,000 rows that looked less suspicious, so on stationary traffic ``score >= 1 - b``
holds for a share ``b`` of the rows. It does not while scores drift (more of them pass), nor where many are equal (none
of them passes). So the limit answers to the account: each scored row earns ``b`` alerts, each alert costs one, and
every :data:`DOUBLING` alerts on the account double the share that may pass, every :data:`DOUBLING` alerts of debt
halve it. This is integral feedback, so a constant drift costs a constant offset once, and nothing a day after that.

What follows from the bounds of the account, whatever the traffic: ``n`` scored rows in a row raise at most
``b * n + 2 * BOUND`` alerts. Equal scores at the limit: the first pass, until the account forbids it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from detectors.arrays import Arrays
from detectors.kernels_budget import spend
from domain.batch import Floats

__all__ = ["BOUND", "DOUBLING", "MOST", "AlertBudgets"]

DOUBLING = 3.0
"""Alerts that double or halve the share. The count over many rows then deviates from the budget by about
sqrt(DOUBLING / ln 2) = 2.1 alerts (the count of a fixed limit by the square root of the expected count)."""
BOUND = 8 * DOUBLING
"""Alerts that can be owed or saved: 24. In debt up to it nothing passes; more is neither remembered nor saved."""
MOST = 0.25
"""Nothing less suspicious than a quarter of recent traffic is an alert, however much is saved. A budget above half
of this may grow to twice itself."""

Codes = npt.NDArray[np.int8]


class AlertBudgets:
    """The accounts of a pipeline's budgets; a pure function of the scores so far, in order.

    ``budgets``: (code, share), the widest first. A row's code is the last one whose account lets it pass; what
    passes a later budget is an alert of the earlier ones too, and paid from each.

    >>> account = AlertBudgets([(1, 0.1)])
    >>> account.step(np.array([0.5, 0.95, np.nan])).tolist()
    [0, 1, 0]
    """

    def __init__(self, budgets: Sequence[tuple[int, float]]) -> None:
        for _, share in budgets:
            if not 0.0 < share < 1.0:
                raise ValueError(f"a budget is a share between 0 and 1, not {share}")
        self._budgets = tuple(budgets)
        self._balances = np.zeros(len(self._budgets))

    def step(self, scores: Floats) -> Codes:
        """Codes (int8[n], 0: none) of ``scores`` (float64[n], NaN: none), each under what those before it spent."""
        return self._judge(scores, learn=True)

    def preview(self, scores: Floats) -> Codes:
        """The code that each score would get if it came next. Pure."""
        return self._judge(scores, learn=False)

    def _judge(self, scores: Floats, *, learn: bool) -> Codes:
        codes = np.zeros(scores.shape[0], dtype=np.int8)
        values = np.ascontiguousarray(scores)
        for i, (code, share) in reversed(list(enumerate(self._budgets))):
            most = max(MOST, min(2.0 * share, 1.0))
            balance = spend(
                values, share, most, DOUBLING, BOUND, float(self._balances[i]), learn, code, codes
            )
            if learn:
                self._balances[i] = balance
        return codes

    def snapshot(self) -> Arrays:
        """The balance of each account."""
        return Arrays({"balances": self._balances.copy()}, {})

    def restore(self, state: Arrays) -> None:
        """Take over a snapshot. Raises ValueError when it is of other budgets."""
        balances = state.arrays.get("balances")
        if balances is None or balances.shape != self._balances.shape or balances.dtype != np.float64:
            raise ValueError(f"budget snapshot needs 'balances' of shape {self._balances.shape}")
        if not (np.abs(balances) <= BOUND).all():
            raise ValueError(f"budget snapshot holds balances beyond {BOUND}")
        self._balances = balances.copy()
