"""Window kernels: one pass over a batch that updates entity blobs and reads features, in event order.

Compiled; the semantics are those of docs/features.md, the layout that of :mod:`featurestore.plan`.
``words`` and ``floats`` are two views of the same arena, one as int64, one as float64.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from domain.batch import Floats, Ints
from domain.compiled import compiled
from featurestore.plan import (
    D_FIELD,
    D_HOP,
    D_KEEP,
    DISTINCT_EXACT,
    DISTINCT_MAX_ENTRIES,
    DUPLICATE_ENTRIES,
    DUPLICATE_WORDS,
    HEAD,
    OP_COUNT,
    OP_DISTINCT,
    OP_EVENTS,
    OP_LAST,
    OP_MAX,
    OP_MEAN,
    OP_MIN,
    OP_SINCE,
    OP_STD,
    OP_SUM,
    R_CURRENT,
    R_DELAY,
    R_HOP,
    R_OP,
    R_OUT,
    R_PLACE,
    R_STAT,
    R_TILES,
    R_WINDOW,
    S_FIELD,
    S_MAX,
    S_MIN,
    S_N,
    S_SUM,
    S_WELFORD,
    T_HOP,
    T_KEEP,
    T_STATS,
    T_STATS_END,
    T_WORDS,
    PlanArrays,
)

__all__ = ["APPLY", "NOTHING", "READ_ONLY", "advance", "blob_words", "find_duplicates", "set_results"]

Bytes = npt.NDArray[np.uint8]

NEVER = -(2**63)
APPLY, NOTHING, READ_ONLY = 0, 1, 2
"""What a row does: count and read; neither (a duplicate); read as if counted but leave no trace."""


@compiled
def new_blob(words: Ints, floats: Floats, base: int, plan: PlanArrays) -> None:
    """Write the header of an entity without events."""
    n_tracks, n_tables, n_lasts = len(plan.tracks), len(plan.tables), len(plan.lasts)
    words[base] = -1
    words[base + 1] = plan.layout
    words[base + 2] = NEVER
    words[base + 3] = 0
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
    return int(size + words[base + 3] * DUPLICATE_WORDS)


@compiled
def _shift(words: Ints, position: int, end: int, by: int) -> None:
    """Move words [position, end) by ``by`` places (either direction)."""
    if by > 0:
        for i in range(end - 1, position - 1, -1):
            words[i + by] = words[i]
    else:
        for i in range(position, end):
            words[i + by] = words[i]


@compiled
def _sections(words: Ints, base: int, plan: PlanArrays, starts: Ints, at: int) -> int:
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
def _add_to_track(
    words: Ints,
    floats: Floats,
    base: int,
    end: int,
    start: int,
    track: int,
    time: int,
    values: Floats,
    row: int,
    plan: PlanArrays,
) -> int:
    """Count one event in one track; returns by how many words the blob grew."""
    size = plan.tracks[track, T_WORDS]
    number = time // plan.tracks[track, T_HOP]
    count = words[base + HEAD + track]
    stop = start + count * size
    if count > 0 and words[stop - size] == number:
        _count_in_tile(words, floats, stop - size, track, values, row, plan)
        return 0
    if count == 0 or words[stop - size] < number:
        expired = 0
        while expired < count and words[start + expired * size] < number - plan.tracks[track, T_KEEP]:
            expired += 1
        grown = (1 - expired) * size
        # what follows the track moves once, by the net change; the kept tiles move down if any expired
        if grown > 0:
            _shift(words, stop, end, grown)
        elif expired > 0:
            _shift(words, start + expired * size, stop, -expired * size)
            _shift(words, stop, end, grown)
        tile = stop - expired * size
        words[base + HEAD + track] = count + 1 - expired
        _open_tile(words, floats, tile, number, track, plan)
        _count_in_tile(words, floats, tile, track, values, row, plan)
        return int(grown)
    if number < words[stop - size] - plan.tracks[track, T_KEEP]:
        return 0  # older than anything the window keeps
    position = stop - size
    while position > start and words[position - size] >= number:
        position -= size
    if words[position] != number:
        _shift(words, position, end, size)
        words[base + HEAD + track] = count + 1
        _open_tile(words, floats, position, number, track, plan)
        _count_in_tile(words, floats, position, track, values, row, plan)
        return int(size)
    _count_in_tile(words, floats, position, track, values, row, plan)
    return 0


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
    number = time // plan.tables[table, D_HOP]
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
        _shift(words, start + 2 * count, end, grown)
    words[start + 2 * kept] = value
    words[start + 2 * kept + 1] = number
    words[base + HEAD + n_tracks + table] = kept + 1
    return int(grown)


@compiled
def _apply(
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
    n_tracks, n_tables = len(plan.tracks), len(plan.tables)
    duplicates = _sections(words, base, plan, starts, 0)
    end = duplicates + words[base + 3] * DUPLICATE_WORDS
    newest = max(words[base + 2], time)
    moved = 0
    for i in range(n_tracks):
        moved += _add_to_track(
            words, floats, base, end + moved, starts[0, i] + moved, i, time, values, row, plan
        )
    for i in range(n_tables):
        value = hashes[row, plan.tables[i, D_FIELD]]
        if value != 0:
            moved += _add_to_distinct(
                words, base, end + moved, starts[0, n_tracks + i] + moved, i, time, newest, value, plan
            )
    slot = base + HEAD + n_tracks + n_tables
    for i in range(len(plan.lasts)):
        number = values[row, plan.lasts[i]]
        if not np.isnan(number) and time >= words[slot + 2 * i]:
            words[slot + 2 * i] = time
            floats[slot + 2 * i + 1] = number
    if plan.is_key:
        first = duplicates + moved
        count = words[base + 3]
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
        words[base + 3] = kept + 1
    words[base] = offset
    words[base + 2] = newest


@compiled
def _read_distinct(
    words: Ints, peers: Ints, low: int, high: int, bases: Ints, plan: PlanArrays, table: int, lowest: int
) -> float:
    n_tracks = len(plan.tracks)
    starts = np.empty((1, n_tracks + len(plan.tables)), dtype=np.int64)
    total = 0
    for p in range(low, high):
        total += words[bases[peers[p]] + HEAD + n_tracks + table]
    found = np.empty(total, dtype=np.uint64)
    n = 0
    for p in range(low, high):
        base = bases[peers[p]]
        _sections(words, base, plan, starts, 0)
        start = starts[0, n_tracks + table]
        # expired entries may still lie there until the table is pruned; a late event must not see them
        oldest = max(lowest, words[base + 2] // plan.tables[table, D_HOP] - plan.tables[table, D_KEEP])
        for i in range(words[base + HEAD + n_tracks + table]):
            if words[start + 2 * i + 1] >= oldest:
                found[n] = np.uint64(words[start + 2 * i])
                n += 1
    if high - low == 1 and n <= DISTINCT_EXACT:
        return float(n)
    ordered = np.sort(found[:n])
    unique = 0
    kth = np.uint64(0)
    for i in range(n):
        if i == 0 or ordered[i] != ordered[i - 1]:
            unique += 1
            if unique == DISTINCT_EXACT:
                kth = ordered[i]
    if unique <= DISTINCT_EXACT:
        return float(unique)
    # k minimum values (Bar-Yossef et al., 2002): (k - 1) / the kth smallest hash as a share of the range
    return round((DISTINCT_EXACT - 1) / (float(kth) / 18446744073709551616.0))


@compiled
def _read(
    words: Ints,
    floats: Floats,
    bases: Ints,
    peers: Ints,
    low: int,
    high: int,
    time: int,
    want_current: int,
    plan: PlanArrays,
    x: Floats,
    row: int,
    starts: Ints,
) -> None:
    """Read the features of one row from its entity's blobs (one per partition that feeds it)."""
    n_tracks, n_tables = len(plan.tracks), len(plan.tables)
    for p in range(low, high):
        _sections(words, bases[peers[p]], plan, starts, p - low)
    for f in range(len(plan.reads)):
        if plan.reads[f, R_CURRENT] != want_current:
            continue
        op, place = plan.reads[f, R_OP], plan.reads[f, R_PLACE]
        if op == OP_SINCE or op == OP_LAST:
            newest, value = NEVER, np.nan
            for p in range(low, high):
                base = bases[peers[p]]
                at = base + 2 if op == OP_SINCE else base + HEAD + n_tracks + n_tables + 2 * place
                if words[at] != NEVER and words[at] >= newest:
                    newest = words[at]
                    value = floats[at + 1]
            out = np.nan
            if newest != NEVER and (plan.reads[f, R_WINDOW] < 0 or time - newest <= plan.reads[f, R_WINDOW]):
                out = value if op == OP_LAST else max(0.0, (time - newest) / 1e6)
            x[row, plan.reads[f, R_OUT]] = out
            continue
        if op == OP_DISTINCT:
            lowest = (time // plan.reads[f, R_HOP]) - plan.reads[f, R_TILES]
            x[row, plan.reads[f, R_OUT]] = _read_distinct(words, peers, low, high, bases, plan, place, lowest)
            continue
        highest = (time - plan.reads[f, R_DELAY]) // plan.reads[f, R_HOP]
        lowest = highest - plan.reads[f, R_TILES]
        if plan.reads[f, R_DELAY] > 0:
            highest -= 1
        size = plan.tracks[place, T_WORDS]
        s = plan.reads[f, R_STAT]
        n, total, carry = 0, 0.0, 0.0
        mean, squares = 0.0, 0.0
        least, greatest = np.inf, -np.inf
        for p in range(low, high):
            base = bases[peers[p]]
            start = starts[p - low, place]
            tile = start + (words[base + HEAD + place] - 1) * size
            while tile >= start and words[tile] >= lowest:
                if words[tile] <= highest:
                    if op == OP_EVENTS:
                        n += words[tile + 1]
                    else:
                        count = words[tile + plan.stats[s, S_N]]
                        if count > 0:
                            if op == OP_SUM or op == OP_MEAN:
                                at = tile + plan.stats[s, S_SUM]
                                value = floats[at]
                                added = total + value
                                if abs(total) >= abs(value):
                                    carry += (total - added) + value
                                else:
                                    carry += (value - added) + total
                                total = added
                                carry += floats[at + 1]
                            elif op == OP_STD:
                                # Chan, Golub and LeVeque (1983): combining means and squared deviations
                                at = tile + plan.stats[s, S_WELFORD]
                                delta = floats[at] - mean
                                both = n + count
                                mean += delta * count / both
                                squares += floats[at + 1] + delta * delta * n * count / both
                            elif op == OP_MIN:
                                least = min(least, floats[tile + plan.stats[s, S_MIN]])
                            elif op == OP_MAX:
                                greatest = max(greatest, floats[tile + plan.stats[s, S_MAX]])
                            n += count
                tile -= size
        out = np.nan
        if op == OP_EVENTS or op == OP_COUNT:
            out = float(n)
        elif op == OP_SUM:
            out = total + carry
        elif op == OP_MEAN:
            if n > 0:
                out = (total + carry) / n
        elif op == OP_STD:
            if n > 1:
                out = np.sqrt(squares / (n - 1))
        elif n > 0:
            out = least if op == OP_MIN else greatest
        x[row, plan.reads[f, R_OUT]] = out


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
    first = _sections(words, base, plan, starts, 0)
    for i in range(words[base + 3] - 1, -1, -1):
        at = first + i * DUPLICATE_WORDS
        if words[at] == id_hash and words[at + 2] < offset and words[at + 1] >= time - plan.dedupe_window:
            return at
    return -1


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
    what is known of the first occurrence in ``first_*``. ``x`` receives this entity's feature columns.
    """
    n = len(slots)
    while row < n:
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
            _read(words, floats, bases, peers, low, high, times[row], 0, plan, x, row, starts)
        # an event at or before the blob's own offset is in it already (recovery after a torn write)
        fresh = offsets[row] > words[base]
        if action[row] == READ_ONLY:
            before = words[base : base + used].copy()
            _apply(
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
                _read(words, floats, bases, peers, low, high, times[row], 1, plan, x, row, starts)
            words[base : base + used] = before
        else:
            if fresh:
                _apply(
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
                _read(words, floats, bases, peers, low, high, times[row], 1, plan, x, row, starts)
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
        first = _sections(words, base, plan, starts, 0)
        for i in range(words[base + 3] - 1, -1, -1):
            at = first + i * DUPLICATE_WORDS
            if words[at + 2] == offsets[row]:
                floats[at + 3] = scores[row]
                words[at + 4] = decisions[row]
                break
