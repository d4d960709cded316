"""Counting one event in an entity's blob: tiles, distinct tables, last values, remembered ids."""

from __future__ import annotations

import numpy as np

from domain.batch import Floats, Ints
from domain.compiled import compiled
from featurestore.kernels_blob import sections, shift, slot_head, tile_of
from featurestore.kernels_decay import add_to_decayed
from featurestore.kernels_sketch import add_to_sketch
from featurestore.plan import (
    D_FIELD,
    D_HOP,
    D_KEEP,
    DISTINCT_EXACT,
    DISTINCT_MAX_ENTRIES,
    DUPLICATE_ENTRIES,
    DUPLICATE_WORDS,
    H_DUPLICATES,
    H_EVENT,
    H_LABEL,
    H_NEWEST,
    H_PROGRESS,
    HEAD,
    S_FIELD,
    S_MAX,
    S_MIN,
    S_N,
    S_SUM,
    S_WELFORD,
    T_HOP,
    T_KEEP,
    T_LABEL,
    T_STATS,
    T_STATS_END,
    T_WORDS,
    V_FIELD,
    PlanArrays,
)

__all__ = ["apply_event", "apply_label"]


@compiled
def _add_to_sum(floats: Floats, at: int, value: float) -> None:
    """Neumaier's compensated addition into (sum, compensation) at ``at``."""
    total = floats[at] + value
    if abs(floats[at]) >= abs(value):
        floats[at + 1] += (floats[at] - total) + value
    else:
        floats[at + 1] += (value - total) + floats[at]
    floats[at] = total


@compiled
def _count_in_tile(
    words: Ints, floats: Floats, tile: int, track: int, values: Floats, row: int, plan: PlanArrays
) -> None:
    words[tile + 1] += 1
    for s in range(plan.tracks[track, T_STATS], plan.tracks[track, T_STATS_END]):
        value = values[row, plan.stats[s, S_FIELD]]
        if np.isnan(value):
            continue
        words[tile + plan.stats[s, S_N]] += 1
        if plan.stats[s, S_SUM] >= 0:
            _add_to_sum(floats, tile + plan.stats[s, S_SUM], value)
        if plan.stats[s, S_WELFORD] >= 0:
            at = tile + plan.stats[s, S_WELFORD]
            delta = value - floats[at]
            floats[at] += delta / words[tile + plan.stats[s, S_N]]
            floats[at + 1] += delta * (value - floats[at])
        if plan.stats[s, S_MIN] >= 0:
            floats[tile + plan.stats[s, S_MIN]] = min(floats[tile + plan.stats[s, S_MIN]], value)
        if plan.stats[s, S_MAX] >= 0:
            floats[tile + plan.stats[s, S_MAX]] = max(floats[tile + plan.stats[s, S_MAX]], value)


@compiled
def _open_tile(words: Ints, floats: Floats, tile: int, number: int, track: int, plan: PlanArrays) -> None:
    for i in range(plan.tracks[track, T_WORDS]):
        words[tile + i] = 0
    words[tile] = number
    for s in range(plan.tracks[track, T_STATS], plan.tracks[track, T_STATS_END]):
        if plan.stats[s, S_MIN] >= 0:
            floats[tile + plan.stats[s, S_MIN]] = np.inf
        if plan.stats[s, S_MAX] >= 0:
            floats[tile + plan.stats[s, S_MAX]] = -np.inf


@compiled
def _tile_for(
    words: Ints, floats: Floats, base: int, end: int, start: int, track: int, time: int, plan: PlanArrays
) -> tuple[int, int]:
    """Where the tile of ``time`` lies, opened if absent (-1: older than what is kept), and by how much the
    blob grew.
    """
    size = plan.tracks[track, T_WORDS]
    number = tile_of(time, plan.tracks[track, T_HOP])
    count = words[base + HEAD + track]
    stop = start + count * size
    if count > 0 and words[stop - size] == number:
        return int(stop - size), 0
    if count == 0 or words[stop - size] < number:
        expired = 0
        while expired < count and words[start + expired * size] < number - plan.tracks[track, T_KEEP]:
            expired += 1
        grown = (1 - expired) * size
        # what follows the track moves once, by the net change; the kept tiles move down if any expired
        if grown > 0:
            shift(words, stop, end, grown)
        elif expired > 0:
            shift(words, start + expired * size, stop, -expired * size)
            shift(words, stop, end, grown)
        tile = stop - expired * size
        words[base + HEAD + track] = count + 1 - expired
        _open_tile(words, floats, tile, number, track, plan)
        return int(tile), int(grown)
    if number < words[stop - size] - plan.tracks[track, T_KEEP]:
        return -1, 0
    position = stop - size
    while position > start and words[position - size] >= number:
        position -= size
    if words[position] == number:
        return int(position), 0
    shift(words, position, end, size)
    words[base + HEAD + track] = count + 1
    _open_tile(words, floats, position, number, track, plan)
    return int(position), int(size)


