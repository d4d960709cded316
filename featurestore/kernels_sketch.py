"""Quantile sketches: how many values of which magnitude each tile holds, with bounded relative error.

DDSketch (Masson, Rim and Lee, 2019): a value falls into the bucket ``ceil(log(|value|) / log(gamma))``, and with
gamma = (1 + a) / (1 - a) every bucket has a representative within the relative accuracy a of all its values. When
entries run out, all pairs of neighbouring buckets become one (the uniform collapse of UDDSketch, Epicoco et al.,
2020): gamma is squared, the *level* counts how often. Codes carry the sign, so that they have the order of values.

A sketch is a list of ``tile, code, count``, ascending by tile, then code; so expired tiles are a prefix of it.
"""

from __future__ import annotations

import numpy as np

from domain.batch import Ints
from domain.compiled import compiled
from featurestore.kernels_blob import shift, sketch_head, tile_of
from featurestore.plan import D_HOP, D_KEEP, H_NEWEST, SKETCH_ENTRIES, SKETCH_WORDS, PlanArrays

__all__ = ["ACCURACY", "SMALLEST", "accuracy_at", "add_to_sketch", "code_of", "read_quantile", "value_of"]

ACCURACY = 0.01
"""Relative error of a quantile at level 0."""
SMALLEST = 1e-300
"""Smaller magnitudes count as zero."""

_LOG_GAMMA = float(np.log1p(ACCURACY) - np.log1p(-ACCURACY))
_MIDDLE = 1 << 20
"""Codes are bucket + this (negative values: minus that); the buckets of all doubles lie within 35,500 of 0."""


def accuracy_at(level: int) -> float:
    """Relative error of a quantile after ``level`` collapses: (gamma - 1) / (gamma + 1).

    >>> [round(accuracy_at(level), 3) for level in range(4)]
    [0.01, 0.02, 0.04, 0.08]
    """
    return float(np.tanh(0.5 * _LOG_GAMMA * 2.0**level))


@compiled
def _coarser(code: int, levels: int) -> int:
    """The code of the same values after ``levels`` more collapses."""
    if code > 0:
        return _MIDDLE - ((_MIDDLE - code) >> levels)
    if code < 0:
        return ((_MIDDLE + code) >> levels) - _MIDDLE
    return 0


@compiled
def code_of(value: float, level: int) -> int:
    """The code of a value that is not NaN, at ``level``."""
    magnitude = abs(value)
    if magnitude < SMALLEST:
        return 0
    code = int(np.ceil(np.log(magnitude) / _LOG_GAMMA)) + _MIDDLE
    return _coarser(code if value > 0 else -code, level)


@compiled
def value_of(code: int, level: int) -> float:
    """The representative of a bucket: as far, relatively, from its lower as from its upper end."""
    if code == 0:
        return 0.0
    width = _LOG_GAMMA * 2.0**level
    magnitude = np.exp((abs(code) - _MIDDLE - 1) * width) * 2.0 / (1.0 + np.exp(-width))
    return float(magnitude if code > 0 else -magnitude)


@compiled
def _collapse(words: Ints, start: int, count: int) -> int:
    """Join neighbouring buckets of ``count`` entries; returns how many are left."""
    kept = 0
    for i in range(count):
        at = start + i * SKETCH_WORDS
        code = _coarser(words[at + 1], 1)
        to = start + kept * SKETCH_WORDS
        if kept > 0 and words[to - 3] == words[at] and words[to - 2] == code:
            words[to - 1] += words[at + 2]
        else:
            words[to] = words[at]
            words[to + 1] = code
            words[to + 2] = words[at + 2]
            kept += 1
    return kept


@compiled
def _position(words: Ints, start: int, count: int, tile: int, code: int) -> int:
    """Index of the first entry not below (tile, code)."""
    low, high = 0, count
    while low < high:
        middle = (low + high) >> 1
        at = start + middle * SKETCH_WORDS
        if words[at] < tile or (words[at] == tile and words[at + 1] < code):
            low = middle + 1
        else:
            high = middle
    return low


