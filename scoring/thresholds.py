"""Thresholds that learn from labels or count a day's alerts; alert budgets are in :mod:`detectors.budget`.

Each is told the labels that became known (:meth:`Learned.learn`, with the scores that were given at the time) and says
of each row in order whether it reaches the decision (:meth:`Learned.step`). All are pure functions of what they were
told in order, of fixed size, and continue from a snapshot with equal bits. Without enough labels they abstain: nothing
reaches the decision, and ``abstains_because`` says why.
"""

from __future__ import annotations

import math
from typing import Protocol

import numpy as np
import numpy.typing as npt

from detectors.arrays import Arrays, child, merge
from detectors.isotonic import isotonic
from domain.batch import Floats, Ints
from domain.pipeline import Cost, Threshold
from scoring.capacity import DailyCapacity
from scoring.score_labels import EDGES, ScoreLabels

__all__ = ["CapacityThreshold", "CostThreshold", "Learned", "PrecisionThreshold", "learned_threshold"]

Bools = npt.NDArray[np.bool_]
_Z = 1.6448536269514722
"""One-sided 95 %."""
_STEP = 1.125
_MIN_FRAUDS, _MIN_LABELS = 20.0, 200.0
"""Weighted labels before probabilities are believed."""


class Learned(Protocol):
    """What the engine needs of a threshold."""

    @property
    def abstains_because(self) -> str | None:
        """Why nothing reaches the decision yet; None when it works."""
        ...

    def learn(
        self, score: Floats, y: Floats, amount: Floats, known_at: Ints, previous: Floats | None = None
    ) -> None:
        """Labels that became known; see :meth:`scoring.score_labels.ScoreLabels.learn`."""
        ...

    def threshold(self) -> float | None:
        """The score from which on rows reach the decision (at the mean amount); None while abstaining."""
        ...

    def step(self, score: Floats, amount: Floats, times: Ints) -> Bools:
        """Which rows reach the decision (bool[n]); ``score`` NaN: never."""
        ...

    def snapshot(self) -> Arrays:
        """All state as arrays and JSON scalars."""
        ...

    def restore(self, state: Arrays) -> None:
        """Take over a snapshot. Raises ValueError when it does not fit."""
        ...


def learned_threshold(declared: Threshold, *, partitions: int = 1) -> Learned:
    """The threshold that a pipeline declares, for one of ``partitions`` that share a capacity evenly.

    Raises ValueError for an alert budget, which the ensemble holds.
    """
    if declared.precision is not None:
        return PrecisionThreshold(declared.precision)
    if declared.cost is not None:
        return CostThreshold(declared.cost, partitions=partitions)
    if declared.per_day is not None:
        return CapacityThreshold(declared.per_day / partitions)
    raise ValueError("an alert budget does not learn: detectors.budget holds it")


class PrecisionThreshold:
    """The lowest score from which on at least ``target`` of the alerts are right, by the lower end of an interval.

    Candidates are scores above which so many labelled events lie that the target can be shown at all, and an
    eighth more again and again; of each the Wilson lower bound (one-sided 95 %) of the share of frauds must reach the
    target. Walking down it stops at the fourth failure after a success, so that noise far below is never believed.
    Labels must come from all events, or from all above some score, not from alerts that somebody picked.
    """

    def __init__(self, target: float) -> None:
        if not 0.0 < target < 1.0:
            raise ValueError(f"a precision is between 0 and 1, not {target}")
        self._target = target
        self._labels = ScoreLabels()
        self._found: float | None = None

    @property
    def needed(self) -> float:
        """Labelled events above a score from which the target can be shown, were all of them fraud."""
        return _Z * _Z * self._target / (1.0 - self._target)

    @property
    def abstains_because(self) -> str | None:
        """Why nothing reaches the decision yet."""
        if self._found is not None:
            return None
        return f"labels do not show a precision of {self._target:g} above any score yet"

    def learn(
        self, score: Floats, y: Floats, amount: Floats, known_at: Ints, previous: Floats | None = None
    ) -> None:
        """Labels that became known."""
        self._labels.learn(score, y, amount, known_at, previous)
        self._found = self._search()

    def threshold(self) -> float | None:
        """The score from which on rows reach the decision; None while abstaining."""
        return self._found

    def step(self, score: Floats, amount: Floats, times: Ints) -> Bools:
        """Which rows reach the decision."""
        if self._found is None:
            return np.zeros(len(score), dtype=np.bool_)
        reached: Bools = score >= self._found
        return reached

    def _search(self) -> float | None:
        counts = self._labels.counts()
        fraud = np.cumsum(counts[1][::-1])[::-1]
        total = fraud + np.cumsum(counts[0][::-1])[::-1]
        best: float | None = None
        wanted, failures = self.needed, 0
        while wanted <= total[0] and failures < 4:
            # total falls with the score: the highest edge above which there is enough
            place = int(np.searchsorted(-total, -wanted, side="right")) - 1
            if lower_bound(float(fraud[place]), float(total[place])) >= self._target:
                best, failures = float(EDGES[place]) if place else 0.0, 0
            elif best is not None or wanted > 16.0 * self.needed:
                failures += 1
            wanted *= _STEP
        return best

    def snapshot(self) -> Arrays:
        """All state."""
        return merge({"labels": self._labels.snapshot()})

    def restore(self, state: Arrays) -> None:
        """Take over a snapshot. Raises ValueError when it does not fit."""
        self._labels.restore(child(state, "labels"))
        self._found = self._search()


