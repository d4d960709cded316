"""One reference and the monitors that compare traffic with it, cell by cell."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from domain.batch import Floats, Ints
from lifecycle.drift.calibration import Calibration
from lifecycle.drift.expectation import Expectation, standardised
from lifecycle.drift.histogram import ks, mean_rank, psi
from lifecycle.drift.paths import KINDS, WINDOWED
from lifecycle.drift.sequential import SEQUENTIAL, SequentialMonitor, build
from lifecycle.drift.settings import Cadence

__all__ = ["HISTORY", "Moved", "Reference", "Watch"]

HISTORY = 168
"""Cells whose statistics are kept, to show them and to find since when something moved."""


@dataclass(frozen=True, slots=True)
class Reference:
    """What traffic is compared with.

    ``id`` names it; ``first`` and ``last`` are its cells. ``prime`` (float64[prime, columns]) are the standardised
    means of its last cells, ``tail`` (float64[window, columns, bins]) the counts of the last of them. Windows of fewer
    than ``least`` events are not compared.
    """

    id: str
    first: int
    last: int
    edges: tuple[Floats, ...]
    used: Floats
    expected: Expectation
    calibration: Calibration
    prime: Floats
    tail: Floats
    least: float


@dataclass(frozen=True, slots=True)
class Moved:
    """A column left its limits in ``cell``; ``exceeded`` are (kind, statistic, threshold), ``since`` a cell.

    ``expected`` and ``current`` are the window's counts (float64[bins]).
    """

    column: int
    cell: int
    since: int
    exceeded: tuple[tuple[str, float, float], ...]
    expected: Floats
    current: Floats
    shift: float


@dataclass(slots=True)
class Column:
    """The sequential monitors of one column.

    ``log`` holds what they were given, ``starts`` from which place on each of them remembers it: all there is to their
    state, so that it can be written down. ``alarmed`` is the cell of the last alarm.
    """

    log: list[float]
    starts: list[int] = field(default_factory=lambda: [0] * len(SEQUENTIAL))
    alarmed: int | None = None
    over: list[bool] = field(default_factory=lambda: [False] * len(WINDOWED))


class Watch:
    """Compares cells with ``reference``, in their order from the one after it on.

    ``cool_down`` is in cells. :attr:`next_cell` is the first that is not compared yet.
    """

    def __init__(self, reference: Reference, cadence: Cadence, *, cool_down: int, seed: int) -> None:
        self.reference = reference
        self.cadence = cadence
        self.next_cell = reference.last + 1
        self._cool_down = cool_down
        self._seed = seed
        self.ring = reference.tail.copy()
        self.columns = [Column(path) for path in reference.prime.T.tolist()]
        count = len(self.columns)
        # of each of the last cells: standardised mean, distance from its slot, statistics
        self.means = np.zeros((0, count))
        self.distances = np.zeros((0, count))
        self.statistics = np.zeros((0, count, len(KINDS)))
        self._monitors: list[list[SequentialMonitor]] = []
        self.revive()

    def revive(self) -> None:
        """Make the sequential monitors what their columns' logs say they are."""
        self._monitors = [self._built(number) for number in range(len(self.columns))]

    def _built(self, number: int) -> list[SequentialMonitor]:
        column = self.columns[number]
        thresholds = self.reference.calibration.thresholds[number, len(WINDOWED) :]
        made = []
        for kind, threshold, start in zip(SEQUENTIAL, thresholds.tolist(), column.starts, strict=True):
            monitor = build(kind, threshold, self.cadence, self._seed)
            monitor.resume(column.log[start:])
            made.append(monitor)
        return made

    def skip_to(self, cell: int) -> None:
        """Pass over cells up to ``cell`` (exclusive) in which nothing came."""
        self.ring[:] = 0.0
        self.next_cell = max(self.next_cell, cell)

    def step(self, counts: Floats) -> list[Moved]:
        """Take the next cell's counts (float64[columns, bins]) and say which columns raise an alarm."""
        cell, cadence, reference = self.next_cell, self.cadence, self.reference
        self.next_cell += 1
        self.ring = np.concatenate([self.ring[1:], counts[None]])
        slots = np.arange(cell - cadence.window + 1, cell + 1) % cadence.season
        z = standardised(counts[None], slots[-1:], reference.expected, cadence)[0]
        expected, current = self._window(slots)
        distance = ks(counts, reference.expected.shares[slots[-1]])
        windowed = self._windowed(expected, current)
        statistics = np.full((len(self.columns), len(KINDS)), np.nan)
        statistics[:, : len(WINDOWED)] = windowed
        fired = [
            self._sequential(number, float(z[number]), statistics) for number in range(len(self.columns))
        ]
        self.means = _kept(self.means, z)
        self.distances = _kept(self.distances, distance)
        self.statistics = _kept(self.statistics, statistics)
        return [
            self._moved(number, cell, exceeded, expected[number], current[number])
            for number in range(len(self.columns))
            if (exceeded := self._exceeded(number, cell, statistics[number], fired[number]))
        ]

    def _window(self, slots: Ints) -> tuple[Floats, Floats]:
        held = self.ring.sum(axis=2, keepdims=True)
        expected: Floats = (self.reference.expected.shares[slots] * held).sum(axis=0)
        return expected, np.maximum(self.ring.sum(axis=0), 0.0)

    def _windowed(self, expected: Floats, current: Floats) -> Floats:
        enough = expected.sum(axis=1) >= self.reference.least
        both = np.stack([psi(current, expected, self.reference.used), ks(current, expected)], axis=1)
        return np.where(enough[:, None], both, 0.0)

    def _sequential(self, number: int, value: float, statistics: Floats) -> list[bool]:
        column, cadence = self.columns[number], self.cadence
        if len(column.log) >= cadence.prime + cadence.horizon:
            # as long as the simulated streams; then they begin again, with the latest cells
            dropped = len(column.log) - cadence.prime
            column.log = column.log[dropped:]
            column.starts = [max(0, start - dropped) for start in column.starts]
            self._monitors[number] = self._built(number)
        column.log.append(value)
        fired = []
        for place, monitor in enumerate(self._monitors[number]):
            fired.append(monitor.update(value))
            found = monitor.statistic()
            statistics[number, len(WINDOWED) + place] = np.nan if found is None else found
            if fired[-1]:
                column.starts[place] = len(column.log)
        return fired

    def _exceeded(
        self, number: int, cell: int, statistics: Floats, fired: list[bool]
    ) -> tuple[tuple[str, float, float], ...]:
        column = self.columns[number]
        thresholds = self.reference.calibration.thresholds[number]
        over = (statistics[: len(WINDOWED)] > thresholds[: len(WINDOWED)]).tolist()
        # what stays beyond its limit was told when it went there
        news = [now and not before for now, before in zip(over, column.over, strict=True)] + fired
        column.over = over
        if not any(news) or (column.alarmed is not None and cell - column.alarmed < self._cool_down):
            return ()
        column.alarmed = cell
        beyond = [*over, *fired]
        return tuple(
            (kind, float(statistics[place]), float(thresholds[place]))
            for place, kind in enumerate(KINDS)
            if beyond[place]
        )

    def _moved(
        self,
        number: int,
        cell: int,
        exceeded: tuple[tuple[str, float, float], ...],
        expected: Floats,
        current: Floats,
    ) -> Moved:
        mids = self.reference.expected.mids[number : number + 1]
        both = mean_rank(np.stack([current, expected])[:, None, :], mids)
        by_mean = any(kind in SEQUENTIAL for kind, _, _ in exceeded)
        path = (self.means if by_mean else self.distances)[:, number]
        return Moved(
            number,
            cell,
            cell - (len(path) - 1) + _change(path),
            exceeded,
            expected,
            current,
            float(both[0, 0] - both[1, 0]),
        )

    @property
    def thresholds(self) -> Mapping[str, Floats]:
        """By kind, float64[columns]."""
        return {kind: self.reference.calibration.thresholds[:, place] for place, kind in enumerate(KINDS)}


def _kept(past: Floats, row: Floats) -> Floats:
    return np.concatenate([past[-(HISTORY - 1) :], row[None]])


def _change(path: Floats) -> int:
    """The place in ``path`` from which on its mean differs most plainly from that before (like Pettitt's test)."""
    if len(path) < 2:
        return 0
    sums = np.cumsum(path - path.mean())[:-1]
    ahead = np.arange(1, len(path))
    # the same scale for cuts near the ends as for those in the middle, within reason
    scale = np.sqrt(ahead * (len(path) - ahead) + len(path))
    return int(np.argmax(np.abs(sums) / scale)) + 1
