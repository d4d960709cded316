"""What detectors share that are fitted to labelled rows: the memory, when a fit is due, the snapshot.

Such a detector learns from labels only. Rows that pass by are scored, and teach it nothing.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np

from detectors.arrays import Arrays, child, merge, pack
from detectors.compressed_trees import Compression, TreeModel, compressed, restored_model
from detectors.label_memory import LabelMemory, TrainingRows
from detectors.packed_trees import FittedTrees
from domain.batch import Floats, Ints

__all__ = ["LabelTrained"]


class LabelTrained(ABC):
    """Fitted from a bounded :class:`detectors.label_memory.LabelMemory` whenever that is due.

    memory        labelled rows kept, a quarter of them at most positive ones
    refit_every   microseconds of event time between two fits
    min_labels    labels before the first fit, and
    min_positive  how many of them must be positive, and how many negative
    compress      how to make the fitted model smaller; None: not at all

    A fit stalls the batch between whose rows it happens.
    """

    kind: str

    def __init__(
        self,
        features: Sequence[str],
        *,
        seed: int,
        memory: int,
        refit_every: int,
        min_labels: int,
        min_positive: int,
        compress: Compression | None,
    ) -> None:
        if not features:
            raise ValueError(f"{self.kind} needs at least one feature")
        self._width = len(features)
        self._seed = seed
        self._refit_every = refit_every
        self._min_labels = min_labels
        self._min_positive = min_positive
        self._memory = LabelMemory(memory, self._width, seed, max(1, memory // 4))
        self._fitted_at: int | None = None
        self._fitted_to = 0
        self._model: TreeModel | None = None
        self._compress = compress or Compression()
        self._version = f"{self.kind}-unfitted"

    @abstractmethod
    def _fit(self, rows: TrainingRows) -> FittedTrees:
        """Trees fitted to ``rows``; the same rows give the same bits."""

    @property
    def ready(self) -> bool:
        """Whether a model has been fitted."""
        return self._model is not None

    @property
    def abstains_because(self) -> str | None:
        """Why it is not ready; None when it is."""
        if self.ready:
            return None
        return f"warming up: needs {self._min_labels} labels, {self._min_positive} of each kind"

    @property
    def last_failure(self) -> str | None:
        """Always None: every row can be scored."""
        return None

    @property
    def version(self) -> str:
        """Hash of the model, which changes at each fit."""
        return self._version

    @property
    def model(self) -> TreeModel | None:
        """What it scores with; None before the first fit."""
        return self._model

    @property
    def model_bytes(self) -> int:
        """Bytes of what it scores with; 0 before the first fit."""
        return 0 if self._model is None else self._model.nbytes

    def next_change(self) -> int | None:
        """None: only labels change it, and they come between batches."""
        return None

    def score(self, x: Floats) -> Floats:
        """Scores (float64[n]); NaN before the first fit."""
        return np.full(x.shape[0], np.nan) if self._model is None else self._model.score(x)

    def step(self, x: Floats) -> Floats:
        """Scores; rows without labels teach nothing."""
        return self.score(x)

    def fit(self, x: Floats) -> None:  # noqa: B027  (that is what it does)
        """Learns nothing: past rows without labels."""

    def learn_labels(self, x: Floats, y: Floats, known_at: Ints, now: int) -> None:
        """Remember rows whose labels became known, and fit again if that is due and there are new ones.

        x         float64[m, F], the vectors as they were scored; y float64[m], 0 or 1
        known_at  int64[m], when each label became known (UTC microseconds)
        now       the moment of this call in event time; may come without rows
        """
        self._memory.add(x, y)
        known = self._memory.positives, self._memory.negatives
        if sum(known) < self._min_labels or min(known) < self._min_positive or sum(known) == self._fitted_to:
            return
        if self._fitted_at is None or now - self._fitted_at >= self._refit_every:
            rows = self._memory.rows()
            self._take(compressed(self._fit(rows), rows, self._compress, self._seed))
            self._fitted_at = now
            self._fitted_to = sum(known)

    def snapshot(self) -> Arrays:
        """The memory and the model."""
        children = {"memory": self._memory.snapshot()}
        if self._model is not None:
            children["model"] = self._model.snapshot()
        own = {"kind": self.kind, "fitted_at": self._fitted_at, "fitted_to": self._fitted_to}
        return merge(children, Arrays({}, own))

    def restore(self, state: Arrays) -> None:
        """Take over a snapshot. Raises ValueError when it does not fit the parameters."""
        fitted_at = state.scalars.get("fitted_at")
        model = child(state, "model")
        if state.scalars.get("kind") != self.kind:
            raise ValueError(f"snapshot is of {state.scalars.get('kind')}, this is {self.kind}")
        if (fitted_at is not None and not isinstance(fitted_at, int)) or (fitted_at is None) == bool(
            model.arrays
        ):
            raise ValueError(
                f"snapshot of {self.kind} has a model without 'fitted_at', or the other way round"
            )
        fitted_to = state.scalars.get("fitted_to")
        if not isinstance(fitted_to, int):
            raise ValueError(f"snapshot of {self.kind} lacks 'fitted_to'")
        restored = restored_model(model, self._width) if model.arrays else None
        self._memory.restore(child(state, "memory"))
        self._fitted_at = fitted_at
        self._fitted_to = fitted_to
        self._model = None
        self._version = f"{self.kind}-unfitted"
        if restored is not None:
            self._take(restored)

    def _take(self, model: TreeModel) -> None:
        self._model = model
        self._version = f"{self.kind}-{hashlib.sha256(pack(model.snapshot())).hexdigest()[:8]}"
