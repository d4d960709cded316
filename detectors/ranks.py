"""Where a score stands among recent scores: the one scale on which detectors can be compared.

The rank of a score is the share of the last ``window`` scores that were strictly lower. On stationary data
the next score is equally likely to fall into each of the gaps between them, whatever its distribution, so a
share ``b`` of traffic has a rank of at least ``1 - b``: an alert budget needs no further calibration (the
argument of conformal prediction: Vovk, Gammerman, Shafer, Algorithmic Learning in a Random World, 2005).
Ties count as not lower: a detector that says the same of everything makes nothing look suspicious.
"""

from __future__ import annotations

import numpy as np

from detectors.arrays import Arrays
from detectors.kernels_ranks import count_below, step_ranks
from domain.batch import Floats

__all__ = ["MINIMUM", "WINDOW", "RankTable"]

WINDOW = 20_000
"""Scores remembered: the top 0.5 % are then a hundred of them, and the table has 160 kB."""
MINIMUM = 500
"""Scores needed before a rank is given: the top 0.5 % of fewer is not even one or two of them."""

_CHUNK = 256
"""Rows per compiled call: correcting for the rows of the same call costs its square, merging its inverse."""


class RankTable:
    """An exact sliding window of past scores; ranks lie strictly between 0 and 1.

    >>> table = RankTable(window=4, minimum=2)
    >>> table.step(np.array([1.0, 2.0, 3.0, 0.0]))
    array([       nan,        nan, 0.83333333, 0.125     ])
    """

    def __init__(self, window: int = WINDOW, minimum: int = MINIMUM) -> None:
        if not 1 <= minimum <= window:
            raise ValueError(f"minimum {minimum} must lie between 1 and the window {window}")
        self._window = window
        self._minimum = minimum
        self._ring = np.zeros(window)
        self._ordered = np.zeros(window)
        self._spare = np.zeros(window)
        self._start = 0
        self._size = 0

    def __len__(self) -> int:
        return self._size

    @property
    def ready(self) -> bool:
        """Whether it has seen enough scores to rank others."""
        return self._size >= self._minimum

    @property
    def missing(self) -> int:
        """How many more scores it needs before it is ready; 0 when it is."""
        return max(0, self._minimum - self._size)

    @property
    def abstains_because(self) -> str | None:
        """Why it is not ready; None when it is."""
        return None if self.ready else f"warming up: ranks need {self._minimum} scores"

    def rank(self, scores: Floats) -> Floats:
        """Ranks of ``scores`` (float64[n]) in the present window. Pure.

        NaN for what is not finite, and for all while not ready.
        """
        out = np.empty(scores.shape[0])
        count_below(self._ordered, self._size, self._minimum, np.ascontiguousarray(scores), out)
        return out

    def step(self, scores: Floats) -> Floats:
        """Rank each score among those before it, then remember it.

        Scores that are not finite are skipped and give NaN.
        """
        n = scores.shape[0]
        out = np.empty(n)
        values = np.ascontiguousarray(scores)
        chunk = min(_CHUNK, self._window)
        for at in range(0, n, chunk):
            self._start, self._size = step_ranks(
                self._ring,
                self._ordered,
                self._spare,
                self._start,
                self._size,
                self._minimum,
                values[at : at + chunk],
                out[at : at + chunk],
            )
        return out

    def forget(self, keep: int) -> None:
        """Keep only the newest ``keep`` scores, for when the meaning of the scores has changed."""
        newest = self._recent()[max(0, self._size - keep) :]
        self._load(newest)

    def snapshot(self) -> Arrays:
        """The window in order of arrival."""
        return Arrays({"recent": self._recent()}, {"window": self._window, "minimum": self._minimum})

    def restore(self, state: Arrays) -> None:
        """Take over a snapshot. Raises ValueError when it was made with another window."""
        recent = state.arrays.get("recent")
        if recent is None or recent.ndim != 1 or recent.dtype != np.float64:
            raise ValueError("rank snapshot has no float64 array 'recent'")
        if state.scalars != {"window": self._window, "minimum": self._minimum}:
            raise ValueError(f"rank snapshot was made with {state.scalars}, not window {self._window}")
        if recent.shape[0] > self._window or not np.isfinite(recent).all():
            raise ValueError("rank snapshot holds too many scores or some that are not finite")
        self._load(recent)

    def _recent(self) -> Floats:
        return np.roll(self._ring, -self._start)[: self._size].copy()

    def _load(self, recent: Floats) -> None:
        size = recent.shape[0]
        self._ring[:size] = recent
        self._ordered[:size] = np.sort(recent)
        self._start = 0
        self._size = size
