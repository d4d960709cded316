"""What detectors that learn from every row have in common: a warm-up, a version, checked snapshots."""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from detectors.arrays import Arrays
from domain.batch import Floats

__all__ = ["OnlineDetector", "take_over"]


class OnlineDetector(ABC):
    """A detector that is ready after ``warm_up`` rows and then only moves on, row by row."""

    def __init__(self, kind: str, warm_up: int, identity: list[Any]) -> None:
        self._kind = kind
        self._warm_up = warm_up
        self._seen = 0
        digest = hashlib.sha256(json.dumps(identity).encode()).hexdigest()
        self._version = f"{kind}-{digest[:8]}"

    @property
    def ready(self) -> bool:
        """Whether the warm-up is over."""
        return self._seen >= self._warm_up

    @property
    def abstains_because(self) -> str | None:
        """Why it is not ready; None when it is."""
        return None if self.ready else f"warming up: needs {self._warm_up} events"

    @property
    def last_failure(self) -> str | None:
        """Always None: every row can be scored."""
        return None

    @property
    def version(self) -> str:
        """Hash of kind, features, parameters and seed."""
        return self._version

    def next_change(self) -> int | None:
        """Rows until the warm-up is over; None after it."""
        return None if self.ready else self._warm_up - self._seen

    @abstractmethod
    def step(self, x: Floats) -> Floats:
        """Score each row, then learn it."""

    def fit(self, x: Floats) -> None:
        """Learn past rows, oldest first."""
        self.step(x)

    def _scalars(self) -> dict[str, Any]:
        return {"version": self._version, "seen": self._seen}

    def _checked(self, state: Arrays) -> int:
        """Rows seen by the snapshot. Raises ValueError when it is of other parameters."""
        seen = state.scalars.get("seen")
        if state.scalars.get("version") != self._version or not isinstance(seen, int) or seen < 0:
            raise ValueError(f"snapshot is of {state.scalars.get('version')}, this is {self._version}")
        return seen


def take_over(own: Mapping[str, npt.NDArray[Any]], state: Arrays, kind: str) -> None:
    """Copy the arrays of a snapshot into ``own``. Raises ValueError, before any is written, when one does not fit."""
    for name, array in own.items():
        stored = state.arrays.get(name)
        if stored is None or stored.shape != array.shape or stored.dtype != array.dtype:
            raise ValueError(f"snapshot of {kind} lacks a fitting array {name!r}")
    for name, array in own.items():
        np.copyto(array, state.arrays[name])
