"""Window kernels: one pass over a batch that updates entity blobs and reads features, in event order.

Compiled; the semantics are those of docs/features.md, the layout that of :mod:`featurestore.plan`.
``words`` and ``floats`` are two views of the same arena, one as int64, one as float64.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from domain.batch import Floats, Ints
from domain.compiled import compiled
from featurestore.kernels_blob import blob_words, sections
from featurestore.kernels_read import read_features
from featurestore.kernels_write import apply_event, apply_label
from featurestore.plan import (
    DUPLICATE_WORDS,
    H_DUPLICATES,
    H_EVENT,
    H_LABEL,
    L_CHANGE,
    L_OFFSET,
    L_ROW,
    L_SLOT,
    L_TIME,
    PlanArrays,
)

__all__ = ["APPLY", "NOTHING", "READ_ONLY", "advance", "apply_labels", "find_duplicates", "set_results"]

Bytes = npt.NDArray[np.uint8]

APPLY, NOTHING, READ_ONLY = 0, 1, 2
"""What a row does: count and read; neither (a duplicate); read as if counted but leave no trace."""


@compiled
def _reserve(
    words: Ints, bases: Ints, classes: Ints, slot: int, need: int, used: int, free: Ints, top: Ints
) -> bool:
    """Move ``slot``, with its ``used`` words, to a block of ``need`` or more; False: the arena is full."""
    level = classes[slot]
    while (32 << level) < need:
        level += 1
    block = free[level]
    if block >= 0:
        free[level] = words[block]
    else:
        block = top[0]
        if block + (32 << level) > len(words):
            return False
        top[0] = block + (32 << level)
    old = bases[slot]
    for i in range(used):
        words[block + i] = words[old + i]
    words[old] = free[classes[slot]]
    free[classes[slot]] = old
    bases[slot] = block
    classes[slot] = level
    return True


@compiled
def find_duplicates(
    words: Ints,
    floats: Floats,
    bases: Ints,
    slot: int,
    time: int,
    offset: int,
    id_hash: int,
    plan: PlanArrays,
    starts: Ints,
) -> int:
    """Position of the entry that makes this event a duplicate, or -1."""
    base = bases[slot]
    first = sections(words, base, plan, starts, 0)
    for i in range(words[base + H_DUPLICATES] - 1, -1, -1):
        at = first + i * DUPLICATE_WORDS
        if words[at] == id_hash and words[at + 2] < offset and words[at + 1] >= time - plan.dedupe_window:
            return at
    return -1


@compiled
def apply_labels(
    words: Ints,
    floats: Floats,
    bases: Ints,
    classes: Ints,
    free: Ints,
    top: Ints,
    plan: PlanArrays,
    growth: int,
    labels: Ints,
    at: int,
    row: int,
    starts: Ints,
) -> int:
    """Apply label changes from ``at`` on up to those due before ``row``; returns the first that is not applied.

    That one is still due if the arena was full. ``labels`` is int64[m, 5], its columns are the ``L_`` constants.
    """
    while at < len(labels) and labels[at, L_ROW] <= row:
        slot = labels[at, L_SLOT]
        # a change at or before the blob's own is in it already, as with events
        if labels[at, L_OFFSET] > words[bases[slot] + H_LABEL]:
            used = blob_words(words, bases[slot], plan)
            if used + growth > (32 << classes[slot]) and not _reserve(
                words, bases, classes, slot, used + growth, used, free, top
            ):
                return at
            apply_label(
                words,
                floats,
                bases[slot],
                labels[at, L_TIME],
                labels[at, L_OFFSET],
                labels[at, L_CHANGE],
                plan,
                starts,
            )
        at += 1
    return at


@compiled
def advance(
    words: Ints,
    floats: Floats,
    bases: Ints,
    classes: Ints,
    free: Ints,
    top: Ints,
    plan: PlanArrays,
    head_words: int,
    growth: int,
    slots: Ints,
    peers: Ints,
    peer_start: Ints,
    times: Ints,
    offsets: Ints,
    action: Bytes,
    values: Floats,
    hashes: Ints,
    id_hashes: Ints,
    labels: Ints,
    x: Floats,
    first_offset: Ints,
    first_score: Floats,
    first_decision: Ints,
    starts: Ints,
    want: bool,
    row: int,
) -> int:
    """Process rows from ``row`` on; returns the number of rows, or the row at which the arena was full.

    ``action`` is read, and for the key entity also written: rows found to be duplicates become NOTHING, with
    what is known of the first occurrence in ``first_*``. ``x`` receives this entity's feature columns. ``labels``
    (see :func:`apply_labels`) come in between, each before its row.
    """
    n = len(slots)
    nothing = np.empty(0, dtype=np.int64)
    label = 0
    while label < len(labels) and labels[label, L_ROW] < row:
        label += 1
    while row < n:
        if label < len(labels) and labels[label, L_ROW] <= row:
            label = apply_labels(
                words, floats, bases, classes, free, top, plan, growth, labels, label, row, starts
            )
            if label < len(labels) and labels[label, L_ROW] <= row:
                return row
        slot = slots[row]
        if plan.is_key and action[row] != NOTHING:
            at = find_duplicates(
                words, floats, bases, slot, times[row], offsets[row], id_hashes[row], plan, starts
            )
            if at >= 0:
                action[row] = NOTHING
                first_offset[row] = words[at + 2]
                first_score[row] = floats[at + 3]
                first_decision[row] = words[at + 4]
        if action[row] == NOTHING:
            row += 1
            continue
        used = blob_words(words, bases[slot], plan)
        if used + growth > (32 << classes[slot]) and not _reserve(
            words, bases, classes, slot, used + growth, used, free, top
        ):
            return row
        base = bases[slot]
        low, high = peer_start[row], peer_start[row + 1]
        if want:
            read_features(words, floats, bases, peers, low, high, times[row], 0, plan, x, row, starts)
        # an event at or before the blob's own offset is in it already (recovery after a torn write)
        fresh = offsets[row] > words[base + H_EVENT]
        read_only = action[row] == READ_ONLY
        before = words[base : base + used].copy() if read_only else nothing
        if fresh or read_only:
            apply_event(
                words,
                floats,
                base,
                times[row],
                offsets[row],
                values,
                hashes,
                id_hashes[row],
                row,
                plan,
                starts,
            )
        if want:
            read_features(words, floats, bases, peers, low, high, times[row], 1, plan, x, row, starts)
        if read_only:
            words[base : base + used] = before
        row += 1
    return row


@compiled
def set_results(
    words: Ints,
    floats: Floats,
    bases: Ints,
    slots: Ints,
    offsets: Ints,
    scores: Floats,
    decisions: Ints,
    plan: PlanArrays,
    starts: Ints,
) -> None:
    """Write each event's result into its duplicate entry, found by source offset."""
    for row in range(len(slots)):
        base = bases[slots[row]]
        first = sections(words, base, plan, starts, 0)
        for i in range(words[base + H_DUPLICATES] - 1, -1, -1):
            at = first + i * DUPLICATE_WORDS
            if words[at + 2] == offsets[row]:
                floats[at + 3] = scores[row]
                words[at + 4] = decisions[row]
                break
