"""From declared features to the flat arrays that the window kernels run on.

For each entity: *tracks* (one per hop width; a sorted, sparse list of tiles), *stats* (which running values a
tile keeps for a field), *distinct tables*, *sketches* (of quantiles), *last slots*, *decayed sums*, and one row
per feature that says where it reads. The blob of an entity is a sequence of 8-byte words, the same in memory
and in Redis::

    progress | layout | newest time | duplicates | event offset | label offset
    tiles per track ... | entries per distinct table ... | (entries, level) per sketch ...
    (time, value) per last slot ... | (time, value) per decayed sum ...
    tiles of track 0 ... | distinct entries ... | sketch entries ... | duplicate entries ...

A tile is ``tile number, events, positives (where a rate is wanted), stats...``; a distinct entry
``hash, newest tile``; a sketch entry ``tile, code, count``; a duplicate entry
``id hash, event time, offset, score, decision``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import numpy as np

from domain.batch import Ints
from domain.pipeline import Aggregate, AggregateFeature, Pipeline

__all__ = [
    "DISTINCT_EXACT",
    "DUPLICATE_ENTRIES",
    "EntityPlan",
    "PlanArrays",
    "bytes_bound",
    "layout_digest",
    "memory_of",
    "plan_entities",
    "tiles_kept",
]

T = TypeVar("T")

DISTINCT_EXACT = 128
"""Distinct counts are exact up to here, estimated above."""
DISTINCT_MAX_ENTRIES = 2048
"""A hard bound on a distinct table; the retained skyband of a KMV sketch stays far below it."""
SKETCH_ENTRIES = 2048
"""Entries of a quantile sketch; when they are not enough, neighbouring buckets become one."""
UNWINDOWED_MEMORY = 90 * 86_400_000_000
"""Microseconds: an entity silent for longer is taken for new where only the log could tell otherwise."""
DUPLICATE_ENTRIES = 64
"""Event ids remembered per key entity."""

HEAD = 6
H_PROGRESS, H_LAYOUT, H_NEWEST, H_DUPLICATES, H_EVENT, H_LABEL = range(HEAD)
"""The first words of a blob. Progress is (event offset + 1) + (label offset + 1): what the fence compares."""
DUPLICATE_WORDS = 5
SKETCH_WORDS = 3
CODES_AT_MOST = 5
"""Different codes a tile of a sketch can hold at the coarsest level: -1, -0, zero, +0, +1."""

OP_EVENTS, OP_COUNT, OP_SUM, OP_MEAN, OP_STD, OP_MIN, OP_MAX = range(7)
OP_DISTINCT, OP_LAST, OP_SINCE, OP_RATE, OP_DECAYED, OP_QUANTILE = range(7, 13)
T_HOP, T_KEEP, T_WORDS, T_STATS, T_STATS_END, T_LABEL = range(6)
"""Tracks: hop (microseconds), tiles kept behind the newest, words per tile, first and last + 1 stat, offset of
the count of positives (-1: labels do not feed it)."""
L_SLOT, L_TIME, L_OFFSET, L_CHANGE, L_ROW = range(5)
"""Label changes as the kernels take them: slot of the entity, event time, offset of the change, +1 or -1, the
row of the batch before which it is applied."""
S_FIELD, S_N, S_SUM, S_WELFORD, S_MIN, S_MAX = range(6)
"""Stats: column of the field; offsets of count, (sum, compensation), (mean, squared deviations), min, max."""
D_FIELD, D_HOP, D_KEEP = range(3)
"""Distinct tables: column of the hashed field, hop, tiles kept. Sketches: the same of a field of numbers."""
V_FIELD, V_HALF_LIFE = range(2)
"""Slots of a single value: column of the field (-1: every event counts 1), half-life (microseconds; 0: last)."""
R_OP, R_OUT, R_PLACE, R_STAT, R_TILES, R_HOP, R_DELAY, R_WINDOW, R_CURRENT, R_Q = range(10)
"""Features: operation, output column, track (or table, or slot), stat, window in tiles, hop, delay, window
(microseconds; -1 for no limit), whether the event itself counts, quantile in units of 2**-63."""
_OPS = {
    Aggregate.SUM: OP_SUM,
    Aggregate.MEAN: OP_MEAN,
    Aggregate.STD: OP_STD,
    Aggregate.MIN: OP_MIN,
    Aggregate.MAX: OP_MAX,
    Aggregate.DISTINCT: OP_DISTINCT,
    Aggregate.RATE: OP_RATE,
    Aggregate.DECAYED_SUM: OP_DECAYED,
    Aggregate.DECAYED_COUNT: OP_DECAYED,
    Aggregate.QUANTILE: OP_QUANTILE,
    Aggregate.LAST: OP_LAST,
    Aggregate.SECONDS_SINCE_LAST: OP_SINCE,
}


class PlanArrays(NamedTuple):
    """What the kernels see of a plan: int64 tables, one row per track, stat, table, slot and feature.

    Few arrays, because each one costs the kernels at every call. Columns are the ``T_``, ``S_``, ``D_``, ``V_``
    and ``R_`` constants. Word offsets of stats count from the start of a tile; -1 where unused.
    """

    layout: int
    is_key: int
    dedupe_window: int
    n_distinct: int
    n_lasts: int
    tracks: Ints
    stats: Ints
    tables: Ints  # distinct tables, then sketches
    slots: Ints  # last values, then decayed sums
    reads: Ints


@dataclass(frozen=True, slots=True)
class EntityPlan:
    """Everything needed to keep and read the state of one entity field."""

    entity: str
    is_key: bool
    number_fields: tuple[str, ...]
    hash_fields: tuple[str, ...]
    arrays: PlanArrays

    @property
    def label_fed(self) -> bool:
        """Whether labels change this entity's state."""
        return bool((self.arrays.tracks[:, T_LABEL] >= 0).any())

    @property
    def head_words(self) -> int:
        """Words before the first tile."""
        a = self.arrays
        return HEAD + len(a.tracks) + 2 * (len(a.tables) + len(a.slots)) - a.n_distinct

    @property
    def growth_words(self) -> int:
        """The most words that one event can add to a blob."""
        a = self.arrays
        duplicates = DUPLICATE_WORDS if self.is_key else 0
        entries = 2 * a.n_distinct + SKETCH_WORDS * (len(a.tables) - a.n_distinct)
        return int(a.tracks[:, T_WORDS].sum()) + entries + duplicates

    @property
    def sections(self) -> int:
        """Parts of varying length: tracks, distinct tables and sketches."""
        return len(self.arrays.tracks) + len(self.arrays.tables)


