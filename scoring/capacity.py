"""Reviewers who can take k alerts a day: the day's most suspicious rows, chosen while the day goes on.

At each row the rest of the capacity is divided by the rows that are still to be expected today, and a row among
that share of recent traffic is taken: re-solving, whose loss against hindsight stays bounded (Arlotto, Gurvich,
"Uniformly bounded regret in the multisecretary problem", Stochastic Systems 9(3), 2019). What is to be expected is
learned from whole past days, hour by hour, and from today's pace; on the first day from its pace alone.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from detectors.arrays import Arrays, child, merge
from detectors.budget import MOST
from detectors.ranks import RankTable
from domain.batch import Floats, Ints
from scoring.kernels_capacity import take_best

__all__ = ["DailyCapacity"]

Bools = npt.NDArray[np.bool_]
_KEEP = 0.75
"""Weight of the days before in what a usual day is: about the last four."""


class DailyCapacity:
    """At most ``per_day`` rows of each UTC day (of the greatest event time so far), the highest if possible.

    A capacity that is no whole number is rounded day by day so that its mean is right. A pure function of values and
    times so far, in order. Raises ValueError when ``per_day`` is not above 0.
    """

    def __init__(self, per_day: float) -> None:
        if not per_day > 0.0:
            raise ValueError(f"a capacity is above 0 a day, not {per_day}")
        self._per_day = per_day
        # a day is compared with what just was, bursts included: they take capacity too
        self._ranks = RankTable(probation=0)
        self._profile = np.zeros(24)
        self._today = np.zeros(24)
        self._counters: Ints = np.array([-1, 0, 0, 0], dtype=np.int64)

    def step(self, values: Floats, times: Ints, wanted: Bools | None = None) -> Bools:
        """Which rows are taken (bool[n]): ``values`` float64[n], higher first, NaN never; ``times`` UTC microseconds.

        Rows that are not ``wanted`` are counted as traffic and never taken.
        """
        n = values.shape[0]
        out = np.zeros(n, dtype=np.bool_)
        take_best(
            self._ranks.step(values),
            np.ascontiguousarray(times),
            np.ones(n, dtype=np.bool_) if wanted is None else np.ascontiguousarray(wanted),
            self._per_day,
            MOST,
            _KEEP,
            self._profile,
            self._today,
            self._counters,
            out,
        )
        return out

    def snapshot(self) -> Arrays:
        """All state."""
        own = {
            "profile": self._profile.copy(),
            "today": self._today.copy(),
            "counters": self._counters.copy(),
        }
        return merge({"ranks": self._ranks.snapshot()}, Arrays(own, {"per_day": self._per_day}))

    def restore(self, state: Arrays) -> None:
        """Take over a snapshot. Raises ValueError when it is of another capacity, or none."""
        if state.scalars.get("per_day") != self._per_day:
            raise ValueError(
                f"capacity snapshot is of {state.scalars.get('per_day')} a day, not {self._per_day}"
            )
        shapes = {"profile": (24,), "today": (24,), "counters": (4,)}
        for name, shape in shapes.items():
            if name not in state.arrays or state.arrays[name].shape != shape:
                raise ValueError(f"capacity snapshot needs {name!r} of shape {shape}")
        self._ranks.restore(child(state, "ranks"))
        self._profile = state.arrays["profile"].astype(np.float64)
        self._today = state.arrays["today"].astype(np.float64)
        self._counters = state.arrays["counters"].astype(np.int64)
