"""A guard against who would teach the detectors that his fraud is usual: nobody may teach far more than the others.

Online detectors and rank tables learn from every row. Whoever sends a large share of the rows becomes what is usual,
whatever the detectors are; not to learn what looks suspicious does not help (measured: docs/detectors.md). What does is
a cap for each value of the key entity, relative to how many values there are: a cap in rows alone would starve a
pipeline that has few of them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from itertools import pairwise
from zlib import crc32

import numpy as np
import numpy.typing as npt

from detectors.arrays import Arrays
from detectors.protocol import Detector, LabelledDetector
from detectors.refitted import RefittedForest
from domain.batch import Floats

__all__ = ["WINDOW", "TeachingGuard", "step_taught"]

Bools = npt.NDArray[np.bool_]
WINDOW = 10_000
"""Newest rows among which is counted: as many as are on probation in rank tables (:mod:`detectors.ranks`)."""


class TeachingGuard:
    """Which rows may teach, of a stream whose rows each belong to one value of an entity.

    A row may as long as, among the newest :data:`WINDOW` rows, those of its value that taught are fewer than ``times``
    as many as there are rows per value. So the first row of a value always may, and where there is only one value, all
    may. A pure function of the values in order; its memory is one number a row of the window.

    >>> TeachingGuard(2.0).admit(["a", "b", "a", "a", "a", "b"]).tolist()
    [True, True, True, True, False, True]
    """

    def __init__(self, times: float) -> None:
        if not times >= 1.0:
            raise ValueError(
                f"a guard that lets a value teach {times} times its share must let it have 1 at least"
            )
        self._times = times
        self._rows: deque[tuple[int, bool]] = deque()
        self._seen: dict[int, int] = {}
        self._taught: dict[int, int] = {}

    def admit(self, values: Sequence[str]) -> Bools:
        """Which of the next rows may teach (bool[n]); ``values`` are those of their entity."""
        may = np.ones(len(values), dtype=np.bool_)
        rows, seen, taught, times = self._rows, self._seen, self._taught, self._times
        for row, value in enumerate(values):
            # two values that share a checksum share a cap, one pair in 100 windows: harmless
            key = crc32(value.encode())
            if len(rows) == WINDOW:
                self._drop(*rows.popleft())
            seen[key] = seen.get(key, 0) + 1
            so_far = taught.get(key, 0)
            if so_far * len(seen) < times * (len(rows) + 1):
                taught[key] = so_far + 1
                rows.append((key, True))
            else:
                may[row] = False
                rows.append((key, False))
        return may

    def _drop(self, key: int, taught: bool) -> None:
        for counts, less in ((self._seen, 1), (self._taught, int(taught))):
            left = counts.get(key, 0) - less
            if left > 0:
                counts[key] = left
            else:
                counts.pop(key, None)

    def snapshot(self) -> Arrays:
        """The rows of the window: checksum of the value, and whether it taught."""
        return Arrays(
            {
                "value": np.array([key for key, _ in self._rows], dtype=np.int64),
                "taught": np.array([taught for _, taught in self._rows], dtype=np.uint8),
            }
        )

    def restore(self, state: Arrays) -> None:
        """Take over a snapshot. Raises ValueError when it does not fit."""
        value, taught = state.arrays.get("value"), state.arrays.get("taught")
        if value is None or value.dtype != np.int64 or value.ndim != 1 or len(value) > WINDOW:
            raise ValueError(f"guard snapshot needs 'value' (int64, at most {WINDOW} rows)")
        if taught is None or taught.dtype != np.uint8 or taught.shape != value.shape:
            raise ValueError("guard snapshot needs 'taught' (uint8), one for each value")
        self._rows = deque(zip(value.tolist(), taught.astype(np.bool_).tolist(), strict=True))
        self._seen, self._taught = {}, {}
        for key, did in self._rows:
            self._seen[key] = self._seen.get(key, 0) + 1
            if did:
                self._taught[key] = self._taught.get(key, 0) + 1


def step_taught(detector: Detector, x: Floats, teach: Bools | None) -> Floats:
    """Scores of the rows of ``x``, each before it is learned; only rows marked in ``teach`` (None: all) are.

    Each score is what the detector says of the row after all earlier rows that taught, as
    :meth:`detectors.protocol.Detector.step` does where all teach.
    """
    if teach is None or isinstance(detector, LabelledDetector) or teach.all():
        return detector.step(x)
    if isinstance(detector, RefittedForest):
        return detector.step(x, teach)
    x = np.ascontiguousarray(x)  # kernels are compiled for parts of such arrays
    out = np.empty(x.shape[0])
    edges = np.flatnonzero(teach[1:] != teach[:-1]) + 1
    bounds = [0, *edges.tolist(), x.shape[0]]
    for first, stop in pairwise(bounds):
        if first < stop:
            part = x[first:stop]
            out[first:stop] = detector.step(part) if teach[first] else detector.score(part)
    return out
