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
    tracks, tables, lasts = len(plan.track_hop), len(plan.distinct_hop), len(plan.last_field)
    words[base] = -1
    words[base + 1] = plan.layout
    words[base + 2] = NEVER
    words[base + 3] = 0
    for i in range(tracks + tables):
        words[base + HEAD + i] = 0
    for i in range(lasts):
        words[base + HEAD + tracks + tables + 2 * i] = NEVER
        floats[base + HEAD + tracks + tables + 2 * i + 1] = np.nan


@compiled
def blob_words(words: Ints, base: int, plan: PlanArrays) -> int:
    """Length of a blob, from the counts in its header."""
    tracks, tables = len(plan.track_hop), len(plan.distinct_hop)
    size = HEAD + tracks + tables + 2 * len(plan.last_field)
    for i in range(tracks):
        size += words[base + HEAD + i] * plan.track_words[i]
    for i in range(tables):
        size += words[base + HEAD + tracks + i] * 2
    return size + words[base + 3] * DUPLICATE_WORDS


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
def _sections(words: Ints, base: int, plan: PlanArrays, starts: Ints) -> int:
    """Fill ``starts`` with the position of each track and distinct table; return that of the duplicates."""
    tracks, tables = len(plan.track_hop), len(plan.distinct_hop)
    position = base + HEAD + tracks + tables + 2 * len(plan.last_field)
    for i in range(tracks):
        starts[i] = position
        position += words[base + HEAD + i] * plan.track_words[i]
    for i in range(tables):
        starts[tracks + i] = position
        position += words[base + HEAD + tracks + i] * 2
    return position


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
    for s in range(plan.stat_start[track], plan.stat_start[track + 1]):
        value = values[row, plan.stat_field[s]]
        if np.isnan(value):
            continue
        words[tile + plan.stat_n[s]] += 1
        if plan.stat_sum[s] >= 0:
            _add_to_sum(floats, tile + plan.stat_sum[s], value)
        if plan.stat_welford[s] >= 0:
            at = tile + plan.stat_welford[s]
            delta = value - floats[at]
            floats[at] += delta / words[tile + plan.stat_n[s]]
            floats[at + 1] += delta * (value - floats[at])
        if plan.stat_min[s] >= 0:
            floats[tile + plan.stat_min[s]] = min(floats[tile + plan.stat_min[s]], value)
        if plan.stat_max[s] >= 0:
            floats[tile + plan.stat_max[s]] = max(floats[tile + plan.stat_max[s]], value)