def _given(value: T | None) -> T:
    """A part of a declaration that the pipeline check guarantees."""
    if value is None:
        raise ValueError("an unchecked pipeline declaration reached the planner")
    return value


def tiles_kept(feature: AggregateFeature, max_lateness: int) -> int:
    """How many tiles behind the newest one a windowed feature needs (docs/features.md, ``keep``)."""
    hop = _given(feature.hop)
    return _given(feature.window) // hop + -(-(feature.delay + max_lateness) // hop) + 1


def _sketch_tiles(feature: AggregateFeature, max_lateness: int) -> int:
    kept = tiles_kept(feature, max_lateness)
    if (kept + 1) * CODES_AT_MOST > SKETCH_ENTRIES:
        raise ValueError(
            f"{feature.name} keeps {kept} tiles, too many for a sketch: an unchecked declaration"
        )
    return kept


def memory_of(pipeline: Pipeline) -> int:
    """How far back features look, in microseconds of event time: after so long, events before no longer count.

    A decayed sum counts as forgotten after 60 half-lives (2^-60 of a value is below the last bit of a sum), a feature
    without a window after UNWINDOWED_MEMORY.
    """
    longest = 0
    for feature in pipeline.features:
        if not isinstance(feature, AggregateFeature):
            continue
        if feature.half_life is not None:
            own = 60 * feature.half_life
        elif feature.window is None:
            own = UNWINDOWED_MEMORY
        else:
            own = feature.window + feature.delay + (feature.hop or 0)
        longest = max(longest, own)
    return longest + pipeline.event.max_lateness


