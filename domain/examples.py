"""Matured labels with what the service had said of their events: what labelled parts learn from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from domain.batch import Floats, Ints

__all__ = ["Examples"]


@dataclass(frozen=True, slots=True)
class Examples:
    """``m`` labelled events in the order in which their labels became known.

    x         float64[m, features]: the vectors as scored, NaN = missing
    y         float64[m]: 1 what the pipeline looks for, 0 not
    ranks     float64[m, detectors]: the ranks as given then, NaN = that detector gave none
    score     float64[m]: the score as given then, NaN = none
    times     int64[m]: event times, UTC microseconds
    known_at  int64[m]: when each label became known, UTC microseconds
    own       float64[m]: the score that the pipeline's own detectors gave, where models from the registry were in
              force; None: always ``score``
    """

    x: Floats
    y: Floats
    ranks: Floats
    score: Floats
    times: Ints
    known_at: Ints
    own: Floats | None = None

    def __len__(self) -> int:
        return len(self.y)

    @staticmethod
    def none(features: int, detectors: int) -> Examples:
        """No examples, of that many columns."""
        no_times: Ints = np.empty(0, dtype=np.int64)
        return Examples(
            np.empty((0, features)), np.empty(0), np.empty((0, detectors)), np.empty(0), no_times, no_times
        )

    @staticmethod
    def joined(parts: Sequence[Examples]) -> Examples:
        """One after the other; ``parts`` must hold at least one."""
        if len(parts) == 1:
            return parts[0]
        owns = [part.score if part.own is None else part.own for part in parts]
        return Examples(
            np.concatenate([part.x for part in parts]),
            np.concatenate([part.y for part in parts]),
            np.concatenate([part.ranks for part in parts]),
            np.concatenate([part.score for part in parts]),
            np.concatenate([part.times for part in parts]),
            np.concatenate([part.known_at for part in parts]),
            None if all(part.own is None for part in parts) else np.concatenate(owns),
        )

    def rows(self, start: int, stop: int) -> Examples:
        """Rows ``start`` to ``stop`` (exclusive)."""
        return self._picked(slice(start, stop))

    def take(self, index: npt.NDArray[np.intp]) -> Examples:
        """The rows of ``index``, in its order."""
        return self._picked(index)

    def columns(self) -> dict[str, Floats | Ints]:
        """The columns by name, ``own`` only where it is there."""
        own = {} if self.own is None else {"own": self.own}
        return {
            "x": self.x,
            "y": self.y,
            "ranks": self.ranks,
            "score": self.score,
            "times": self.times,
            "known_at": self.known_at,
            **own,
        }

    def _picked(self, which: slice | npt.NDArray[np.intp]) -> Examples:
        return Examples(
            self.x[which],
            self.y[which],
            self.ranks[which],
            self.score[which],
            self.times[which],
            self.known_at[which],
            None if self.own is None else self.own[which],
        )
