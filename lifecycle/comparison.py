"""Which of two rankings of the same events is better, and how sure is that? Pure functions over arrays.

The paired bootstrap draws whole blocks of rows with replacement and measures both rankings on each draw, so what both
find easy or hard cancels out (Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, chapter 13; blocks:
Davison and Hinkley, 1997, section 3.8). A dummy is measured on the same draws: chance is a contestant, not a formula.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from domain.batch import Floats, Ints
from lifecycle.evaluation import DAY, Bools, Interval, Ranks

__all__ = ["Comparison", "Contest", "blocks_of", "contest"]

_FEW_BLOCKS = 10
_HOUR = 3_600_000_000
_DUMMIES = 5
"""Random rankings that take turns over the draws: one alone could be lucky on a slice with few positives."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """First minus second, in average precision; ``interval`` None when it can not be estimated."""

    difference: float
    interval: Interval | None

    @property
    def low(self) -> float:
        """The lower end; minus infinity when there is none, so that nothing is shown."""
        return -np.inf if self.interval is None else self.interval.low


@dataclass(frozen=True, slots=True)
class Contest:
    """Average precision of challenger, champion and dummy, and the challenger against both."""

    challenger: float
    champion: float
    dummy: float
    challenger_interval: Interval | None
    champion_interval: Interval | None
    to_champion: Comparison
    to_dummy: Comparison
    blocks: int


def blocks_of(times: Ints, entities: Ints | None) -> Ints:
    """int64[n]: which rows depend on each other. Entities where they are known, else days, of few days hours."""
    if entities is not None and len(np.unique(entities)) >= _FEW_BLOCKS:
        return entities
    days: Ints = times // DAY
    if len(np.unique(days)) >= _FEW_BLOCKS:
        return days
    hours: Ints = times // _HOUR
    return hours


def contest(
    challenger: Floats,
    champion: Floats,
    labels: Bools,
    blocks: Ints,
    *,
    replicates: int,
    level: float,
    seed: int,
) -> Contest:
    """Measure both rankings (float64[n], NaN = no score, ranks last) and a dummy on the same draws of ``blocks``."""
    rng = np.random.default_rng(seed)
    first, second = Ranks(challenger, labels), Ranks(champion, labels)
    dummies = [Ranks(rng.random(len(labels)), labels) for _ in range(_DUMMIES)]
    _, codes = np.unique(blocks, return_inverse=True)
    n_blocks = int(codes.max()) + 1 if len(codes) else 0
    drawn = np.full((replicates if n_blocks >= 2 else 0, 3), np.nan)
    for i in range(len(drawn)):
        weights = np.bincount(rng.integers(0, n_blocks, n_blocks), minlength=n_blocks).astype(np.float64)[
            codes
        ]
        drawn[i] = [ranks.areas(weights)[1] for ranks in (first, second, dummies[i % _DUMMIES])]
    own, other = first.areas()[1], second.areas()[1]
    chance = float(np.mean([dummy.areas()[1] for dummy in dummies]))
    return Contest(
        challenger=own,
        champion=other,
        dummy=chance,
        challenger_interval=_interval(drawn[:, 0], level),
        champion_interval=_interval(drawn[:, 1], level),
        to_champion=Comparison(own - other, _interval(drawn[:, 0] - drawn[:, 1], level)),
        to_dummy=Comparison(own - chance, _interval(drawn[:, 0] - drawn[:, 2], level)),
        blocks=n_blocks,
    )


def _interval(values: Floats, level: float) -> Interval | None:
    defined = values[~np.isnan(values)]
    if len(defined) < 2:
        return None
    low, high = np.quantile(defined, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(low), float(high), level)