def bytes_bound(plan: EntityPlan) -> int:
    """The most bytes the blob of one entity can have, however many events it sees."""
    a = plan.arrays
    words = plan.head_words + int(((a.tracks[:, T_KEEP] + 1) * a.tracks[:, T_WORDS]).sum())
    words += 2 * DISTINCT_MAX_ENTRIES * a.n_distinct
    words += SKETCH_WORDS * SKETCH_ENTRIES * (len(a.tables) - a.n_distinct)
    words += DUPLICATE_WORDS * DUPLICATE_ENTRIES if plan.is_key else 0
    return 8 * words


def layout_digest(pipeline: Pipeline, entity: str) -> int:
    """63 bits that change when the meaning of any word of the entity's blob changes."""
    parts = [
        f"{f.aggregate}|{f.of}|{f.window}|{f.hop}|{f.delay}|{f.half_life}"
        for f in pipeline.features
        if isinstance(f, AggregateFeature) and f.entity == entity
    ]
    text = f"2|{entity}|{pipeline.event.key}|{pipeline.event.max_lateness}|" + ";".join(sorted(parts))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1


@dataclass(slots=True)
class _Stat:
    field: str
    needs: set[Aggregate]


def plan_entities(pipeline: Pipeline) -> tuple[EntityPlan, ...]:
    """One plan per entity field, the key entity first."""
    return tuple(_plan_entity(pipeline, entity) for entity in pipeline.entities)


