"""The columns of one cadence from the first event on: gather a reference, watch, alarm, gather the next one.

After an alarm what is usual may have changed for good. So a successor is gathered beside the reference, from the alarm
on; once it is complete and calibrated it takes over. Until then the old one judges, and a column that has alarmed stays
silent as long as it stays where it is.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from domain.batch import Floats, Ints
from lifecycle.drift.gathering import Gathering, Keys, count_into
from lifecycle.drift.histogram import width_of
from lifecycle.drift.settings import Cadence
from lifecycle.drift.watch import Moved, Watch

__all__ = ["Bank", "Rule"]

MOST_SPELLS = 30
"""Of a simulated month: with hardly any cool-down, what stays beyond its limit is told once a day at most."""


@dataclass(frozen=True, slots=True)
class Rule:
    """How a bank is calibrated. ``cool_down`` is in microseconds."""

    per_month: float
    simulations: int
    cool_down: int
    seed: int


class Bank:
    """``columns`` values of each event, compared under ``cadence``.

    Rows come in any order within open cells; :meth:`close_until` closes cells for good.
    """

    def __init__(self, columns: int, cadence: Cadence, rule: Rule) -> None:
        self.cadence = cadence
        self.rule = rule
        self.column_count = columns
        self.watch: Watch | None = None
        self.gathering: Gathering | None = None
        self.open: dict[int, Floats] = {}
        self.next_cell: int | None = None
        self.late = 0
        self.note: str | None = None

    def add(self, cells: Ints, keys: Keys, x: Floats, weight: Floats | None = None) -> None:
        """Take rows ``x`` (float64[n, columns], NaN missing) of ``cells``, named by ``keys`` (hashes, uint64[n]).

        Rows of closed cells are left out and counted (:attr:`late`).
        """
        if not len(cells):
            return
        if self.next_cell is None:
            self.next_cell = int(cells.min())
        if self.watch is None and self.gathering is None:
            self.gathering = Gathering(self.next_cell, self.cadence.warm_up, self.column_count, self.cadence)
        weight = np.ones(len(cells)) if weight is None else weight
        fresh = cells >= self.next_cell
        if not fresh.all():
            self.late += int((~fresh).sum())
            cells, keys, x, weight = cells[fresh], keys[fresh], x[fresh], weight[fresh]
        if self.gathering is not None:
            self.gathering.add(cells, keys, x, weight)
        if self.watch is not None:
            count_into(self.open, cells, x, weight, self.watch.reference.edges)

    def close_until(self, cell: int) -> list[Moved]:
        """Close all cells before ``cell``; the alarms they raise."""
        if self.next_cell is None or cell <= self.next_cell:
            return []
        self._pass_over(cell)
        moved: list[Moved] = []
        while self.next_cell < cell:
            moved += self._close(self.next_cell)
            self.next_cell += 1
        return moved

    def _close(self, cell: int) -> list[Moved]:
        moved: list[Moved] = []
        if self.watch is not None and cell >= self.watch.next_cell:
            edges = self.watch.reference.edges
            empty = np.zeros((len(edges), width_of(edges)))
            moved = self.watch.step(self.open.pop(cell, empty))
        if self.gathering is not None:
            self.gathering.close(cell)
            if self.gathering.complete:
                self._take_over(cell)
        if moved and self.gathering is None:
            self.gathering = Gathering(cell + 1, self.cadence.window, self.column_count, self.cadence)
        return moved

    def _take_over(self, cell: int) -> None:
        gathered, self.gathering = self.gathering, None
        assert gathered is not None  # noqa: S101  (the only caller looks)
        self.note = gathered.thin()
        if self.note is not None:
            warm_up = self.cadence.warm_up if self.watch is None else self.cadence.window
            self.gathering = Gathering(cell + 1, warm_up, self.column_count, self.cadence)
            return
        cool_down = -(-self.rule.cool_down // self.cadence.cell)
        reference = gathered.reference(
            per_month=self.rule.per_month,
            spells=min(MOST_SPELLS, self.cadence.horizon, -(-self.cadence.horizon // max(cool_down, 1))),
            simulations=self.rule.simulations,
            seed=self.rule.seed,
        )
        self.watch = Watch(reference, self.cadence, cool_down=cool_down, seed=self.rule.seed)
        self.open = gathered.open

    def _pass_over(self, cell: int) -> None:
        """A silence longer than anything that is remembered is passed over at once."""
        assert self.next_cell is not None  # noqa: S101  (the only caller looks)
        longest = self.cadence.horizon + self.cadence.reference
        if cell - self.next_cell <= longest or any(at < cell for at in self._waiting()):
            return
        self.next_cell = cell
        if self.watch is not None:
            self.watch.skip_to(cell)
        if self.gathering is not None:
            warm_up = self.gathering.warm_up
            self.gathering = Gathering(cell, warm_up, self.column_count, self.cadence)

    def _waiting(self) -> list[int]:
        return [*self.open, *(self.gathering.open if self.gathering else ())]
