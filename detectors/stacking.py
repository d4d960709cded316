"""Learning to combine: how much each detector's say is worth, from labels of events that it had scored unseen.

Each member's rank becomes its tail ``-log(1 - rank)``: on ordinary traffic every member's tail is spread alike
(exponential, mean 1), and the step from the top 1 % to the top 0.1 % counts as much as that from the top 10 % to
the top 1 %. The combination is a mean of tails with weights that are not negative and sum to 1.

Weights are fitted once a day of event time, by logistic regression of matured labels on the tails as they were when
the event was scored (stacking: Wolpert, Neural Networks 5, 1992; prequential, so no member has seen the label). The
fit competes with every single member and with the weights of a beginner, and what has the highest average precision
on the remembered labels is used: combining may not be worse than the best member.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from detectors.arrays import Arrays, child, merge
from detectors.label_memory import LabelMemory
from domain.batch import Floats
from domain.examples import Examples

__all__ = ["FAR", "MIN_POSITIVES", "Stacker", "average_precision", "fitted_weights", "tails", "weighted_tail"]

MIN_POSITIVES = 30
"""Positive labels needed before weights are learned: the average precision of fewer says little."""
FAR = 0.1
"""Total variation from which weights are others: a combination differs from what the old weights made of the same row
by at most this share of what its members are apart. Daily fits on nearly the same labels move by less."""
DAY = 86_400_000_000
_CAPACITY = 20_000
_POSITIVES = 4_000
_RIDGE = 1.0
_STEPS = 100


def tails(ranks: Floats) -> Floats:
    """``-log(1 - rank)`` of each rank (0 to below 1; NaN stays NaN).

    >>> tails(np.array([0.0, 0.9])).round(3).tolist()
    [-0.0, 2.303]
    """
    result: Floats = -np.log1p(-ranks)
    return result


class Stacker:
    """Weights of ``len(labelled)`` members, of which those marked learn from labels themselves.

    Until weights are learned, members that learned from labels count alike and the others not at all; while none of
    the former is ready, the others count alike.
    """

    def __init__(self, labelled: Sequence[bool], seed: int) -> None:
        self._labelled = np.array(labelled, dtype=np.bool_)
        self._memory = LabelMemory(_CAPACITY, len(labelled), seed, _POSITIVES)
        self._fitted_at = -1
        self.weights: Floats = self._labelled.astype(np.float64)
        self._settled = self.weights

    @property
    def version(self) -> str:
        """Hash of the weights."""
        return f"stacked-{hashlib.sha256(self.weights.tobytes()).hexdigest()[:8]}"

    def combine(self, ranks: Floats) -> Floats:
        """Weighted mean tail of each row of ``ranks`` (float64[n, members], NaN = no say); NaN without any say."""
        return weighted_tail(ranks, self.weights)

    def learn(self, examples: Examples, now: int) -> bool:
        """Remember what members had said of labelled events; fit when due.

        True when weights have moved far since that was last said (at first: from those of a beginner), at once or
        little by little. What the combination was before is then no measure of what it is now.
        """
        said = examples.take(np.flatnonzero(~np.isnan(examples.ranks).all(axis=1)))
        if len(said):
            self._memory.add(tails(said.ranks), said.y)
        if self._memory.positives < MIN_POSITIVES or not self._memory.negatives:
            return False
        if self._fitted_at >= 0 and now < self._fitted_at + DAY:
            return False
        self.weights = self._fit()
        self._fitted_at = now
        if _variation(self.weights, self._settled) <= FAR:
            return False
        self._settled = self.weights
        return True

    def _fit(self) -> Floats:
        kept = self._memory.rows()
        return fitted_weights(kept.x.astype(np.float64), kept.y, kept.weight, self._labelled)

    def snapshot(self) -> Arrays:
        """All state."""
        own = Arrays(
            {"weights": self.weights.copy(), "settled": self._settled.copy()}, {"fitted_at": self._fitted_at}
        )
        return merge({"memory": self._memory.snapshot()}, own)

    def restore(self, state: Arrays) -> None:
        """Take over a snapshot. Raises ValueError when it does not fit."""
        weights, fitted_at = state.arrays.get("weights"), state.scalars.get("fitted_at")
        if weights is None or weights.shape != self._labelled.shape or not isinstance(fitted_at, int):
            raise ValueError("snapshot of weights lacks 'weights' or 'fitted_at'")
        settled = state.arrays.get("settled")
        if settled is None or settled.shape != weights.shape:
            raise ValueError("snapshot of weights lacks 'settled'")
        self._memory.restore(child(state, "memory"))
        self.weights, self._settled, self._fitted_at = weights.copy(), settled.copy(), fitted_at


def _variation(left: Floats, right: Floats) -> float:
    """Total variation of two sets of weights as shares; of all-zero weights all members count alike."""
    shares = [w / w.sum() if w.sum() > 0.0 else np.full(len(w), 1.0 / len(w)) for w in (left, right)]
    return 0.5 * float(np.abs(shares[0] - shares[1]).sum())


def weighted_tail(ranks: Floats, weights: Floats) -> Floats:
    """Weighted mean tail of each row of ``ranks`` (float64[n, members], NaN = no say); NaN without any say."""
    present = ~np.isnan(ranks)
    z = np.where(present, tails(ranks), 0.0)
    weight = present * weights
    # where nobody with a weight speaks, those who speak count alike
    weight[weight.sum(axis=1) == 0.0] = 1.0
    weight *= present
    # element by element: a matrix product could round differently for other batches
    total, norm = np.zeros(len(ranks)), np.zeros(len(ranks))
    for column in range(ranks.shape[1]):
        total += weight[:, column] * z[:, column]
        norm += weight[:, column]
    combined: Floats = np.divide(total, norm, out=np.full(len(ranks), np.nan), where=norm > 0.0)
    return combined


def fitted_weights(z: Floats, y: Floats, weight: Floats, labelled: npt.NDArray[np.bool_]) -> Floats:
    """Weights (float64[members], sum 1) of the tails ``z`` (float64[n, members], NaN = no say) for labels ``y``.

    ``weight`` float64[n] is what each row stands for, ``labelled`` which members learn from labels themselves.
    """
    # a member that had no say then is taken to have said what is usual
    z = np.where(np.isnan(z), 1.0, z)
    candidates = [_logistic(z, y, weight), labelled.astype(np.float64), np.ones(len(labelled))]
    candidates += list(np.eye(len(labelled)))
    best, best_precision = candidates[0], -1.0
    for weights in candidates:
        if weights.sum() == 0.0:
            continue
        precision = average_precision(z @ weights, y, weight)
        if precision > best_precision:
            best, best_precision = weights, precision
    normal: Floats = best / best.sum()
    return normal


def _logistic(z: Floats, y: Floats, weight: Floats) -> Floats:
    """Weights that are not negative, of a logistic regression with an intercept: projected Newton steps."""
    x = np.column_stack([z, np.ones(len(z))])
    share = float(weight @ y) / float(weight.sum())
    beta = np.zeros(x.shape[1])
    beta[-1] = np.log(share / (1.0 - share))
    ridge = np.full(x.shape[1], _RIDGE)
    ridge[-1] = 0.0
    for _ in range(_STEPS):
        p = 1.0 / (1.0 + np.exp(-np.clip(x @ beta, -30.0, 30.0)))
        gradient = x.T @ (weight * (p - y)) + ridge * beta
        held = (beta <= 0.0) & (gradient > 0.0)
        held[-1] = False
        free = np.flatnonzero(~held)
        hessian = (x[:, free] * (weight * p * (1.0 - p))[:, None]).T @ x[:, free] + np.diag(
            ridge[free] + 1e-9
        )
        step = np.linalg.solve(hessian, gradient[free])
        after = beta.copy()
        after[free] -= step
        after[:-1] = np.maximum(after[:-1], 0.0)
        moved = float(np.abs(after - beta).max())
        beta = after
        if moved < 1e-8:
            break
    result: Floats = beta[:-1]
    return result


def average_precision(value: Floats, y: Floats, weight: Floats) -> float:
    """Average precision of ``value`` with weighted rows; ties share their place."""
    order = np.argsort(-value, kind="stable")
    value, hit, weight = value[order], (y * weight)[order], weight[order]
    last: npt.NDArray[np.intp] = np.flatnonzero(np.append(value[1:] != value[:-1], True))
    found, seen = np.cumsum(hit)[last], np.cumsum(weight)[last]
    gained = np.diff(found, prepend=0.0)
    return float((gained * found / seen).sum() / found[-1]) if found[-1] > 0.0 else 0.0
