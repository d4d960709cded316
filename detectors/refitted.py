"""What detectors share that score with a packed forest and fit it anew from a sample of the stream."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from detectors.arrays import Arrays, child, merge
from detectors.forest import PackedForest
from detectors.kernels_ranks import place_all
from detectors.sampling import Reservoir
from detectors.schedule import next_fit, rows_until, trusted
from domain.batch import Floats

__all__ = ["RefittedForest"]


class RefittedForest(ABC):
    """Keeps a uniform sample of all past rows and fits a forest from it at exact row counts.

    ``kind`` names the detector in versions and messages. The first fit comes after ``warm_up`` rows, the
    others as :func:`detectors.schedule.next_fit` says, from those sampled rows that are off probation.
    """

    def __init__(
        self, kind: str, features: Sequence[str], *, seed: int, warm_up: int, refit_every: int, reservoir: int
    ) -> None:
        if not features:
            raise ValueError(f"{kind} needs at least one feature")
        self._kind = kind
        self._width = len(features)
        self._seed = seed
        self._refit_every = refit_every
        self._reservoir = Reservoir(reservoir, self._width, seed)
        self._first = warm_up
        self._due = warm_up
        self._fits = 0
        self._forest: PackedForest | None = None
        self._usual: Floats = np.empty(0)
        self._stepped: Floats = np.empty(0)

    @property
    def ready(self) -> bool:
        """Whether a forest has been fitted."""
        return self._forest is not None

    @property
    def abstains_because(self) -> str | None:
        """Why it is not ready; None when it is."""
        return None if self.ready else f"warming up: needs {self._due} events"

    @property
    def last_failure(self) -> str | None:
        """Always None: every row can be scored."""
        return None

    @property
    def version(self) -> str:
        """Kind and hash of the forest; ``<kind>-unfitted`` before the first fit."""
        return f"{self._kind}-{'unfitted' if self._forest is None else self._forest.digest}"

    def next_change(self) -> int | None:
        """Rows until the next fit."""
        return self._due - self._reservoir.seen

    def score(self, x: Floats) -> Floats:
        """Scores (float64[n], above 0); NaN before the first fit."""
        return np.full(x.shape[0], np.nan) if self._forest is None else self._forest.score(x)

    def step(self, x: Floats, teach: npt.NDArray[np.bool_] | None = None) -> Floats:
        """Score each row, then sample it, and fit again where it is due.

        ``teach`` (bool[n], None: all) marks the rows that are sampled; the others are scored and pass by.
        """
        n = x.shape[0]
        out = np.empty(n)
        self._stepped = np.empty(n)
        at = 0
        while at < n:
            stop = rows_until(teach, at, n, self._due - self._reservoir.seen)
            out[at:stop] = self.score(x[at:stop])
            self._stepped[at:stop] = self.rank(out[at:stop])
            self._reservoir.add(x[at:stop] if teach is None else x[at:stop][teach[at:stop]])
            at = stop
            if self._reservoir.seen == self._due:
                self._refit()
        return out

    def rank(self, scores: Floats) -> Floats:
        """Where scores of the present forest stand among those of the rows it was fitted from: float64[n], in [0, 1).

        NaN for what is not finite.
        """
        out = np.empty(scores.shape[0])
        values = np.ascontiguousarray(scores)
        place_all(self._usual, self._usual.shape[0], 1, 0.0, values, out)
        return out

    def stepped_ranks(self) -> Floats:
        """Ranks of the rows of the last :meth:`step`, each by the forest that scored it."""
        return self._stepped

    def fit(self, x: Floats) -> None:
        """Sample past rows, trust them all, and fit at once, whether or not a fit is due."""
        if x.shape[0]:
            self._reservoir.add(x)
            self._first = self._reservoir.seen
            self._refit()

    def snapshot(self) -> Arrays:
        """The sample and the forest."""
        children = {"reservoir": self._reservoir.snapshot()}
        if self._forest is not None:
            children["forest"] = self._forest.snapshot()
            children["usual"] = Arrays({"scores": self._usual})
        return merge(children, Arrays({}, {"first": self._first, "due": self._due, "fits": self._fits}))

    def restore(self, state: Arrays) -> None:
        """Take over a snapshot. Raises ValueError when it does not fit the parameters."""
        first, due, fits = (state.scalars.get(name) for name in ("first", "due", "fits"))
        if not isinstance(first, int) or not isinstance(due, int) or not isinstance(fits, int):
            raise ValueError(f"snapshot of {self._kind} lacks 'first', 'due' or 'fits'")
        self._reservoir.restore(child(state, "reservoir"))
        if due <= self._reservoir.seen:
            raise ValueError(f"snapshot of {self._kind}: 'due' lies in the past")
        packed = child(state, "forest")
        usual = child(state, "usual").arrays.get("scores", np.empty(0))
        if usual.dtype != np.float64 or usual.ndim != 1 or (usual.size > 0) != bool(packed.arrays):
            raise ValueError(f"snapshot of {self._kind} lacks the scores of usual rows")
        self._usual = usual
        self._forest = PackedForest.restored(packed, self._width) if packed.arrays else None
        self._first = first
        self._due = due
        self._fits = fits

    @abstractmethod
    def _fitted(self, rows: Floats, seed: int) -> tuple[PackedForest, Floats]:
        """A forest of ``rows`` (float64[n, features], NaN missing, at least one), and what it says of them.

        The latter as near as possible to what it would say had it not been fitted from them.
        """

    def _refit(self) -> None:
        seen = self._reservoir.seen
        rows = self._reservoir.rows_before(trusted(seen, self._first))
        if not rows.shape[0]:  # a tiny sample may hold none of them
            rows = self._reservoir.rows
        # Each fit draws anew, or the same cuts would be made for ever.
        drawn = hashlib.sha256(f"{self._seed}:{self._fits}".encode()).digest()
        self._forest, usual = self._fitted(rows, int.from_bytes(drawn[:4], "little"))
        self._usual = np.sort(usual)
        self._fits += 1
        self._due = next_fit(seen, self._first, self._refit_every)
