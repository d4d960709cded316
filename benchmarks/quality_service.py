"""The service on the Handbook's transactions: the ensemble of a pipeline file, event by event, as a worker runs it.

Features are the engine's (:mod:`benchmarks.handbook_data`). The ensemble scores each event before it learns it, and is
taught each label seven days later by the same lessons as in a worker, and cards are guarded as keys are there; what is
measured is the score of the verdicts.
"""

from __future__ import annotations

import numpy as np

from benchmarks.handbook_data import DELAY, EngineRows
from detectors.ensemble import Ensemble
from detectors.lessons import Lesson
from domain.batch import Floats, Ints
from domain.examples import Examples
from domain.pipeline import Pipeline

__all__ = ["Service"]

_BATCH = 5_000


class Service:
    """One ensemble, moved over ``rows`` in order; labels of rows before ``first`` are never told."""

    def __init__(self, pipeline: Pipeline, rows: EngineRows, first: int) -> None:
        self._rows = rows
        self._ensemble = Ensemble(pipeline)
        self._told = first
        n, detectors = len(rows.times), len(pipeline.detectors)
        self._ranks = np.full((n, detectors), np.nan, dtype=np.float32)
        self.score = np.full(n, np.nan)
        """Scores given, NaN where there was none."""
        self.probability = np.full(n, np.nan)
        """Probabilities given, likewise."""

    def ranks(self, part: slice) -> Floats:
        """Ranks that each detector gave the rows of ``part`` (float64[n, detectors], NaN where it gave none)."""
        given: Floats = self._ranks[part].astype(np.float64)
        return given

    def teach(self, start: int, stop: int) -> None:
        """Labels of rows [start, stop) at once, as if known before the next row."""
        known: Ints = np.asarray(self._rows.times[start:stop] + DELAY)
        self._ensemble.learn(self._examples(start, stop), int(known[-1]))
        self._told = max(self._told, stop)

    def run(self, start: int, stop: int, *, labels_until: int | None = None) -> None:
        """Score rows [start, stop) and learn from them; labels of rows before ``labels_until`` are told when known."""
        lessons = self._ensemble.lessons
        for at in range(start, stop, _BATCH):
            end = min(at + _BATCH, stop)
            times = np.asarray(self._rows.times[at:end])
            due: list[Lesson] = []
            if lessons is not None:
                last = int(np.searchsorted(self._rows.times, int(times[-1]) - DELAY, side="right"))
                last = max(self._told, min(last, end if labels_until is None else labels_until))
                known_at = np.asarray(self._rows.times[self._told : last] + DELAY)
                told = np.searchsorted(known_at, np.maximum.accumulate(times), side="right").astype(np.int64)
                due = lessons.plan(times, told, self._examples(self._told, last))
                self._told = last
            guard = self._ensemble.guard
            may = (
                None
                if guard is None
                else guard.admit([str(card) for card in self._rows.cards[at:end].tolist()])
            )
            output = self._ensemble.step(np.asarray(self._rows.x[at:end]), due, may)
            self._ranks[at:end] = output.ranks
            self.score[at:end] = output.score
            if output.probability is not None:
                self.probability[at:end] = output.probability

    def _examples(self, start: int, stop: int) -> Examples:
        part = slice(start, stop)
        y: Floats = self._rows.labels[part].astype(np.float64)
        return Examples(
            x=np.asarray(self._rows.x[part]),
            y=y,
            ranks=self._ranks[part].astype(np.float64),
            score=self.score[part],
            times=np.asarray(self._rows.times[part]),
            known_at=np.asarray(self._rows.times[part] + DELAY),
        )
