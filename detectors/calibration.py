"""From score to probability, by isotonic regression of matured labels on the score as it was given.

Isotonic regression (Zadrozny and Elkan, KDD 2002; :mod:`detectors.isotonic`) keeps the order of scores and assumes
nothing else. Labels are weighted to the stream they stand for, see :mod:`detectors.label_memory`.
"""

from __future__ import annotations

import hashlib

import numpy as np

from detectors.arrays import Arrays, child, merge
from detectors.isotonic import isotonic
from detectors.label_memory import LabelMemory
from domain.batch import Floats
from domain.examples import Examples

__all__ = ["MIN_POSITIVES", "Calibrator", "fitted_map"]

MIN_POSITIVES = 50
"""Positive labels needed before a probability is given."""
DAY = 86_400_000_000
_CAPACITY = 20_000
_POSITIVES = 4_000


class Calibrator:
    """A non-decreasing map from scores to probabilities, fitted once a day of event time."""

    def __init__(self, seed: int) -> None:
        self._memory = LabelMemory(_CAPACITY, 1, seed, _POSITIVES)
        self._fitted_at = -1
        self._score = np.empty(0)
        self._probability = np.empty(0)

    @property
    def version(self) -> str:
        """Hash of the map."""
        content = self._score.tobytes() + self._probability.tobytes()
        return f"isotonic-{hashlib.sha256(content).hexdigest()[:8]}" if content else "unfitted"

    def probability(self, score: Floats) -> Floats:
        """Probability of each score; NaN without enough labels, and for a score that is NaN."""
        if not len(self._score):
            return np.full(len(score), np.nan)
        result: Floats = np.interp(score, self._score, self._probability)
        result[np.isnan(score)] = np.nan
        return result

    def learn(self, examples: Examples, now: int) -> None:
        """Remember scores that the ensemble gave to labelled events; fit when due."""
        own = examples.score if examples.own is None else examples.own
        said = np.flatnonzero(~np.isnan(own))
        if len(said):
            self._memory.add(own[said][:, None], examples.y[said])
        if self._memory.positives < MIN_POSITIVES or not self._memory.negatives:
            return
        if self._fitted_at >= 0 and now < self._fitted_at + DAY:
            return
        self._fit()
        self._fitted_at = now

    def _fit(self) -> None:
        kept = self._memory.rows()
        self._score, self._probability = fitted_map(kept.x[:, 0].astype(np.float64), kept.y, kept.weight)

    def snapshot(self) -> Arrays:
        """All state."""
        own = Arrays(
            {"score": self._score.copy(), "probability": self._probability.copy()},
            {"fitted_at": self._fitted_at},
        )
        return merge({"memory": self._memory.snapshot()}, own)

    def restore(self, state: Arrays) -> None:
        """Take over a snapshot. Raises ValueError when it does not fit."""
        score, probability = state.arrays.get("score"), state.arrays.get("probability")
        fitted_at = state.scalars.get("fitted_at")
        if score is None or probability is None or score.shape != probability.shape or score.ndim != 1:
            raise ValueError("snapshot of the calibration lacks 'score' or 'probability'")
        if not isinstance(fitted_at, int):
            raise ValueError("snapshot of the calibration lacks 'fitted_at'")
        self._memory.restore(child(state, "memory"))
        self._score, self._probability, self._fitted_at = score.copy(), probability.copy(), fitted_at


def fitted_map(score: Floats, y: Floats, weight: Floats) -> tuple[Floats, Floats]:
    """Scores (increasing) and the probability at each, between which a line runs, for labels ``y`` (float64[n])."""
    found, place = np.unique(score, return_inverse=True)
    hits, total = np.zeros(len(found)), np.zeros(len(found))
    np.add.at(hits, place, weight * y)
    np.add.at(total, place, weight)
    step = isotonic(hits, total)
    begins = np.append(True, step[1:] != step[:-1])
    level = np.cumsum(begins) - 1
    # a step that rests on one or two labels would be 0 or 1: each is given one more label, of the usual kind
    labels = np.bincount(level[place])[level]
    usual = float(y @ weight / weight.sum())
    given = np.maximum.accumulate((labels * step + usual) / (labels + 1.0))
    # first and last score of each step; between two steps the probability rises in a straight line
    edges = np.flatnonzero(begins | np.append(begins[1:], True))
    return found[edges], given[edges]
