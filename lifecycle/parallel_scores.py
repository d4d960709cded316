"""Scores of many rows, in parts that may be computed anywhere."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from detectors.trained_model import ModelScores, TrainedModel
from domain.examples import Examples
from domain.parallel import Run, in_turn

__all__ = ["scores_of"]

PART_ROWS = 50_000
"""About 16 MB of vectors: a second of scoring, a tenth of that for the way to another machine and back."""


def scores_of(
    model: TrainedModel, rows: Examples, run: Run = in_turn, *, part_rows: int = PART_ROWS
) -> ModelScores:
    """What ``model`` says of ``rows``; the same bits however they are cut, as it looks at one row at a time."""
    parts = max(1, -(-len(rows) // part_rows))
    if parts == 1:
        return model.score(rows.x, rows.ranks)
    found = list(run(_Part(model, rows, part_rows), range(parts)))
    return ModelScores(
        np.concatenate([one.score for one in found]), np.concatenate([one.probability for one in found])
    )


@dataclass(frozen=True, slots=True)
class _Part:
    """Can be sent elsewhere, as a closure could not."""

    model: TrainedModel
    rows: Examples
    part_rows: int

    def __call__(self, number: int) -> ModelScores:
        start = number * self.part_rows
        rows = self.rows.rows(start, min(start + self.part_rows, len(self.rows)))
        return self.model.score(rows.x, rows.ranks)
