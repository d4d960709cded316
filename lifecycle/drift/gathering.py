"""A reference in the making: first values that decide about the bins, then the counts of its cells."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from domain.batch import Floats, Ints
from lifecycle.drift.calibration import calibrate
from lifecycle.drift.expectation import expect, standardised, used_bins
from lifecycle.drift.histogram import digitise, edges_of, mid_ranks, width_of
from lifecycle.drift.paths import least_events
from lifecycle.drift.settings import Cadence
from lifecycle.drift.watch import Reference

__all__ = ["Ahead", "Gathering", "Keys", "count_into"]

Keys = npt.NDArray[np.uint64]


AHEAD_BYTES = 2_000_000
"""Of values that wait for the bins to be decided; they are part of the state."""


def count_into(
    open_cells: dict[int, Floats], cells: Ints, x: Floats, weight: Floats, edges: tuple[Floats, ...]
) -> None:
    """Add rows to the histograms of their cells; a ``weight`` of -1 takes a row back."""
    columns, width = len(edges), width_of(edges)
    places = digitise(x, edges) + width * np.arange(columns)
    for cell in np.unique(cells).tolist():
        rows = cells == cell
        flat = places[rows].reshape(-1)
        weights = np.repeat(weight[rows], columns)
        counted: Floats = np.bincount(flat, weights, columns * width).astype(np.float64)
        counted = counted.reshape(columns, width)
        if cell in open_cells:
            open_cells[cell] += counted
        else:
            open_cells[cell] = counted


@dataclass(frozen=True, slots=True)
class Ahead:
    """Rows that came before the bins were decided, because another partition lags behind."""

    cells: Ints
    x: Floats
    weight: Floats


class Gathering:
    """Gathers from ``first`` on: ``warm_up`` cells for the bins, then ``cadence.reference`` cells.

    The rows that decide about the bins are those with the smallest keys: keys are hashes of the rows' names, so it is
    a fair sample, and the same one in whatever order rows come (unless more than :data:`AHEAD_BYTES` come too early).
    """

    def __init__(self, first: int, warm_up: int, columns: int, cadence: Cadence) -> None:
        self.first = first
        self.warm_up = warm_up
        self._cadence = cadence
        self.keys: Keys = np.empty(0, dtype=np.uint64)
        self.sample: Floats = np.empty((0, columns))
        self.ahead: list[Ahead] = []
        self.edges: tuple[Floats, ...] | None = None
        self.open: dict[int, Floats] = {}
        self.counts: list[Floats] = []

    @property
    def starts(self) -> int:
        """The first cell of the reference."""
        return self.first + self.warm_up

    @property
    def complete(self) -> bool:
        """Whether all cells of the reference are closed."""
        return len(self.counts) >= self._cadence.reference

    def add(self, cells: Ints, keys: Keys, x: Floats, weight: Floats) -> None:
        """Take rows of cells that are not closed."""
        early = (cells >= self.first) & (cells < self.starts)
        if early.any() and self.edges is None:
            self.keys = np.concatenate([self.keys, keys[early]])
            self.sample = np.concatenate([self.sample, x[early]])
            if len(self.keys) > 2 * self._cadence.sample:
                self._thin()
        # those after its end are what the finished reference judges first
        counted = cells >= self.starts
        if counted.any():
            rows = Ahead(cells[counted], x[counted], weight[counted])
            if self.edges is None:
                self.ahead.append(rows)
                if sum(part.x.nbytes for part in self.ahead) > AHEAD_BYTES:
                    self._fix()
            else:
                count_into(self.open, rows.cells, rows.x, rows.weight, self.edges)

    def close(self, cell: int) -> None:
        """No more rows of ``cell`` will come."""
        if cell >= self.starts - 1:
            self._fix()
        if self.complete or cell < self.starts:
            return
        assert self.edges is not None  # noqa: S101  (_fix sets it)
        empty = np.zeros((len(self.edges), width_of(self.edges)))
        self.counts.append(self.open.pop(cell, empty))

    def _thin(self) -> None:
        order = np.argsort(self.keys, kind="stable")[: self._cadence.sample]
        self.keys, self.sample = self.keys[order], self.sample[order]

    def _fix(self) -> None:
        if self.edges is None:
            self._thin()
            bins = self._cadence.bins
            self.edges = tuple(edges_of(column, bins) for column in self.sample.T)
            self.keys, self.sample = self.keys[:0], self.sample[:0]
            for rows in self.ahead:
                count_into(self.open, rows.cells, rows.x, rows.weight, self.edges)
            self.ahead = []

    def thin(self) -> str | None:
        """Why what was gathered can not be a reference; None when it can."""
        held = np.array([counts[0].sum() for counts in self.counts])
        filled = float((held >= self._cadence.min_cell).mean())
        if filled >= 0.5:
            return None
        return (
            f"only {filled:.0%} of its cells hold {self._cadence.min_cell} events or more; "
            "declare a longer cell, or wait for more traffic"
        )

    def reference(self, *, per_month: float, spells: int, simulations: int, seed: int) -> Reference:
        """The finished reference, calibrated (:func:`lifecycle.drift.calibration.calibrate`): seconds to minutes."""
        if self.edges is None or not self.complete:
            raise RuntimeError("the reference is not complete; close its cells first")
        cadence = self._cadence
        counts = np.stack(self.counts)
        used = used_bins(list(self.edges), width_of(self.edges))
        slots = (self.starts + np.arange(len(counts))) % cadence.season
        expected = expect(counts, slots, mid_ranks(counts.sum(axis=0)), used, cadence)
        least = least_events(counts, cadence)
        calibration = calibrate(
            counts,
            self.starts,
            expected,
            used,
            cadence,
            least=least,
            spells=spells,
            per_month=per_month,
            simulations=simulations,
            seed=seed,
        )
        name = hashlib.sha256(np.array([self.starts, seed]).tobytes())
        for part in (counts, *self.edges, calibration.thresholds):
            name.update(np.ascontiguousarray(part).tobytes())
        return Reference(
            id=f"r-{name.hexdigest()[:12]}",
            first=self.starts,
            last=self.starts + len(counts) - 1,
            edges=self.edges,
            used=used,
            expected=expected,
            calibration=calibration,
            prime=standardised(counts[-cadence.prime :], slots[-cadence.prime :], expected, cadence),
            least=least,
            tail=counts[-cadence.window :],
        )
