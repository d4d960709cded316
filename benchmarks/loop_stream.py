"""A made-up stream whose fraud changes its habits from one hour to the next, or never.

Until ``turn`` frauds are large payments from far away; from then on they are ordinary payments to young accounts after
several tries. Honest traffic does not change. Both kinds overlap with honest events, so nobody can find all of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from domain.clock import from_micros

__all__ = ["DAY", "Event", "LoopStream"]

DAY = 86_400_000_000


@dataclass(frozen=True, slots=True)
class Event:
    """One event: what is sent, when it happened (UTC microseconds), and what it turns out to be."""

    record: dict[str, Any]
    time: int
    fraud: bool


@dataclass(frozen=True, slots=True)
class LoopStream:
    """``per_day`` events from ``start`` on, a share of them fraud. The same numbers give the same events."""

    start: int
    per_day: int = 2_000
    share: float = 0.03
    turn: float | None = None
    accounts: int = 300
    seed: int = 0

    def day(self, number: int) -> Iterator[Event]:
        """The events of day ``number`` (from 0), in order of time."""
        rng = np.random.default_rng((self.seed, number))
        n = self.per_day
        times = self.start + number * DAY + np.sort(rng.integers(0, DAY, n))
        fraud = rng.random(n) < self.share
        turned = (
            np.zeros(n, dtype=np.bool_) if self.turn is None else times >= self.start + round(self.turn * DAY)
        )
        old, new = fraud & ~turned, fraud & turned
        amount = rng.lognormal(3.5, 0.8, n) * np.where(old, rng.lognormal(2.3, 0.5, n), 1.0)
        distance = rng.exponential(20.0, n) * np.where(old, rng.lognormal(2.1, 0.6, n), 1.0)
        age = np.where(new, rng.exponential(40.0, n), rng.gamma(2.0, 300.0, n))
        tries = 1 + rng.poisson(np.where(new, 3.0, 0.4))
        account = rng.integers(0, self.accounts, n)
        for i in range(n):
            time = int(times[i])
            record = {
                "id": f"d{number}-{i}",
                "at": from_micros(time).isoformat(),
                "account": f"a{account[i]}",
                "amount": round(float(amount[i]), 2),
                "distance": round(float(distance[i]), 2),
                "age": round(float(age[i]), 2),
                "tries": int(tries[i]),
            }
            yield Event(record, time, bool(fraud[i]))
