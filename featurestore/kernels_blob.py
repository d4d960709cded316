"""The blob of one entity: its header, its length, where its sections lie (layout: :mod:`featurestore.plan`).

``words`` and ``floats`` are everywhere two views of the same arena, one as int64, one as float64.
"""

from __future__ import annotations

import numpy as np

from domain.batch import Floats, Ints
from domain.compiled import compiled
from featurestore.plan import (
    DUPLICATE_WORDS,
    H_DUPLICATES,
    H_EVENT,
    H_LABEL,
    H_LAYOUT,
    H_NEWEST,
    H_PROGRESS,
    HEAD,
    T_WORDS,
    PlanArrays,
)

__all__ = ["NEVER", "blob_words", "new_blob", "sections", "shift", "tile_of"]

NEVER = -(2**63)
"""The time of what never happened."""


@compiled
def new_blob(words: Ints, floats: Floats, base: int, plan: PlanArrays) -> None:
    """Write the header of an entity without events."""
    n_tracks, n_tables, n_lasts = len(plan.tracks), len(plan.tables), len(plan.lasts)
    words[base + H_PROGRESS] = 0
    words[base + H_LAYOUT] = plan.layout
    words[base + H_NEWEST] = NEVER
    words[base + H_DUPLICATES] = 0
    words[base + H_EVENT] = -1
    words[base + H_LABEL] = -1
    for i in range(n_tracks + n_tables):
        words[base + HEAD + i] = 0
    for i in range(n_lasts):
        words[base + HEAD + n_tracks + n_tables + 2 * i] = NEVER
        floats[base + HEAD + n_tracks + n_tables + 2 * i + 1] = np.nan


@compiled
def blob_words(words: Ints, base: int, plan: PlanArrays) -> int:
    """Length of a blob, from the counts in its header."""
    n_tracks, n_tables = len(plan.tracks), len(plan.tables)
    size = HEAD + n_tracks + n_tables + 2 * len(plan.lasts)
    for i in range(n_tracks):
        size += words[base + HEAD + i] * plan.tracks[i, T_WORDS]
    for i in range(n_tables):
        size += words[base + HEAD + n_tracks + i] * 2
    return int(size + words[base + H_DUPLICATES] * DUPLICATE_WORDS)


@compiled
def shift(words: Ints, position: int, end: int, by: int) -> None:
    """Move words [position, end) by ``by`` places (either direction)."""
    if by > 0:
        for i in range(end - 1, position - 1, -1):
            words[i + by] = words[i]
    else:
        for i in range(position, end):
            words[i + by] = words[i]


@compiled
def sections(words: Ints, base: int, plan: PlanArrays, starts: Ints, at: int) -> int:
    """Put where each track and distinct table starts into ``starts[at]``; return where duplicates start."""
    n_tracks, n_tables = len(plan.tracks), len(plan.tables)
    position = base + HEAD + n_tracks + n_tables + 2 * len(plan.lasts)
    for i in range(n_tracks):
        starts[at, i] = position
        position += words[base + HEAD + i] * plan.tracks[i, T_WORDS]
    for i in range(n_tables):
        starts[at, n_tracks + i] = position
        position += words[base + HEAD + n_tracks + i] * 2
    return int(position)


@compiled
def tile_of(time: int, hop: int) -> int:
    """``time // hop`` for times below 2**53, several times quicker than the division of integers.

    The quotient of doubles is off by at most one in the last place; the remainder tells and mends it.
    """
    number = int(np.floor(time / hop))
    rest = time - number * hop
    if rest < 0:
        return number - 1
    if rest >= hop:
        return number + 1
    return number
