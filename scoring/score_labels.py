"""What labels have said about scores: a histogram that forgets, of fixed size."""

from __future__ import annotations

import numpy as np

from detectors.arrays import Arrays
from domain.batch import Floats, Ints

__all__ = ["EDGES", "ScoreLabels"]

_REACH, _WIDTH = 12.0, 0.05
EDGES: Floats = 1.0 / (1.0 + np.exp(-np.arange(-int(_REACH / _WIDTH), int(_REACH / _WIDTH) + 1) * _WIDTH))
"""Lower edges of the bins, evenly spaced in the log odds of the score: ranks near 1 and probabilities near 0 are
told apart to 5 % of their distance from the end. Scores below the first edge belong to the first bin."""
DAY = 86_400_000_000
HALF_LIFE = 60
"""Days after which a label weighs half: two months of labels, and old fraud fades."""
_SPAN = 32 * HALF_LIFE


class ScoreLabels:
    """Weighted counts of labelled events by score: ``counts[0]`` not fraud, ``counts[1]`` fraud, ``amounts`` of fraud.

    A label weighs ``2 ** (-age / 60 days)``, its age in whole days at the newest label seen (forward decay: Cormode,
    Shkapenyuk, Srivastava, Xu, ICDE 2009). A pure function of the labels so far, in order; batches change no bit.
    """

    def __init__(self) -> None:
        self._counts = np.zeros((2, len(EDGES)))
        self._amounts = np.zeros(1)
        self._base = 0
        self._newest = 0

    def learn(
        self, score: Floats, y: Floats, amount: Floats, known_at: Ints, previous: Floats | None = None
    ) -> None:
        """Take in labels: the ``score`` as it was given, ``y`` 1 or 0, what was at stake, since when it is known.

        float64[n] each (``known_at`` int64[n], UTC microseconds). NaN in ``y`` is "unknown again", NaN in ``score``
        an event without one (skipped), NaN in ``amount`` a stake that is not known. ``previous`` (NaN: nothing) is
        what was learned of the event before; it is taken out with the weight of a label of today.
        """
        days = known_at // DAY
        usable = np.isfinite(score)
        at = 0
        while at < len(score):
            if self._newest == 0 and at < len(score):
                self._base = int(days[at])
            beyond = np.flatnonzero(days[at:] > self._base + _SPAN)
            stop = at + int(beyond[0]) if len(beyond) else len(score)
            rows = np.arange(at, stop)[usable[at:stop]]
            self._add(
                score[rows], y[rows], amount[rows], days[rows], None if previous is None else previous[rows]
            )
            if stop > at:
                self._newest = max(self._newest, int(days[at:stop].max()))
            if stop < len(score):
                self._move_base(int(days[stop]))
            at = stop

    def _add(self, score: Floats, y: Floats, amount: Floats, days: Ints, previous: Floats | None) -> None:
        if not len(score):
            return
        unique, where = np.unique(days, return_inverse=True)
        weight = np.array([2.0 ** ((int(day) - self._base) / HALF_LIFE) for day in unique])[where]
        place = np.clip(np.searchsorted(EDGES, score, side="right") - 1, 0, None)
        # one after the other, in order: sums of batches would round differently
        changes = [(y, weight)] if previous is None else [(previous, -weight), (y, weight)]
        signed = np.concatenate([np.stack([label, by]) for label, by in changes], axis=1)
        order = np.arange(signed.shape[1]).reshape(len(changes), -1).T.ravel()
        places, stakes = np.tile(place, len(changes))[order], np.tile(amount, len(changes))[order]
        labels, weights = signed[0][order], signed[1][order]
        known = np.isfinite(labels)
        np.add.at(self._counts, ((labels[known] > 0.5).astype(np.int64), places[known]), weights[known])
        stake = known & (labels > 0.5) & np.isfinite(stakes)
        np.add.at(self._amounts, np.zeros(int(stake.sum()), dtype=np.int64), weights[stake] * stakes[stake])

    def _move_base(self, day: int) -> None:
        """Later base in whole half-lives: division by powers of two rounds nothing."""
        halvings = (day - self._base) // HALF_LIFE
        self._counts = np.ldexp(self._counts, -halvings)
        self._amounts = np.ldexp(self._amounts, -halvings)
        self._base += halvings * HALF_LIFE

    def counts(self) -> Floats:
        """float64[2, bins]: labels not fraud and fraud by score, as of the newest label; never negative."""
        found: Floats = np.maximum(self._counts, 0.0) * self._fade
        return found

    def mean_amount(self) -> float:
        """Mean amount of the frauds learned; NaN without any."""
        frauds = float(np.maximum(self._counts[1], 0.0).sum())
        return float(self._amounts[0]) / frauds if frauds > 0.0 else float("nan")

    @property
    def _fade(self) -> float:
        return float(2.0 ** ((self._base - self._newest) / HALF_LIFE))

    def snapshot(self) -> Arrays:
        """All state."""
        return Arrays(
            {"counts": self._counts.copy(), "amounts": self._amounts.copy()},
            {"base": self._base, "newest": self._newest},
        )

    def restore(self, state: Arrays) -> None:
        """Take over a snapshot. Raises ValueError when it has another shape."""
        counts, amounts = state.arrays.get("counts"), state.arrays.get("amounts")
        base, newest = state.scalars.get("base"), state.scalars.get("newest")
        if counts is None or counts.shape != self._counts.shape or amounts is None or amounts.shape != (1,):
            raise ValueError(f"label snapshot needs 'counts' of shape {self._counts.shape} and 'amounts'")
        if not isinstance(base, int) or not isinstance(newest, int):
            raise ValueError("label snapshot needs 'base' and 'newest'")
        self._counts, self._amounts = counts.astype(np.float64), amounts.astype(np.float64)
        self._base, self._newest = base, newest