def _plan_entity(pipeline: Pipeline, entity: str) -> EntityPlan:
    columns = {name: i for i, name in enumerate(pipeline.feature_names)}
    features = [f for f in pipeline.features if isinstance(f, AggregateFeature) and f.entity == entity]
    tracks: dict[int, list[_Stat]] = {}
    keep: dict[int, int] = {}
    label_fed: set[int] = set()
    distinct: dict[tuple[str, int], int] = {}
    sketches: dict[tuple[str, int], int] = {}
    decays: dict[tuple[str | None, int], int] = {}
    last: dict[str, int] = {}
    numbers: dict[str, int] = {}
    hashes: dict[str, int] = {}
    lateness = pipeline.event.max_lateness
    for f in features:
        if f.aggregate is Aggregate.LAST:
            last.setdefault(_given(f.of), len(last))
            numbers.setdefault(_given(f.of), len(numbers))
        elif f.aggregate is Aggregate.DISTINCT:
            table = (_given(f.of), _given(f.hop))
            distinct[table] = max(distinct.get(table, 0), tiles_kept(f, lateness))
            hashes.setdefault(_given(f.of), len(hashes))
        elif f.aggregate is Aggregate.QUANTILE:
            table = (_given(f.of), _given(f.hop))
            sketches[table] = max(sketches.get(table, 0), _sketch_tiles(f, lateness))
            numbers.setdefault(_given(f.of), len(numbers))
        elif f.half_life is not None:
            decays.setdefault((f.of, f.half_life), len(decays))
            if f.of is not None:
                numbers.setdefault(f.of, len(numbers))
        elif f.aggregate is not Aggregate.SECONDS_SINCE_LAST:
            hop = _given(f.hop)
            stats = tracks.setdefault(hop, [])
            keep[hop] = max(keep.get(hop, 0), tiles_kept(f, lateness))
            if f.aggregate is Aggregate.RATE:
                label_fed.add(hop)
            elif f.of is not None:
                numbers.setdefault(f.of, len(numbers))
                found = next((s for s in stats if s.field == f.of), None)
                if found is None:
                    found = _Stat(f.of, set())
                    stats.append(found)
                found.needs.add(f.aggregate)

    track_of = {hop: i for i, hop in enumerate(tracks)}
    track_rows: list[tuple[int, ...]] = []
    stat_rows: list[tuple[int, ...]] = []
    stat_of: dict[tuple[int, str], int] = {}
    for hop, stats in tracks.items():
        label_at = 2 if hop in label_fed else -1
        words, first_stat = 3 if hop in label_fed else 2, len(stat_rows)
        for stat in stats:
            stat_of[hop, stat.field] = len(stat_rows)
            n_at, words = words, words + 1
            sum_at = welford_at = min_at = max_at = -1
            if stat.needs & {Aggregate.SUM, Aggregate.MEAN}:
                sum_at, words = words, words + 2
            if Aggregate.STD in stat.needs:
                welford_at, words = words, words + 2
            if Aggregate.MIN in stat.needs:
                min_at, words = words, words + 1
            if Aggregate.MAX in stat.needs:
                max_at, words = words, words + 1
            stat_rows.append((numbers[stat.field], n_at, sum_at, welford_at, min_at, max_at))
        track_rows.append((hop, keep[hop], words, first_stat, len(stat_rows), label_at))

    table_of = {table: i for i, table in enumerate(distinct)}
    sketch_of = {table: len(distinct) + i for i, table in enumerate(sketches)}
    rows: list[tuple[int, ...]] = []
    for f in features:
        op = _OPS.get(f.aggregate, OP_COUNT if f.of is not None else OP_EVENTS)
        place = stat_index = tiles = -1
        if f.aggregate is Aggregate.LAST and f.of is not None:
            place = last[f.of]
        elif f.aggregate is Aggregate.DISTINCT and f.of is not None and f.hop is not None:
            place = table_of[f.of, f.hop]
        elif f.aggregate is Aggregate.QUANTILE and f.of is not None and f.hop is not None:
            place = sketch_of[f.of, f.hop]
        elif f.half_life is not None:
            place = len(last) + decays[f.of, f.half_life]
        elif f.hop is not None:
            place = track_of[f.hop]
            stat_index = stat_of[f.hop, f.of] if f.of is not None and op != OP_RATE else -1
        if f.window is not None and f.hop is not None:
            tiles = f.window // f.hop
        window = -1 if f.window is None else f.window
        rows.append(
            (
                op,
                columns[f.name],
                place,
                stat_index,
                tiles,
                f.hop or 1,
                f.delay,
                window,
                int(f.include_current),
                round((f.q or 0.0) * 2**63),
            )
        )

    def as_table(rows: Sequence[tuple[int, ...]], columns: int) -> Ints:
        return np.array(rows, dtype=np.int64).reshape(len(rows), columns)

    def as_rows(tables: dict[tuple[str, int], int], columns: dict[str, int]) -> list[tuple[int, ...]]:
        return [(columns[field], hop, kept) for (field, hop), kept in tables.items()]

    slots = [(numbers[field], 0) for field in last]
    slots += [(-1 if of is None else numbers[of], half_life) for of, half_life in decays]
    arrays = PlanArrays(
        layout=layout_digest(pipeline, entity),
        is_key=int(entity == pipeline.event.key),
        dedupe_window=pipeline.event.dedupe_window,
        n_distinct=len(distinct),
        n_lasts=len(last),
        tracks=as_table(track_rows, 6),
        stats=as_table(stat_rows, 6),
        tables=as_table([*as_rows(distinct, hashes), *as_rows(sketches, numbers)], 3),
        slots=as_table(slots, 2),
        reads=as_table(rows, 10),
    )
    return EntityPlan(
        entity=entity,
        is_key=entity == pipeline.event.key,
        number_fields=tuple(numbers),
        hash_fields=tuple(hashes),
        arrays=arrays,
    )