def lower_bound(hits: float, n: float) -> float:
    """Lower end of Wilson's interval for a share (one-sided 95 %; Wilson, JASA 22, 1927); 0 when n is 0.

    >>> round(lower_bound(30.0, 30.0), 3)
    0.917
    """
    if n <= 0.0:
        return 0.0
    p, z = hits / n, _Z * _Z / n
    return (p + z / 2.0 - _Z * math.sqrt(p * (1.0 - p) / n + z / (4.0 * n))) / (1.0 + z)


class CostThreshold:
    """An alert where it costs less than none: ``p * missed > (1 - p) * false_alarm``, most of that first.

    ``p``, the probability of fraud given the score, is learned from labels: the isotonic (pooled adjacent violators)
    fit of the share of frauds by score. With a capacity, the rows whose alert saves most are taken each day. Where
    ``missed`` is a field that an event lacks, the mean amount of the frauds learned stands in.
    """

    def __init__(self, cost: Cost, *, partitions: int = 1) -> None:
        self._false_alarm = cost.false_alarm
        self._missed = cost.missed if isinstance(cost.missed, float) else None
        self._labels = ScoreLabels()
        self._capacity = None if cost.per_day is None else DailyCapacity(cost.per_day / partitions)
        self._p: Floats | None = None

    @property
    def abstains_because(self) -> str | None:
        """Why nothing reaches the decision yet."""
        if self._p is not None:
            return None
        return f"costs need {_MIN_FRAUDS:g} frauds among {_MIN_LABELS:g} labels"

    def learn(
        self, score: Floats, y: Floats, amount: Floats, known_at: Ints, previous: Floats | None = None
    ) -> None:
        """Labels that became known."""
        self._labels.learn(score, y, amount, known_at, previous)
        self._p = self._fit()

    def probability(self, score: Floats) -> Floats:
        """The probability of fraud at each score (float64[n]); NaN while abstaining or without a score."""
        if self._p is None:
            return np.full(len(score), np.nan)
        place = np.clip(np.searchsorted(EDGES, score, side="right") - 1, 0, None)
        found: Floats = np.where(np.isnan(score), np.nan, self._p[place])
        return found

    def threshold(self) -> float | None:
        """The score from which on an alert pays at the mean amount, capacity aside; None while abstaining or never."""
        if self._p is None:
            return None
        missed = self._labels.mean_amount() if self._missed is None else self._missed
        pays = np.flatnonzero(self._p * missed > (1.0 - self._p) * self._false_alarm)
        if not len(pays):
            return None
        return float(EDGES[pays[0]]) if pays[0] else 0.0

    def step(self, score: Floats, amount: Floats, times: Ints) -> Bools:
        """Which rows reach the decision."""
        p = self.probability(score)
        missed = np.full(len(score), self._missed) if self._missed is not None else np.asarray(amount)
        missed = np.where(np.isnan(missed), self._labels.mean_amount(), missed)
        saved: Floats = p * missed - (1.0 - p) * self._false_alarm
        pays: Bools = saved > 0.0
        return pays if self._capacity is None else self._capacity.step(saved, times, pays)

    def _fit(self) -> Floats | None:
        counts = self._labels.counts()
        if counts[1].sum() < _MIN_FRAUDS or counts.sum() < _MIN_LABELS:
            return None
        return isotonic(counts[1], counts.sum(axis=0))

    def snapshot(self) -> Arrays:
        """All state."""
        children = {"labels": self._labels.snapshot()}
        if self._capacity is not None:
            children["capacity"] = self._capacity.snapshot()
        return merge(children)

    def restore(self, state: Arrays) -> None:
        """Take over a snapshot. Raises ValueError when it does not fit."""
        self._labels.restore(child(state, "labels"))
        if self._capacity is not None:
            self._capacity.restore(child(state, "capacity"))
        self._p = self._fit()


class CapacityThreshold:
    """The ``per_day`` most suspicious rows of each day; needs no labels."""

    def __init__(self, per_day: float) -> None:
        self._capacity = DailyCapacity(per_day)

    @property
    def abstains_because(self) -> str | None:
        """Never: scores that cannot be ranked yet are not taken."""
        return None

    def learn(
        self, score: Floats, y: Floats, amount: Floats, known_at: Ints, previous: Floats | None = None
    ) -> None:
        """Nothing to learn from labels."""

    def threshold(self) -> float | None:
        """None: it moves with the day."""
        return None

    def step(self, score: Floats, amount: Floats, times: Ints) -> Bools:
        """Which rows are taken."""
        return self._capacity.step(score, times)

    def snapshot(self) -> Arrays:
        """All state."""
        return self._capacity.snapshot()

    def restore(self, state: Arrays) -> None:
        """Take over a snapshot. Raises ValueError when it does not fit."""
        self._capacity.restore(state)
