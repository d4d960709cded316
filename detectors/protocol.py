"""The contract of every detector; ``tests/contract/check_detector.py`` is its executable form."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from detectors.arrays import Arrays
from domain.batch import Floats, Ints

__all__ = ["Detector", "LabelledDetector"]


class Detector(Protocol):
    """Scores rows of a feature matrix; higher is more suspicious.

    Rows are float64[n, features]; NaN means missing. Everything is a pure function of the parameters, the
    seed, and the rows learned so far, in order; splitting the same rows into other batches changes no bit.
    """

    @property
    def ready(self) -> bool:
        """Whether it has seen enough to score."""
        ...

    @property
    def abstains_because(self) -> str | None:
        """Why it is not ready, for people (for example ``warming up: needs 250 events``); None when ready.

        It says no count of its own progress: verdicts carry it, and must not depend on batches.
        """
        ...

    @property
    def last_failure(self) -> str | None:
        """Type of the error for which the newest row got no score although the detector was ready.

        None when that never happened.
        """
        ...

    @property
    def version(self) -> str:
        """Kind and content hash of what it scores with, for example ``isolation_forest-3f2a9c01``.

        Batch detectors: changes at each fit. Online detectors: the hash of kind, parameters and seed, as
        their content moves with every event.
        """
        ...

    def score(self, x: Floats) -> Floats:
        """Scores without learning: float64[n], NaN in every row while not ready. Pure."""
        ...

    def next_change(self) -> int | None:
        """How many more rows can be stepped before version or readiness may change; None: never."""
        ...

    def step(self, x: Floats) -> Floats:
        """Score each row, then learn it, row after row (prequential).

        NaN where it was not ready, and where one row could not be scored (see ``last_failure``).
        """
        ...

    def fit(self, x: Floats) -> None:
        """Learn a whole batch of past rows at once (training for ``backtest --train-until``)."""
        ...

    def snapshot(self) -> Arrays:
        """All state as named arrays and JSON-able scalars; ``restore`` of it gives equal scores for ever."""
        ...

    def restore(self, state: Arrays) -> None:
        """Take over a snapshot. Raises ValueError when it does not fit the parameters."""
        ...


@runtime_checkable
class LabelledDetector(Detector, Protocol):
    """A detector that learns from labels, and from nothing else: ``step`` and ``fit`` teach it nothing.

    It changes only in :meth:`learn_labels`, so its ``next_change`` is None.
    """

    def learn_labels(self, x: Floats, y: Floats, known_at: Ints, now: int) -> None:
        """Learn rows whose labels became known, in that order.

        x         float64[m, features], the vectors as they were scored
        y         float64[m], 0 or 1; rows with anything else are passed over
        known_at  int64[m], UTC microseconds
        now       the moment of the call in event time; may come without rows. Detectors that are fitted do
                  so here when it is due, so the calls must come at moments that do not depend on batches
        """
        ...