@compiled
def add_to_sketch(
    words: Ints,
    base: int,
    end: int,
    start: int,
    table: int,
    time: int,
    newest_time: int,
    value: float,
    plan: PlanArrays,
) -> int:
    """Count one value in one sketch; returns by how many words the blob grew (or shrank)."""
    head = sketch_head(base, table, plan)
    before = words[head]
    tile = tile_of(time, plan.tables[table, D_HOP])
    oldest = newest_time // plan.tables[table, D_HOP] - plan.tables[table, D_KEEP]
    if tile < oldest:
        return 0
    expired = 0
    while expired < before and words[start + expired * SKETCH_WORDS] < oldest:
        expired += 1
    if expired > 0:
        shift(words, start + expired * SKETCH_WORDS, end, -expired * SKETCH_WORDS)
    count = before - expired
    if count == 0:
        words[head + 1] = 0
    code = code_of(value, words[head + 1])
    position = _position(words, start, count, tile, code)
    at = start + position * SKETCH_WORDS
    found = position < count and words[at] == tile and words[at + 1] == code
    if not found and count == SKETCH_ENTRIES:
        full = count
        # ends: the planner allows no more tiles than have room at the coarsest level
        while count == SKETCH_ENTRIES:
            count = _collapse(words, start, count)
            words[head + 1] += 1
        gap = (full - count) * SKETCH_WORDS
        shift(words, start + full * SKETCH_WORDS, end - expired * SKETCH_WORDS, -gap)
        code = code_of(value, words[head + 1])
        position = _position(words, start, count, tile, code)
        at = start + position * SKETCH_WORDS
        found = position < count and words[at] == tile and words[at + 1] == code
    if found:
        words[at + 2] += 1
    else:
        shift(words, at, end + (count - before) * SKETCH_WORDS, SKETCH_WORDS)
        words[at] = tile
        words[at + 1] = code
        words[at + 2] = 1
        count += 1
    words[head] = count
    return int((count - before) * SKETCH_WORDS)


@compiled
def _entries(
    words: Ints, base: int, start: int, table: int, lowest: int, highest: int, plan: PlanArrays
) -> tuple[int, int]:
    """First and last + 1 word of the entries in the window's tiles that are still kept."""
    count = words[sketch_head(base, table, plan)]
    if count == 0:
        return 0, 0
    # expired entries lie there until the next value comes
    oldest = words[base + H_NEWEST] // plan.tables[table, D_HOP] - plan.tables[table, D_KEEP]
    low = start + _position(words, start, count, max(lowest, oldest), -2 * _MIDDLE) * SKETCH_WORDS
    high = start + _position(words, start, count, highest + 1, -2 * _MIDDLE) * SKETCH_WORDS
    return low, max(low, high)


@compiled
def read_quantile(
    words: Ints,
    bases: Ints,
    peers: Ints,
    low: int,
    high: int,
    table: int,
    lowest: int,
    highest: int,
    q: float,
    plan: PlanArrays,
    starts: Ints,
) -> float:
    """The bucket in which the cumulated count first exceeds ``q * (n - 1)``; NaN without values.

    Partitions may be at different levels: all are read at the coarsest. Halving the range of codes needs no
    memory and no sorting; the entries are walked once per bit of the range.
    """
    level = 0
    for p in range(low, high):
        head = sketch_head(bases[peers[p]], table, plan)
        if words[head] > 0:
            level = max(level, words[head + 1])
    spans = np.empty((high - low, 3), dtype=np.int64)
    n = 0
    least, greatest = 2 * _MIDDLE, -2 * _MIDDLE
    for p in range(low, high):
        base = bases[peers[p]]
        start = starts[p - low, len(plan.tracks) + table]
        first, stop = _entries(words, base, start, table, lowest, highest, plan)
        levels = level - words[sketch_head(base, table, plan) + 1]
        spans[p - low, 0], spans[p - low, 1], spans[p - low, 2] = first, stop, levels
        for at in range(first, stop, SKETCH_WORDS):
            code = _coarser(words[at + 1], levels)
            least, greatest = min(least, code), max(greatest, code)
            n += words[at + 2]
    if n == 0:
        return np.nan
    rank = q * (n - 1)
    while least < greatest:
        middle = (least + greatest) >> 1
        below = 0
        for p in range(high - low):
            for at in range(spans[p, 0], spans[p, 1], SKETCH_WORDS):
                if _coarser(words[at + 1], spans[p, 2]) <= middle:
                    below += words[at + 2]
        if below > rank:
            greatest = middle
        else:
            least = middle + 1
    return value_of(least, level)
