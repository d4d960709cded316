"""River's sequential monitors behind one small protocol: a number for each cell in, whether it drifted out.

What they see is :func:`lifecycle.drift.expectation.standardised`: one number a cell, its season taken out. Event
by event they would take each night, and each busy customer, for drift.

ADWIN: Bifet and Gavalda, "Learning from time-changing data with adaptive windowing", SDM 2007. Page-Hinkley: Page,
"Continuous inspection schemes", Biometrika 41 (1954). KSWIN: Raab, Heusinger and Schleif, "Reactive soft prototype
computing for concept drift streams", Neurocomputing 416 (2020).
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from functools import cache
from typing import Any, Protocol

from river import drift
from scipy import stats  # type: ignore[import-untyped]

from lifecycle.drift.settings import Cadence

__all__ = [
    "FORGETTING",
    "LADDER",
    "SEQUENTIAL",
    "SequentialMonitor",
    "adwin",
    "adwin_level",
    "build",
    "ks_strength",
    "strengths",
]

SEQUENTIAL = ("page_hinkley", "adwin", "kswin")
FORGETTING = 0.9999
"""River's default for Page-Hinkley: a value counts half after 7,000 cells."""
LADDER = tuple(step / 4 for step in range(-2, 61))
"""Strengths of ADWIN, -log10 of its delta: River's class does not tell how close it came, so it is asked by trying.
Above a delta of 4.6 its bound is no number for the first windows."""


class SequentialMonitor(Protocol):
    """Watches one column, cell by cell."""

    def update(self, value: float) -> bool:
        """Take the next cell's number; whether it shows drift. After that it has forgotten everything."""
        ...

    def statistic(self) -> float | None:
        """How far it is from its threshold, in the threshold's unit; None: this monitor can not say between alarms."""
        ...

    def resume(self, values: Sequence[float]) -> None:
        """Be as if just made and then updated with ``values``, none of which showed drift."""
        ...


def build(kind: str, threshold: float, cadence: Cadence, seed: int) -> SequentialMonitor:
    """A monitor of that kind that shows drift when its statistic *exceeds* ``threshold``."""
    if kind == "page_hinkley":
        return _PageHinkley(threshold, cadence)
    if kind == "adwin":
        return _Adwin(threshold)
    if kind == "kswin":
        return _Kswin(threshold, cadence, seed)
    raise ValueError(f"unknown monitor {kind!r}; known are {', '.join(SEQUENTIAL)}")


class _PageHinkley:
    """Statistic: the larger of the two cumulated deviations, in standard deviations."""

    def __init__(self, threshold: float, cadence: Cadence) -> None:
        self._threshold = threshold
        self._slack = cadence.slack
        self._resume()

    def _resume(self) -> None:
        self._river: Any = drift.PageHinkley(
            min_instances=1, delta=self._slack, threshold=self._threshold, alpha=FORGETTING
        )

    def update(self, value: float) -> bool:
        self._river.update(value)
        return bool(self._river.drift_detected)

    def statistic(self) -> float | None:
        river = self._river
        if not river._x_mean.n:
            return 0.0
        return float(
            max(river._sum_increase - river._min_increase, river._max_decrease - river._sum_decrease)
        )

    def resume(self, values: Sequence[float]) -> None:
        self._resume()
        for value in values:
            self._river.update(value)


def adwin(strength: float) -> Any:
    """River's ADWIN with delta ``10 ** -strength``, looking for a cut with each value."""
    made: Any = drift.ADWIN  # untyped
    return made(delta=10.0**-strength, clock=1, min_window_length=5, grace_period=10)


def adwin_level(values: Sequence[float], skip: int = 0) -> float:
    """The highest strength of :data:`LADDER` at which ADWIN shows drift in ``values`` after the first ``skip``.

    A step less than the lowest when none does. Up to its first alarm ADWIN's windows do not depend on delta, so that
    the ladder can be searched by halves.
    """
    low, high = -1, len(LADDER) - 1
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if _fires(LADDER[middle], values, skip) else (low, middle - 1)
    return LADDER[low] if low >= 0 else LADDER[0] - 0.25


def _fires(strength: float, values: Sequence[float], skip: int) -> bool:
    river = adwin(strength)
    for at, value in enumerate(values):
        river.update(value)
        if at >= skip and river.drift_detected:
            return True
    return False


class _Adwin:
    """Statistic: -log10 of the smallest delta of the ladder that shows the drift; known only once it does."""

    def __init__(self, threshold: float) -> None:
        self._strength = next((level for level in LADDER if level > threshold), LADDER[-1])
        self._river = adwin(self._strength)
        self._seen: list[float] = []
        self._shown: float | None = None

    def update(self, value: float) -> bool:
        if self._river.drift_detected:
            self._seen.clear()
        self._seen.append(value)
        self._river.update(value)
        fired = bool(self._river.drift_detected)
        self._shown = adwin_level(self._seen, len(self._seen) - 1) if fired else None
        if fired:
            # the cells before may have shown it at other strengths, but not at ours
            self._shown = max(self._shown or self._strength, self._strength)
        return fired

    def statistic(self) -> float | None:
        return self._shown

    def resume(self, values: Sequence[float]) -> None:
        self._river, self._shown = adwin(self._strength), None
        self._seen = list(values)
        for value in values:
            self._river.update(value)


@cache
def ks_strength(steps: int, size: int) -> float:
    """-log10 of the p-value that two samples of ``size`` differ by ``steps / size`` (Kolmogorov-Smirnov)."""
    if steps <= 0:
        return 0.0
    p = stats.ks_2samp(range(size), range(steps, steps + size), method="auto").pvalue
    return -math.log10(max(float(p), 1e-300))


def strengths(size: int) -> list[float]:
    """:func:`ks_strength` of 0 to ``size`` steps."""
    return [ks_strength(steps, size) for steps in range(size + 1)]


class _Kswin:
    """Statistic: -log10 of the p-value with which the latest cells differ from a sample of those before."""

    def __init__(self, threshold: float, cadence: Cadence, seed: int) -> None:
        self._size, self._latest, self._seed = cadence.recent, cadence.latest, seed
        above = [found for found in strengths(self._latest) if found > threshold]
        # a hair more than the p-value of the first step above the threshold, and less than that of the step below
        self._alpha = 10.0 ** -above[0] * (1.0 + 1e-9) if above else 0.0
        self._river = self._fresh(())

    def _fresh(self, window: Sequence[float]) -> Any:
        return drift.KSWIN(
            alpha=self._alpha,
            window_size=self._size,
            stat_size=self._latest,
            seed=self._seed,
            window=list(window),
        )

    def update(self, value: float) -> bool:
        self._river.update(value)
        return bool(self._river.drift_detected)

    def statistic(self) -> float | None:
        if len(self._river.window) < self._size and not self._river.drift_detected:
            return 0.0
        return -math.log10(min(max(float(self._river.p_value), 1e-300), 1.0)) + 0.0

    def resume(self, values: Sequence[float]) -> None:
        # its tests cost a millisecond each; all they leave behind are the window and what was drawn
        if len(values) < self._size:
            self._river = self._fresh(values)
            return
        self._river = self._fresh(deque(values[:-1], maxlen=self._size))
        for _ in range(len(values) - self._size):
            self._river._rng.sample(range(self._size - self._latest), self._latest)
        self._river.update(values[-1])
