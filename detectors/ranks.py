"""Where a score stands among past scores: the one scale on which detectors can be compared.

The rank of a score is the share of ``window`` past scores that were strictly lower. On stationary data
the next score is equally likely to fall into each of the gaps between them, whatever its distribution, so a
share ``b`` of traffic has a rank of at least ``1 - b``: an alert budget needs no further calibration (the
argument of conformal prediction: Vovk, Gammerman, Shafer, Algorithmic Learning in a Random World, 2005).
Ties count as not lower: a detector that says the same of everything makes nothing look suspicious.

Two things keep the upper end, on which alerts depend, usable. A score is compared only with scores that
are off *probation* (three quarters of all so far, at most the newest 10,000, are on it), so a burst of attacks
does not vouch for itself. And scores in one gap, above all those beyond the greatest, keep their order: the rank
moves by less than half the share of one score.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from detectors.arrays import Arrays
from detectors.kernels_ranks import COUNT, END, SIZE, place_all, served_end, step_ranks
from domain.batch import Floats

__all__ = ["MINIMUM", "PROBATION", "WINDOW", "RankTable"]

WINDOW = 20_000
"""Scores remembered: the top 0.5 % are then a hundred of them, and the table has 160 kB."""
PROBATION = 10_000
"""Newest scores that do not count yet: longer than bursts are. Rows wait for less time before detectors learn them
(detectors/schedule.py), because detectors forget a burst, diluted among all past rows, and this window does not."""
MINIMUM = 16
"""Scores needed before a rank is given. Ranks among n reach 1 - 1/(2n+2), so a budget of 0.5 % gets its first
alert when a hundred have been served, without a longer silence for everything else."""

_BLOCK = 256


class RankTable:
    """A sliding window of past scores; ranks lie strictly between 0 and 1.

    With a ``prior``, scores are expected to be exponential with mean 1 on ordinary traffic, and that weighs as much
    as so many scores at first, less as the window fills, and nothing once it is full.

    >>> table = RankTable(window=4, minimum=2, probation=0)
    >>> table.step(np.array([1.0, 2.0, 3.0, 0.0]))
    array([       nan,        nan, 0.75      , 0.        ])
    """

    def __init__(
        self,
        window: int = WINDOW,
        minimum: int = MINIMUM,
        probation: int = PROBATION,
        prior: int = 0,
    ) -> None:
        if not 1 <= minimum <= window and not (prior and minimum == 0):
            raise ValueError(f"minimum {minimum} must lie between 1 and the window {window}")
        self._prior = prior
        self._window = window
        self._minimum = minimum
        self._probation = probation
        self._ring = np.zeros(window + probation + 2 * _BLOCK)
        self._ordered = np.zeros(window)
        self._spare = np.zeros(window + _BLOCK)
        self._state = np.zeros(3, dtype=np.int64)

    def __len__(self) -> int:
        return int(self._state[SIZE])

    @property
    def ready(self) -> bool:
        """Whether it serves enough scores to rank others."""
        return len(self) >= self._minimum

    @property
    def missing(self) -> int:
        """How many more scores it needs before it is ready; 0 when it is."""
        more = 0
        count, served = int(self._state[COUNT]), int(self._state[END]) - len(self)
        while (
            len(self) < self._minimum and served_end(count + more, self._probation) - served < self._minimum
        ):
            more += 1
        return more

    @property
    def abstains_because(self) -> str | None:
        """Why it is not ready; None when it is."""
        return None if self.ready else f"warming up: ranks need {self._minimum} scores"

    def rank(self, scores: Floats) -> Floats:
        """Ranks of ``scores`` (float64[n]) among those served at present. Pure.

        NaN for what is not finite, and for all while not ready.
        """
        out = np.empty(scores.shape[0])
        values = np.ascontiguousarray(scores)
        place_all(self._ordered, len(self), self._minimum, float(self._prior), values, out)
        return out

    def step(self, scores: Floats, count: npt.NDArray[np.bool_] | None = None) -> Floats:
        """Rank each score among those served, then remember it.

        Scores that are not finite are skipped and give NaN. ``count`` (bool[n], None: all) marks those that are
        remembered; the others are only ranked.
        """
        out = np.empty(scores.shape[0])
        counted = np.ones(scores.shape[0], dtype=np.bool_) if count is None else np.ascontiguousarray(count)
        values = np.ascontiguousarray(scores)
        step_ranks(
            self._ring,
            self._ordered,
            self._spare,
            self._state,
            self._minimum,
            self._probation,
            float(self._prior),
            values,
            counted,
            out,
        )
        return out

    def forget(self, keep: int) -> None:
        """Keep only the newest ``keep`` scores and serve them, for when the meaning of scores has changed."""
        newest = self._recent()[-keep:]
        self._load(newest, newest.shape[0], newest.shape[0], min(newest.shape[0], self._window))

    def snapshot(self) -> Arrays:
        """The scores served or on probation in order of arrival, and how many have been taken in."""
        count, end, size = self._state.tolist()
        scalars = {**self._parameters(), "count": count, "end": end, "size": size}
        return Arrays({"recent": self._recent()}, scalars)

    def restore(self, state: Arrays) -> None:
        """Take over a snapshot. Raises ValueError when it was made with another window."""
        recent = state.arrays.get("recent")
        if recent is None or recent.ndim != 1 or recent.dtype != np.float64:
            raise ValueError("rank snapshot has no float64 array 'recent'")
        own = self._parameters()
        if {name: state.scalars.get(name) for name in own} != own:
            raise ValueError(f"rank snapshot was made with {state.scalars}, not window {self._window}")
        count, end, size = (state.scalars.get(name) for name in ("count", "end", "size"))
        if not isinstance(count, int) or not isinstance(end, int) or not isinstance(size, int):
            raise ValueError("rank snapshot lacks 'count', 'end' or 'size'")
        fits = 0 <= size <= min(end, self._window) and end <= count and recent.shape[0] == count - end + size
        if not fits or recent.shape[0] > self._ring.shape[0] or not np.isfinite(recent).all():
            raise ValueError("rank snapshot holds too many scores or some that are not finite")
        self._load(recent, count, end, size)

    def _parameters(self) -> dict[str, int]:
        return {
            "window": self._window,
            "minimum": self._minimum,
            "probation": self._probation,
            "prior": self._prior,
        }

    def _recent(self) -> Floats:
        count, end, size = self._state.tolist()
        return self._ring[np.arange(end - size, count) % self._ring.shape[0]]

    def _load(self, recent: Floats, count: int, end: int, size: int) -> None:
        self._ring[np.arange(count - recent.shape[0], count) % self._ring.shape[0]] = recent
        first = recent.shape[0] - (count - end) - size
        self._ordered[:size] = np.sort(recent[first : first + size])
        self._state[:] = count, end, size
