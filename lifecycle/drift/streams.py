"""Stationary streams resampled from a reference: what it would look like if nothing but chance were at work.

A residual bootstrap in blocks (Kuensch, "The jackknife and the bootstrap for general stationary observations", Annals
of Statistics 17, 1989): a cell is what its slot of the season is expected to hold, plus how far other cells, at the
same hour of the day, lay off their own expectation. Blocks (by default a week long) keep what is correlated from cell
to cell. Two blocks are mixed at a random angle, which keeps the variance: a reference has few weeks, and months made
of its weeks alone would never hold a day more unusual than its most unusual one, as real months do.

Each stream gets a *reference of its own*, resampled too: the thresholds then allow for how little a few weeks tell.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from domain.batch import Floats, Ints
from lifecycle.drift.expectation import Expectation, expect
from lifecycle.drift.settings import Cadence

__all__ = ["Stream", "resampled"]


@dataclass(frozen=True, slots=True)
class Stream:
    """The last ``prime`` cells of a reference, ``horizon`` cells after it, and what that reference leads one to expect.

    counts float64[prime + horizon, columns, bins]; slots int64[prime + horizon]
    """

    counts: Floats
    slots: Ints
    expected: Expectation


def resampled(
    counts: Floats,
    first: int,
    expected: Expectation,
    used: Floats,
    cadence: Cadence,
    *,
    count: int,
    seed: int,
    columns: slice = slice(None),
) -> Iterator[Stream]:
    """``count`` streams from the reference ``counts`` (float64[cells, columns, bins]), whose first cell is ``first``.

    The same ``seed`` draws the same blocks whichever ``columns`` are asked for.
    """
    own, used = counts[:, columns], used[columns]
    shares, mids = expected.shares[:, columns], expected.mids[columns]
    cells, season = len(counts), cadence.season
    slots = (first + np.arange(cells)) % season
    events = own.sum(axis=2, keepdims=True)
    off = np.divide(own, events, out=np.zeros_like(own), where=events > 0) - shares[slots]
    off[events[:, 0, 0] == 0] = 0.0
    # residuals about a mean of k cells are too small by this
    cycles = cells // season
    off *= np.sqrt(cycles / (cycles - 1.0))
    length = cadence.horizon
    later = (first + cells + np.arange(-cadence.prime, length)) % season
    rng = np.random.default_rng(seed)

    for _ in range(count):
        before = _like(rng, shares[slots], off, events, cadence)
        after = _like(rng, shares[later[cadence.prime :]], off, events, cadence)
        together = np.concatenate([before[cells - cadence.prime :], after])
        yield Stream(together, later, expect(before, slots, mids, used, cadence))


def _like(rng: np.random.Generator, shares: Floats, off: Floats, events: Floats, cadence: Cadence) -> Floats:
    """Counts around ``shares``, as far off as two blocks of the residuals ``off`` together."""
    cells, block, cycle = len(off), cadence.block, cadence.cycle
    blocks = -(-len(shares) // block)
    starts = cycle * rng.integers(0, cells // cycle, size=(2, blocks))
    angles = np.repeat(rng.uniform(0.0, 2.0 * np.pi, blocks), block)[: len(shares), None, None]
    one, other = (_places(row, block, len(shares), cells) for row in starts)
    counts: Floats = (shares + np.cos(angles) * off[one] + np.sin(angles) * off[other]) * events[one]
    return counts


def _places(starts: Ints, block: int, length: int, cells: int) -> Ints:
    """Places in a reference of ``cells``: a block from each start on, wrapped at its end."""
    places: Ints = (starts[:, None] + np.arange(block)).reshape(-1)[:length] % cells
    return places
