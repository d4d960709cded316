"""The thresholds of a pipeline that learn from labels or count a day's alerts, moved over rows in order."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from detectors.arrays import Arrays, child, merge
from detectors.lessons import Lesson
from domain.batch import Floats, Ints
from domain.examples import Examples
from domain.pipeline import Pipeline
from scoring.thresholds import Learned, learned_threshold

__all__ = ["LearnedDecision"]

Reached = list[tuple[int, npt.NDArray[np.bool_]]]
"""Decision code and rows (bool[n]) of each threshold."""


class LearnedDecision:
    """Thresholds beside the alert budgets, of one of ``partitions`` that share a daily capacity evenly."""

    def __init__(self, pipeline: Pipeline, partitions: int = 1) -> None:
        self._thresholds: list[tuple[int, int | None, Learned]] = []
        for code, declared in pipeline.decision.thresholds:
            if declared.budget is None:
                missed = None if declared.cost is None else declared.cost.missed
                column = pipeline.feature_names.index(missed) if isinstance(missed, str) else None
                self._thresholds.append((code, column, learned_threshold(declared, partitions=partitions)))

    def __bool__(self) -> bool:
        return bool(self._thresholds)

    @property
    def abstained(self) -> dict[int, str]:
        """By decision code: why its threshold grants nothing yet."""
        found = {code: threshold.abstains_because for code, _, threshold in self._thresholds}
        return {code: why for code, why in found.items() if why is not None}

    def step(self, score: Floats, x: Floats, times: Ints, lessons: Sequence[Lesson]) -> Reached:
        """Which of n rows reach each decision; ``lessons`` are taught before their rows.

        ``score`` float64[n], ``x`` float64[n, features], ``times`` int64[n], event times.
        """
        reached: Reached = []
        for code, column, threshold in self._thresholds:
            rows = np.zeros(len(score), dtype=np.bool_)
            at = 0
            for lesson in [*lessons, None]:
                stop = len(score) if lesson is None else min(lesson.row, len(score))
                if stop > at:
                    part = slice(at, stop)
                    rows[part] = threshold.step(score[part], _amount(x[part], column), times[part])
                    at = stop
                if lesson is not None:
                    _learn(threshold, column, lesson.examples)
            reached.append((code, rows))
        return reached

    def preview(self, score: Floats, x: Floats, times: Ints) -> Reached:
        """What :meth:`step` would say; changes nothing."""
        before = self.snapshot()
        reached = self.step(score, x, times, ())
        self.restore(before)
        return reached

    def learn(self, examples: Examples) -> None:
        """Labels that became known before the next row."""
        for _, column, threshold in self._thresholds:
            _learn(threshold, column, examples)

    def snapshot(self) -> Arrays:
        """All state."""
        return merge({f"threshold{code}": threshold.snapshot() for code, _, threshold in self._thresholds})

    def restore(self, state: Arrays) -> None:
        """Take over a snapshot. Raises ValueError when it does not fit."""
        for code, _, threshold in self._thresholds:
            threshold.restore(child(state, f"threshold{code}"))


def _amount(x: Floats, column: int | None) -> Floats:
    return np.full(len(x), np.nan) if column is None else x[:, column]


def _learn(threshold: Learned, column: int | None, examples: Examples) -> None:
    scored = examples.take(np.flatnonzero(~np.isnan(examples.score)))
    if len(scored):
        threshold.learn(scored.score, scored.y, _amount(scored.x, column), scored.known_at)
