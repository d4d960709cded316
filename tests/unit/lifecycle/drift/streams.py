"""Small streams with days in them, for tests of drift monitors."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from domain.batch import Floats, Ints
from lifecycle.drift.bank import Bank, Rule
from lifecycle.drift.gathering import Keys
from lifecycle.drift.settings import DAY, Cadence
from lifecycle.drift.watch import Moved

__all__ = ["SMALL", "hours", "keys", "play", "small_bank"]

SMALL = replace(
    Cadence.hourly(reference_days=8, warm_up_days=1),
    horizon=120,
    prime=48,
    recent=24,
    latest=8,
    block=48,
    min_window=20,
    floor=0.09,
)
"""Hours with a daily season, and a reference of eight days."""


def small_bank(columns: int = 2, seed: int = 7, per_month: float = 0.1) -> Bank:
    rule = Rule(per_month=per_month, simulations=30, cool_down=3 * DAY, seed=seed)
    return Bank(columns, SMALL, rule)


def hours(
    count: int, *, seed: int, columns: int = 2, first: int = 0, shift: float = 0.0, events: int = 40
) -> tuple[Ints, Floats]:
    """Cells and rows of ``count`` hours: busy days, quiet nights, and values that rise and fall with the day."""
    rng = np.random.default_rng([seed, first])
    cells = first + np.arange(count)
    wave = np.sin(2 * np.pi * cells / 24)
    each = rng.poisson(events * (1.0 + 0.6 * wave))
    rows = np.repeat(cells, each)
    x = rng.normal(0.0, 1.0, (len(rows), columns)) + 0.7 * np.repeat(wave, each)[:, None]
    x[:, 0] += shift
    return rows, x


def keys(count: int, seed: int) -> Keys:
    return np.random.default_rng(seed).integers(0, 2**63, count).astype(np.uint64)


def play(bank: Bank, rows: Ints, x: Floats, *, seed: int = 0) -> list[Moved]:
    """Give the bank everything, hour by hour."""
    named = keys(len(rows), seed)
    moved: list[Moved] = []
    for cell in range(int(rows.min()), int(rows.max()) + 1):
        own = rows == cell
        bank.add(rows[own], named[own], x[own])
        moved += bank.close_until(cell + 1)
    return moved