@compiled
def _prune_distinct(words: Ints, start: int, count: int, oldest: int) -> int:
    """Drop expired entries and those no window can need; returns how many stay.

    An entry is kept unless more than DISTINCT_EXACT others have a smaller hash and are as new: then it can be
    among the smallest hashes of no window (the skyband of a bottom-k sketch), so counts stay exact up to
    DISTINCT_EXACT and the estimate above it is that of the whole window's k smallest hashes.
    """
    kept = 0
    for i in range(count):
        if words[start + 2 * i + 1] >= oldest:
            words[start + 2 * kept] = words[start + 2 * i]
            words[start + 2 * kept + 1] = words[start + 2 * i + 1]
            kept += 1
    if kept <= DISTINCT_EXACT + 1:
        return kept
    count = kept
    drop = np.zeros(count, dtype=np.bool_)
    for i in range(count):
        smaller = 0
        hash_i, tile_i = np.uint64(words[start + 2 * i]), words[start + 2 * i + 1]
        for j in range(count):
            if np.uint64(words[start + 2 * j]) < hash_i and words[start + 2 * j + 1] >= tile_i:
                smaller += 1
        drop[i] = smaller > DISTINCT_EXACT
    kept = 0
    for i in range(count):
        if not drop[i]:
            words[start + 2 * kept] = words[start + 2 * i]
            words[start + 2 * kept + 1] = words[start + 2 * i + 1]
            kept += 1
    if kept == DISTINCT_MAX_ENTRIES:  # practically unreachable; the bound still has to hold
        kept -= 1
    return kept


@compiled
def _add_to_distinct(
    words: Ints,
    base: int,
    end: int,
    start: int,
    table: int,
    time: int,
    newest_time: int,
    value: int,
    plan: PlanArrays,
) -> int:
    """Note one value in one distinct table; returns by how many words the blob grew (or shrank)."""
    n_tracks = len(plan.tracks)
    number = tile_of(time, plan.tables[table, D_HOP])
    count = words[base + HEAD + n_tracks + table]
    oldest = newest_time // plan.tables[table, D_HOP] - plan.tables[table, D_KEEP]
    for i in range(count):
        if words[start + 2 * i] == value:
            words[start + 2 * i + 1] = max(words[start + 2 * i + 1], number)
            return 0
    if number < oldest:
        return 0
    kept = count
    if count >= 16 and count % 16 == 0:
        kept = _prune_distinct(words, start, count, oldest)
    grown = 2 * (kept + 1 - count)
    if grown != 0:
        shift(words, start + 2 * count, end, grown)
    words[start + 2 * kept] = value
    words[start + 2 * kept + 1] = number
    words[base + HEAD + n_tracks + table] = kept + 1
    return int(grown)


@compiled
def apply_event(
    words: Ints,
    floats: Floats,
    base: int,
    time: int,
    offset: int,
    values: Floats,
    hashes: Ints,
    id_hash: int,
    row: int,
    plan: PlanArrays,
    starts: Ints,
) -> None:
    """Count one event in every part of an entity's blob (which must have room for it)."""
    n_tracks = len(plan.tracks)
    duplicates = sections(words, base, plan, starts, 0)
    end = duplicates + words[base + H_DUPLICATES] * DUPLICATE_WORDS
    newest = max(words[base + H_NEWEST], time)
    moved = 0
    for i in range(n_tracks):
        tile, grown = _tile_for(words, floats, base, end + moved, starts[0, i] + moved, i, time, plan)
        moved += grown
        if tile >= 0:
            _count_in_tile(words, floats, tile, i, values, row, plan)
    for i in range(plan.n_distinct):
        value = hashes[row, plan.tables[i, D_FIELD]]
        if value != 0:
            moved += _add_to_distinct(
                words, base, end + moved, starts[0, n_tracks + i] + moved, i, time, newest, value, plan
            )
    for i in range(plan.n_distinct, len(plan.tables)):
        number = values[row, plan.tables[i, D_FIELD]]
        if not np.isnan(number):
            start = starts[0, n_tracks + i] + moved
            moved += add_to_sketch(words, base, end + moved, start, i, time, newest, number, plan)
    for i in range(plan.n_lasts):
        number = values[row, plan.slots[i, V_FIELD]]
        at = slot_head(base, i, plan)
        if not np.isnan(number) and time >= words[at]:
            words[at] = time
            floats[at + 1] = number
    if plan.n_lasts < len(plan.slots):
        add_to_decayed(words, floats, base, time, values, row, plan)
    if plan.is_key:
        first = duplicates + moved
        count = words[base + H_DUPLICATES]
        kept = 0
        for i in range(count):
            at = first + i * DUPLICATE_WORDS
            fresh = words[at + 1] >= newest - plan.dedupe_window
            if fresh and not (count == DUPLICATE_ENTRIES and i == 0):
                to = first + kept * DUPLICATE_WORDS
                for j in range(DUPLICATE_WORDS):
                    words[to + j] = words[at + j]
                kept += 1
        at = first + kept * DUPLICATE_WORDS
        words[at] = id_hash
        words[at + 1] = time
        words[at + 2] = offset
        floats[at + 3] = np.nan
        words[at + 4] = 0
        words[base + H_DUPLICATES] = kept + 1
    words[base + H_EVENT] = offset
    words[base + H_PROGRESS] = offset + words[base + H_LABEL] + 2
    words[base + H_NEWEST] = newest


@compiled
def apply_label(
    words: Ints,
    floats: Floats,
    base: int,
    time: int,
    offset: int,
    change: int,
    plan: PlanArrays,
    starts: Ints,
) -> None:
    """Count one label change in the tiles of its event's time, in a blob with room for it.

    It opens tiles as an event would and touches nothing else, so that labels and events may be applied in any
    order relative to each other: which tiles are kept depends on the newest of both only.
    """
    end = sections(words, base, plan, starts, 0) + words[base + H_DUPLICATES] * DUPLICATE_WORDS
    moved = 0
    for i in range(len(plan.tracks)):
        if plan.tracks[i, T_LABEL] < 0:
            continue
        tile, grown = _tile_for(words, floats, base, end + moved, starts[0, i] + moved, i, time, plan)
        moved += grown
        if tile >= 0:
            words[tile + plan.tracks[i, T_LABEL]] += change
    words[base + H_LABEL] = offset
    words[base + H_PROGRESS] = words[base + H_EVENT] + offset + 2
