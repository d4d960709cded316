"""A bounded sample of the rows of a stream.

Vitter's algorithm R (ACM TOMS 11(1), 1985) with a counter-based generator: which slot a row takes depends
only on the seed and the row's index, so neither batches nor restarts change the sample. With a ``horizon``
h, rows are kept as if the stream were always h rows long: their ages are then about geometric with mean h
(Aggarwal's biased reservoir, VLDB 2006), and the sample follows drift.
"""

from __future__ import annotations

import numpy as np

from detectors.arrays import Arrays
from detectors.kernels_sampling import sample_rows
from domain.batch import Floats

__all__ = ["Reservoir"]

_ALL = 2**62


class Reservoir:
    """At most ``capacity`` rows of ``columns`` numbers; uniform over the past, or over recent rows."""

    def __init__(self, capacity: int, columns: int, seed: int, horizon: int | None = None) -> None:
        self._rows = np.zeros((capacity, columns))
        self._arrived = np.zeros(capacity, dtype=np.int64)
        self._seed = np.uint64(seed & 0xFFFFFFFFFFFFFFFF)
        self._horizon = _ALL if horizon is None else max(horizon, capacity)
        self.seen = 0
        """Rows offered so far."""

    @property
    def rows(self) -> Floats:
        """The sampled rows (a view, not to be written)."""
        return self._rows[: min(self.seen, self._rows.shape[0])]

    def rows_before(self, index: int) -> Floats:
        """A copy of the sampled rows that came before the stream's row ``index``, in order of their slots."""
        rows = self.rows
        return rows[self._arrived[: rows.shape[0]] < index]

    def add(self, x: Floats) -> None:
        """Offer the rows of ``x`` (float64[n, columns]) in order."""
        sample_rows(self._rows, self._arrived, self.seen, self._horizon, self._seed, x)
        self.seen += x.shape[0]

    def snapshot(self) -> Arrays:
        """The sample and how many rows it was drawn from."""
        rows = self.rows
        return Arrays(
            {"rows": rows.copy(), "arrived": self._arrived[: rows.shape[0]].copy()}, {"seen": self.seen}
        )

    def restore(self, state: Arrays) -> None:
        """Take over a snapshot. Raises ValueError when it has another shape."""
        rows, arrived = state.arrays.get("rows"), state.arrays.get("arrived")
        seen = state.scalars.get("seen")
        if not isinstance(seen, int) or rows is None or rows.dtype != np.float64 or rows.ndim != 2:
            raise ValueError("sample snapshot needs 'rows' (float64, two dimensions) and 'seen'")
        expected = (min(seen, self._rows.shape[0]), self._rows.shape[1])
        if rows.shape != expected:
            raise ValueError(f"sample snapshot has shape {rows.shape}, expected {expected}")
        if arrived is None or arrived.shape != rows.shape[:1] or arrived.dtype != np.int64:
            raise ValueError("sample snapshot needs 'arrived' (int64), one index a row")
        self._rows[: rows.shape[0]] = rows
        self._arrived[: rows.shape[0]] = arrived
        self.seen = seen
