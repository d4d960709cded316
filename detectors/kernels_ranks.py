"""Compiled loops of the rank table: which past scores are served, and where a score stands among them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from domain.batch import Floats, Ints
from domain.compiled import compiled

__all__ = ["COUNT", "END", "SIZE", "place_all", "served_end", "step_ranks"]

COUNT, END, SIZE = 0, 1, 2
"""Cells of a table's int64[3] state: scores taken in, index after the newest served one, number served."""

_LARGEST_BLOCK = 256
_AT_ONCE = 32


@compiled
def served_end(count: int, probation: int) -> int:
    """Index after the newest served score when ``count`` have been taken in.

    The first 32 are served at once. Of all others so far three quarters are on probation, at most
    ``probation``. The rest is served, rounded down to blocks of a sixteenth to a thirty-second of itself, at
    most 256: the sorted window is rebuilt once a block, and as blocks are counted from the first score,
    batches have no part in it.
    """
    end = max(min(count, _AT_ONCE), count - min(probation, count * 3 // 4))
    block = 1
    while block < _LARGEST_BLOCK and end >= 32 * block:
        block *= 2
    return end // block * block


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
def _place(ordered: Floats, size: int, value: float) -> float:
    """(values lower + a part of one half) / (size + 1); the part orders values that fall into one gap.

    In a gap the part is linear; above the greatest value it is e / (1 + e), where e is the excess in units
    of the distance from the median to the greatest. All differences are of halves: they cannot overflow.
    """
    if size == 0:
        return 0.0
    lower = _below(ordered, size, value)
    part = 1.0
    if lower == size:
        top = ordered[size - 1]
        reach = 0.5 * top - 0.5 * ordered[size >> 1]
        excess = 0.5 * value - 0.5 * top
        part = 1.0 - 1.0 / (1.0 + excess / reach) if reach > 0.0 else 1.0
    elif lower == 0:
        part = 1.0 if value == ordered[0] else 0.0
    elif ordered[lower] != value:
        before = ordered[lower - 1]
        part = (0.5 * value - 0.5 * before) / (0.5 * ordered[lower] - 0.5 * before)
    return (lower + 0.5 * part) / (size + 1.0)


@compiled
def _rank(ordered: Floats, size: int, prior: float, value: float) -> float:
    """Place of ``value``, mixed with what an exponential distribution says while the window is not full.

    The latter weighs as much as ``prior`` scores at first and nothing at the end.
    """
    placed = _place(ordered, size, value)
    weight = prior * (1.0 - size / ordered.shape[0])
    if weight <= 0.0:
        return placed
    expected = -float(np.expm1(-max(value, 0.0)))
    mixed: float = (size * placed + weight * expected) / (size + weight)
    return mixed


@compiled
def place_all(ordered: Floats, size: int, minimum: int, prior: float, values: Floats, out: Floats) -> None:
    """Write to out[i] the rank of values[i] in ordered[:size]; NaN if not finite or size < minimum."""
    for i in range(values.shape[0]):
        value = values[i]
        if size < minimum or not np.isfinite(value):
            out[i] = np.nan
        else:
            out[i] = _rank(ordered, size, prior, value)


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
def _serve(ring: Floats, ordered: Floats, spare: Floats, state: Ints, end: int) -> None:
    """Move the served window on, to end before index ``end``."""
    old_end = state[END]
    old_start = old_end - state[SIZE]
    size = min(ordered.shape[0], state[SIZE] + end - old_end)
    # where the window is smaller than a block, the oldest of the block never get in
    fresh = np.empty(min(size, end - old_end))
    gone = np.empty(min(old_end, end - size) - old_start)
    for k in range(fresh.shape[0]):
        fresh[k] = ring[(end - fresh.shape[0] + k) % ring.shape[0]]
    for k in range(gone.shape[0]):
        gone[k] = ring[(old_start + k) % ring.shape[0]]
    fresh.sort()
    gone.sort()
    _merge(ordered, state[SIZE], gone, fresh, spare)
    state[END] = end
    state[SIZE] = size


@compiled
def step_ranks(
    ring: Floats,
    ordered: Floats,
    spare: Floats,
    state: Ints,
    minimum: int,
    probation: int,
    prior: float,
    values: Floats,
    count: npt.NDArray[np.bool_],
    out: Floats,
) -> None:
    """Rank each value, then take it in where ``count`` says so, one after the other; moves ``state`` on.

    ``ring`` holds the newest scores, index i at i modulo its length; it must hold the window, those on
    probation and a block. ``ordered`` holds the served ones sorted.
    """
    for i in range(values.shape[0]):
        value = values[i]
        if not np.isfinite(value):
            out[i] = np.nan
            continue
        out[i] = _rank(ordered, state[SIZE], prior, value) if state[SIZE] >= minimum else np.nan
        if not count[i]:
            continue
        ring[state[COUNT] % ring.shape[0]] = value
        state[COUNT] += 1
        end = served_end(state[COUNT], probation)
        if end > state[END]:
            _serve(ring, ordered, spare, state, end)
