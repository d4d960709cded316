"""A bounded memory of labelled rows from which models are fitted again and again.

Positives are rare and dear: the newest ones are kept whole, in a ring of their own. Negatives are plenty: a
sample of them is kept that reaches as far back as the positives do. How many labels came since the oldest
kept positive is counted, so the negatives can be weighted to what they stand for, and a model fitted with
these weights gives probabilities of the stream, not of the sample (Elkan, "The foundations of cost-sensitive
learning", IJCAI 2001; for fraud: Dal Pozzolo, Caelen, Johnson and Bontempi, "Calibrating probability with
undersampling", IEEE SSCI 2015).

Which slot a row takes depends on the seed and on the rows before it only (Vitter's algorithm R with a moving
horizon, see :mod:`detectors.sampling`), so neither batches nor restarts change the memory.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from detectors.arrays import Arrays
from detectors.kernels_labels import remember
from detectors.kernels_trees import Float32s
from detectors.packed_trees import as_fitted
from domain.batch import Floats, Ints

__all__ = ["LabelMemory", "TrainingRows"]


@dataclass(frozen=True, slots=True)
class TrainingRows:
    """What a model is fitted to: x float32[n, F], y float64[n] (0 or 1), weight float64[n] above 0."""

    x: Float32s
    y: Floats
    weight: Floats


class LabelMemory:
    """At most ``capacity`` labelled rows of ``columns`` numbers, ``positives`` of them positive ones."""

    def __init__(self, capacity: int, columns: int, seed: int, positives: int) -> None:
        if not 0 < positives < capacity:
            raise ValueError(f"a memory of {capacity} rows cannot keep {positives} positives; keep fewer")
        self._positive: Float32s = np.zeros((positives, columns), dtype=np.float32)
        self._before: Ints = np.zeros(positives, dtype=np.int64)
        self._negative: Float32s = np.zeros((capacity - positives, columns), dtype=np.float32)
        self._counts: Ints = np.zeros(2, dtype=np.int64)
        self._seed = np.uint64(seed & 0xFFFFFFFFFFFFFFFF)

    @property
    def positives(self) -> int:
        """Positive labels seen so far."""
        return int(self._counts[0])

    @property
    def negatives(self) -> int:
        """Negative labels seen so far."""
        return int(self._counts[1])

    def add(self, x: Floats, y: Floats) -> None:
        """Take rows (float64[n, F]) with their labels (float64[n]; what is neither 0 nor 1 is passed over)."""
        remember(
            as_fitted(x),
            np.ascontiguousarray(y),
            self._positive,
            self._before,
            self._negative,
            self._counts,
            self._seed,
        )

    def rows(self) -> TrainingRows:
        """The kept rows, positives first, each class in the order of its slots."""
        kept_positive = min(self.positives, len(self._positive))
        kept_negative = min(self.negatives, len(self._negative))
        full = self.positives >= len(self._positive)
        first = int(self._before[self.positives % len(self._positive)]) if full else 0
        stood_for = self.positives + self.negatives - first - kept_positive
        # a horizon without negatives (all of them are older) still needs some weight
        weight = max(stood_for, 1) / max(kept_negative, 1)
        return TrainingRows(
            x=np.concatenate([self._positive[:kept_positive], self._negative[:kept_negative]]),
            y=np.concatenate([np.ones(kept_positive), np.zeros(kept_negative)]),
            weight=np.concatenate([np.ones(kept_positive), np.full(kept_negative, weight)]),
        )

    def snapshot(self) -> Arrays:
        """The kept rows and the counts."""
        kept_positive = min(self.positives, len(self._positive))
        return Arrays(
            {
                "positive": self._positive[:kept_positive].copy(),
                "before": self._before[:kept_positive].copy(),
                "negative": self._negative[: min(self.negatives, len(self._negative))].copy(),
                "counts": self._counts.copy(),
            }
        )

    def restore(self, state: Arrays) -> None:
        """Take over a snapshot. Raises ValueError when it is of a memory of another size."""
        counts = state.arrays.get("counts")
        if counts is None or counts.dtype != np.int64 or counts.shape != (2,) or (counts < 0).any():
            raise ValueError("snapshot of labelled rows lacks 'counts'")
        kept = np.minimum(counts, [len(self._positive), len(self._negative)])
        own = (
            ("positive", self._positive, int(kept[0])),
            ("before", self._before, int(kept[0])),
            ("negative", self._negative, int(kept[1])),
        )
        for name, array, n in own:
            stored = state.arrays.get(name)
            if stored is None or stored.dtype != array.dtype or stored.shape != (n, *array.shape[1:]):
                raise ValueError(f"snapshot of labelled rows has no fitting array {name!r}")
        for name, array, n in own:
            array[:n] = state.arrays[name]
        self._counts[:] = counts
