"""Compiled loops of the rank table: a sliding window kept both in order of arrival and sorted."""

from __future__ import annotations

import numpy as np

from domain.batch import Floats
from domain.compiled import compiled

__all__ = ["average", "count_below", "step_ranks"]


@compiled
def _below(ordered: Floats, size: int, value: float) -> int:
    """How many of the sorted values are lower."""
    low = 0
    high = size
    while low < high:
        middle = (low + high) >> 1
        if ordered[middle] < value:
            low = middle + 1
        else:
            high = middle
    return low


@compiled
def count_below(ordered: Floats, size: int, minimum: int, values: Floats, out: Floats) -> None:
    """Write to out[i] the rank of values[i] in ordered[:size]; NaN if not finite or size < minimum."""
    for i in range(values.shape[0]):
        value = values[i]
        if size < minimum or not np.isfinite(value):
            out[i] = np.nan
        else:
            out[i] = (_below(ordered, size, value) + 0.5) / (size + 1.0)


@compiled
def _swap(ordered: Floats, size: int, old: float, new: float) -> None:
    """Take ``old`` out of the sorted values and put ``new`` in, moving only what lies between."""
    hole = _below(ordered, size, old)
    place = _below(ordered, size, new)
    # Plain loops without a comparison become block moves.
    if place > hole:
        place -= 1
        for i in range(hole, place):
            ordered[i] = ordered[i + 1]
    else:
        for i in range(hole, place, -1):
            ordered[i] = ordered[i - 1]
    ordered[place] = new


@compiled
def _merge(ordered: Floats, size: int, gone: Floats, fresh: Floats, spare: Floats) -> None:
    """ordered[:size] without ``gone`` (all of it is there) and with ``fresh``; both sorted."""
    kept = 0
    g = 0
    for i in range(size):
        value = ordered[i]
        if g < gone.shape[0] and value == gone[g]:
            g += 1
        else:
            spare[kept] = value
            kept += 1
    i = 0
    f = 0
    total = kept + fresh.shape[0]
    for at in range(total):
        if f >= fresh.shape[0] or (i < kept and spare[i] <= fresh[f]):
            ordered[at] = spare[i]
            i += 1
        else:
            ordered[at] = fresh[f]
            f += 1


@compiled
def step_ranks(
    ring: Floats,
    ordered: Floats,
    spare: Floats,
    start: int,
    size: int,
    minimum: int,
    values: Floats,
    out: Floats,
) -> tuple[int, int]:
    """Rank each value among the window before it, then add it; returns the new (start, size).

    ``ring`` holds the window in order of arrival from ``start``, ``ordered`` the same values sorted. The
    values are taken one after the other in meaning, but the sorted window is rebuilt once for all of
    them: a rank is the count in the old window, minus those that have left since, plus those that came.
    The caller passes at most ``ring.shape[0]`` values.
    """
    window = ring.shape[0]
    n = values.shape[0]
    fresh = np.empty(n)
    came = 0
    before = size
    # Values that leave are the oldest of the window: gone[k] leaves when the k-th too many comes.
    for i in range(n):
        value = values[i]
        if not np.isfinite(value):
            out[i] = np.nan
            continue
        left = max(0, before + came - window)
        now = before + came - left
        if now < minimum:
            out[i] = np.nan
        else:
            below = _below(ordered, before, value)
            for k in range(came):
                below += fresh[k] < value
            first = start + left
            if first <= window:
                for k in range(start, first):
                    below -= ring[k] < value
            else:
                for k in range(start, window):
                    below -= ring[k] < value
                for k in range(first - window):
                    below -= ring[k] < value
            out[i] = (below + 0.5) / (now + 1.0)
        fresh[came] = value
        came += 1
    left = max(0, before + came - window)
    if came == 1 and left == 1:
        _swap(ordered, size, ring[start], fresh[0])
    elif came > 0:
        gone = np.empty(left)
        for k in range(left):
            gone[k] = ring[(start + k) % window]
        gone.sort()
        added = np.sort(fresh[:came])
        _merge(ordered, size, gone, added, spare)
    for k in range(came):
        ring[(start + before + k) % window] = fresh[k]
    return (start + left) % window, before + came - left


@compiled
def average(ranks: Floats, out: Floats) -> None:
    """Write to out[i] the mean of the ranks in row i that are not NaN, summed left to right, or NaN."""
    for i in range(ranks.shape[0]):
        total = 0.0
        count = 0
        for j in range(ranks.shape[1]):
            if not np.isnan(ranks[i, j]):
                total += ranks[i, j]
                count += 1
        out[i] = total / count if count else np.nan