@compiled
def _open_tile(words: Ints, floats: Floats, tile: int, number: int, track: int, plan: PlanArrays) -> None:
    for i in range(plan.track_words[track]):
        words[tile + i] = 0
    words[tile] = number
    for s in range(plan.stat_start[track], plan.stat_start[track + 1]):
        if plan.stat_min[s] >= 0:
            floats[tile + plan.stat_min[s]] = np.inf
        if plan.stat_max[s] >= 0:
            floats[tile + plan.stat_max[s]] = -np.inf


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
    size = plan.track_words[track]
    number = time // plan.track_hop[track]
    count = words[base + HEAD + track]
    stop = start + count * size
    if count > 0 and words[stop - size] == number:
        _count_in_tile(words, floats, stop - size, track, values, row, plan)
        return 0
    if count == 0 or words[stop - size] < number:
        expired = 0
        while expired < count and words[start + expired * size] < number - plan.track_keep[track]:
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
        return grown
    if number < words[stop - size] - plan.track_keep[track]:
        return 0  # older than anything the window keeps
    position = stop - size
    while position > start and words[position - size] >= number:
        position -= size
    if words[position] != number:
        _shift(words, position, end, size)
        words[base + HEAD + track] = count + 1
        _open_tile(words, floats, position, number, track, plan)
        _count_in_tile(words, floats, position, track, values, row, plan)
        return size
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
    words: Ints, base: int, end: int, start: int, table: int, time: int, value: int, plan: PlanArrays
) -> int:
    """Note one value in one distinct table; returns by how many words the blob grew (or shrank)."""
    tracks = len(plan.track_hop)
    number = time // plan.distinct_hop[table]
    count = words[base + HEAD + tracks + table]
    newest = number
    for i in range(count):
        if words[start + 2 * i] == value:
            words[start + 2 * i + 1] = max(words[start + 2 * i + 1], number)
            return 0
        newest = max(newest, words[start + 2 * i + 1])
    if number < newest - plan.distinct_keep[table]:
        return 0
    kept = count
    if count >= 16 and count % 16 == 0:
        kept = _prune_distinct(words, start, count, newest - plan.distinct_keep[table])
    grown = 2 * (kept + 1 - count)
    if grown != 0:
        _shift(words, start + 2 * count, end, grown)
    words[start + 2 * kept] = value
    words[start + 2 * kept + 1] = number
    words[base + HEAD + tracks + table] = kept + 1
    return grown


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
    tracks, tables = len(plan.track_hop), len(plan.distinct_hop)
    duplicates = _sections(words, base, plan, starts)
    end = duplicates + words[base + 3] * DUPLICATE_WORDS
    newest = max(words[base + 2], time)
    moved = 0
    for i in range(tracks):
        moved += _add_to_track(
            words, floats, base, end + moved, starts[i] + moved, i, time, values, row, plan
        )
    for i in range(tables):
        value = hashes[row, plan.distinct_field[i]]
        if value != 0:
            moved += _add_to_distinct(
                words, base, end + moved, starts[tracks + i] + moved, i, time, value, plan
            )
    slot = base + HEAD + tracks + tables
    for i in range(len(plan.last_field)):
        number = values[row, plan.last_field[i]]
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
    tracks = len(plan.track_hop)
    starts = np.empty(tracks + len(plan.distinct_hop), dtype=np.int64)
    total = 0
    for p in range(low, high):
        total += words[bases[peers[p]] + HEAD + tracks + table]
    found = np.empty(total, dtype=np.uint64)
    n = 0
    for p in range(low, high):
        base = bases[peers[p]]
        _sections(words, base, plan, starts)
        start = starts[tracks + table]
        for i in range(words[base + HEAD + tracks + table]):
            if words[start + 2 * i + 1] >= lowest:
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
    tracks, tables = len(plan.track_hop), len(plan.distinct_hop)
    for p in range(low, high):
        _sections(words, bases[peers[p]], plan, starts[p - low])
    for f in range(len(plan.op)):
        if plan.current[f] != want_current:
            continue
        op, place = plan.op[f], plan.track[f]
        if op == OP_SINCE or op == OP_LAST:
            newest, value = NEVER, np.nan
            for p in range(low, high):
                base = bases[peers[p]]
                at = base + 2 if op == OP_SINCE else base + HEAD + tracks + tables + 2 * place
                if words[at] != NEVER and words[at] >= newest:
                    newest = words[at]
                    value = floats[at + 1]
            out = np.nan
            if newest != NEVER and (plan.window[f] < 0 or time - newest <= plan.window[f]):
                out = value if op == OP_LAST else max(0.0, (time - newest) / 1e6)
            x[row, plan.out[f]] = out
            continue
        if op == OP_DISTINCT:
            lowest = (time // plan.hop[f]) - plan.tiles[f]
            x[row, plan.out[f]] = _read_distinct(words, peers, low, high, bases, plan, place, lowest)
            continue
        highest = (time - plan.delay[f]) // plan.hop[f]
        lowest = highest - plan.tiles[f]
        if plan.delay[f] > 0:
            highest -= 1
        size = plan.track_words[place]
        s = plan.stat[f]
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
                        count = words[tile + plan.stat_n[s]]
                        if count > 0:
                            if op == OP_SUM or op == OP_MEAN:
                                at = tile + plan.stat_sum[s]
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
                                at = tile + plan.stat_welford[s]
                                delta = floats[at] - mean
                                both = n + count
                                mean += delta * count / both
                                squares += floats[at + 1] + delta * delta * n * count / both
                            elif op == OP_MIN:
                                least = min(least, floats[tile + plan.stat_min[s]])
                            elif op == OP_MAX:
                                greatest = max(greatest, floats[tile + plan.stat_max[s]])
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
        x[row, plan.out[f]] = out


@compiled
def _reserve(
    words: Ints, bases: Ints, classes: Ints, slot: int, need: int, used: int, free: Ints, top: Ints
) -> bool:
    """Give ``slot`` a block of at least ``need`` words, moving its ``used`` words; False: the arena is full."""
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
    first = _sections(words, base, plan, starts)
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
                words, floats, bases, slot, times[row], offsets[row], id_hashes[row], plan, starts[0]
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
                words, floats, base, times[row], offsets[row], values, hashes, id_hashes[row], row, plan, starts[0]
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
                    starts[0],
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
        first = _sections(words, base, plan, starts)
        for i in range(words[base + 3] - 1, -1, -1):
            at = first + i * DUPLICATE_WORDS
            if words[at + 2] == offsets[row]:
                floats[at + 3] = scores[row]
                words[at + 4] = decisions[row]
                break
