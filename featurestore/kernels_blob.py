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
    SKETCH_WORDS,
    T_WORDS,
    PlanArrays,
)

__all__ = ["NEVER", "blob_words", "new_blob", "sections", "shift", "sketch_head", "slot_head", "tile_of"]

NEVER = -(2**63)
"""The time of what never happened."""


@compiled
def sketch_head(base: int, table: int, plan: PlanArrays) -> int:
    """Where (entries, level) of a sketch lie; ``table`` counts the distinct tables before it too."""
    return base + HEAD + len(plan.tracks) + 2 * table - plan.n_distinct


@compiled
def slot_head(base: int, slot: int, plan: PlanArrays) -> int:
    """Where (time, value) of a slot lie: a last value or a decayed sum."""
    return base + HEAD + len(plan.tracks) + 2 * (len(plan.tables) + slot) - plan.n_distinct


@compiled
def new_blob(words: Ints, floats: Floats, base: int, plan: PlanArrays) -> None:
    """Write the header of an entity without events."""
    words[base + H_PROGRESS] = 0
    words[base + H_LAYOUT] = plan.layout
    words[base + H_NEWEST] = NEVER
    words[base + H_DUPLICATES] = 0
    words[base + H_EVENT] = -1
    words[base + H_LABEL] = -1
    for at in range(base + HEAD, slot_head(base, 0, plan)):
        words[at] = 0
    for i in range(len(plan.slots)):
        at = slot_head(base, i, plan)
        words[at] = NEVER
        floats[at + 1] = np.nan if i < plan.n_lasts else 0.0


@compiled
def blob_words(words: Ints, base: int, plan: PlanArrays) -> int:
    """Length of a blob, from the counts in its header."""
    n_tracks = len(plan.tracks)
    size = slot_head(0, len(plan.slots), plan)
    for i in range(n_tracks):
        size += words[base + HEAD + i] * plan.tracks[i, T_WORDS]
    for i in range(plan.n_distinct):
        size += words[base + HEAD + n_tracks + i] * 2
    for i in range(plan.n_distinct, len(plan.tables)):
        size += words[sketch_head(base, i, plan)] * SKETCH_WORDS
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
    """Put where each track, distinct table and sketch starts into ``starts[at]``; return where duplicates start."""
    n_tracks = len(plan.tracks)
    position = slot_head(base, len(plan.slots), plan)
    for i in range(n_tracks):
        starts[at, i] = position
        position += words[base + HEAD + i] * plan.tracks[i, T_WORDS]
    for i in range(plan.n_distinct):
        starts[at, n_tracks + i] = position
        position += words[base + HEAD + n_tracks + i] * 2
    for i in range(plan.n_distinct, len(plan.tables)):
        starts[at, n_tracks + i] = position
        position += words[sketch_head(base, i, plan)] * SKETCH_WORDS
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
