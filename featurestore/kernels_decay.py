"""Sums that fade: every event counts ``2 ** -(age / half-life)`` of what it brought.

The state is one value as it was at a reference time, the newest event in it. It is never carried into the past: a
look at an earlier moment sees it as at the reference.
"""

from __future__ import annotations

import math

import numpy as np

from domain.batch import Floats, Ints
from domain.compiled import compiled
from featurestore.kernels_blob import NEVER, slot_head
from featurestore.plan import V_FIELD, V_HALF_LIFE, PlanArrays

__all__ = ["add_to_decayed", "read_decayed"]


@compiled
def _faded(value: float, age: int, half_life: int) -> float:
    """What is left of ``value`` after ``age`` microseconds, from 0 on."""
    halvings = age / half_life
    # whole halvings are exact, and the last thing done: nothing before the result can be too small for a float
    whole = np.floor(halvings)
    return math.ldexp(value * np.exp2(whole - halvings), -int(min(whole, 9999.0)))


@compiled
def add_to_decayed(
    words: Ints, floats: Floats, base: int, time: int, values: Floats, row: int, plan: PlanArrays
) -> None:
    """Count one event in each decayed sum of an entity; a missing value counts in none."""
    for i in range(plan.n_lasts, len(plan.slots)):
        value = 1.0
        if plan.slots[i, V_FIELD] >= 0:
            value = values[row, plan.slots[i, V_FIELD]]
        if np.isnan(value):
            continue
        at = slot_head(base, i, plan)
        half_life = plan.slots[i, V_HALF_LIFE]
        if words[at] == NEVER:
            words[at] = time
            floats[at + 1] = value
        elif time >= words[at]:
            floats[at + 1] = _faded(floats[at + 1], time - words[at], half_life) + value
            words[at] = time
        else:
            floats[at + 1] += _faded(value, words[at] - time, half_life)


@compiled
def read_decayed(
    words: Ints,
    floats: Floats,
    bases: Ints,
    peers: Ints,
    low: int,
    high: int,
    time: int,
    slot: int,
    plan: PlanArrays,
) -> float:
    """One decayed sum at ``time``, or at the newest reference of the partitions if that is later."""
    half_life = plan.slots[slot, V_HALF_LIFE]
    now = time
    for p in range(low, high):
        now = max(now, words[slot_head(bases[peers[p]], slot, plan)])
    total = 0.0
    for p in range(low, high):
        at = slot_head(bases[peers[p]], slot, plan)
        if words[at] != NEVER:
            total += _faded(floats[at + 1], now - words[at], half_life)
    return total
