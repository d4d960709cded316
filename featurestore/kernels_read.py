"""Reading an event's features from its entity's blobs, one per partition that feeds the entity."""

from __future__ import annotations

import numpy as np

from domain.batch import Floats, Ints
from domain.compiled import compiled
from featurestore.kernels_blob import NEVER, sections, slot_head, tile_of
from featurestore.kernels_decay import read_decayed
from featurestore.kernels_sketch import read_quantile
from featurestore.plan import (
    D_HOP,
    D_KEEP,
    DISTINCT_EXACT,
    H_NEWEST,
    HEAD,
    OP_COUNT,
    OP_DECAYED,
    OP_DISTINCT,
    OP_EVENTS,
    OP_LAST,
    OP_MAX,
    OP_MEAN,
    OP_MIN,
    OP_QUANTILE,
    OP_RATE,
    OP_SINCE,
    OP_STD,
    OP_SUM,
    R_CURRENT,
    R_DELAY,
    R_HOP,
    R_OP,
    R_OUT,
    R_PLACE,
    R_Q,
    R_STAT,
    R_TILES,
    R_WINDOW,
    S_MAX,
    S_MIN,
    S_N,
    S_SUM,
    S_WELFORD,
    T_LABEL,
    T_WORDS,
    PlanArrays,
)

__all__ = ["read_features"]


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
        sections(words, base, plan, starts, 0)
        start = starts[0, n_tracks + table]
        # expired entries may still lie there until the table is pruned; a late event must not see them
        oldest = max(lowest, words[base + H_NEWEST] // plan.tables[table, D_HOP] - plan.tables[table, D_KEEP])
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
def read_features(
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
    for p in range(low, high):
        sections(words, bases[peers[p]], plan, starts, p - low)
    for f in range(len(plan.reads)):
        if plan.reads[f, R_CURRENT] != want_current:
            continue
        op, place = plan.reads[f, R_OP], plan.reads[f, R_PLACE]
        if op == OP_SINCE or op == OP_LAST:
            newest, value = NEVER, np.nan
            for p in range(low, high):
                base = bases[peers[p]]
                at = base + H_NEWEST if op == OP_SINCE else slot_head(base, place, plan)
                if words[at] != NEVER and words[at] >= newest:
                    newest = words[at]
                    value = floats[at + 1]
            out = np.nan
            if newest != NEVER and (plan.reads[f, R_WINDOW] < 0 or time - newest <= plan.reads[f, R_WINDOW]):
                out = value if op == OP_LAST else max(0.0, (time - newest) / 1e6)
            x[row, plan.reads[f, R_OUT]] = out
            continue
        if op == OP_DISTINCT:
            lowest = tile_of(time, plan.reads[f, R_HOP]) - plan.reads[f, R_TILES]
            x[row, plan.reads[f, R_OUT]] = _read_distinct(words, peers, low, high, bases, plan, place, lowest)
            continue
        if op == OP_DECAYED:
            x[row, plan.reads[f, R_OUT]] = read_decayed(
                words, floats, bases, peers, low, high, time, place, plan
            )
            continue
        highest = tile_of(time - plan.reads[f, R_DELAY], plan.reads[f, R_HOP])
        lowest = highest - plan.reads[f, R_TILES]
        if plan.reads[f, R_DELAY] > 0:
            highest -= 1
        if op == OP_QUANTILE:
            q = plan.reads[f, R_Q] * 2.0**-63
            x[row, plan.reads[f, R_OUT]] = read_quantile(
                words, bases, peers, low, high, place, lowest, highest, q, plan, starts
            )
            continue
        size = plan.tracks[place, T_WORDS]
        s = plan.reads[f, R_STAT]
        n, positives, total, carry = 0, 0, 0.0, 0.0
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
                    elif op == OP_RATE:
                        n += words[tile + 1]
                        positives += words[tile + plan.tracks[place, T_LABEL]]
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
        elif op == OP_RATE:
            # a label whose event was not counted, or the reversal of one that was not, must not leave [0, 1]
            if n > 0:
                out = min(max(positives / n, 0.0), 1.0)
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
