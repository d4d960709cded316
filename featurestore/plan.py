"""From declared features to the flat arrays that the window kernels run on.

For each entity: *tracks* (one per hop width; a sorted, sparse list of tiles), *stats* (which running values a
tile keeps for a field), *distinct tables*, *last slots*, and one row per feature that says where it reads.
The blob of an entity is a sequence of 8-byte words, the same in memory and in Redis::

    offset | layout | newest time | duplicates | tiles per track ... | entries per distinct table ...
    (time, value) per last slot ... | tiles of track 0 ... | distinct entries ... | duplicate entries ...

A tile is ``tile number, events, stats...``; a distinct entry ``hash, newest tile``; a duplicate entry
``id hash, event time, offset, score, decision``.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from domain.batch import Ints
from domain.pipeline import Aggregate, AggregateFeature, Pipeline

__all__ = [
    "DISTINCT_EXACT",
    "DUPLICATE_ENTRIES",
    "EntityPlan",
    "PlanArrays",
    "bytes_bound",
    "layout_digest",
    "plan_entities",
    "tiles_kept",
]

DISTINCT_EXACT = 128
"""Distinct counts are exact up to here, estimated above."""
DISTINCT_MAX_ENTRIES = 2048
"""A hard bound on a distinct table; the retained skyband of a KMV sketch stays far below it."""
DUPLICATE_ENTRIES = 64
"""Event ids remembered per key entity."""

HEAD = 4
DUPLICATE_WORDS = 5

OP_EVENTS, OP_COUNT, OP_SUM, OP_MEAN, OP_STD, OP_MIN, OP_MAX, OP_DISTINCT, OP_LAST, OP_SINCE = range(10)
_OPS = {
    Aggregate.SUM: OP_SUM,
    Aggregate.MEAN: OP_MEAN,
    Aggregate.STD: OP_STD,
    Aggregate.MIN: OP_MIN,
    Aggregate.MAX: OP_MAX,
    Aggregate.DISTINCT: OP_DISTINCT,
    Aggregate.LAST: OP_LAST,
    Aggregate.SECONDS_SINCE_LAST: OP_SINCE,
}


class PlanArrays(NamedTuple):
    """What the kernels see of a plan; all int64. Offsets are word offsets within a tile, -1 where unused."""

    layout: int
    is_key: int
    dedupe_window: int
    track_hop: Ints
    track_keep: Ints
    track_words: Ints
    stat_start: Ints  # stats of track i are stat_start[i] : stat_start[i + 1]
    stat_field: Ints
    stat_n: Ints
    stat_sum: Ints  # sum, compensation
    stat_welford: Ints  # mean, sum of squared deviations
    stat_min: Ints
    stat_max: Ints
    distinct_field: Ints
    distinct_hop: Ints
    distinct_keep: Ints
    last_field: Ints
    op: Ints
    out: Ints
    track: Ints  # or the distinct table, or the last slot
    stat: Ints
    tiles: Ints
    hop: Ints
    delay: Ints
    window: Ints  # last and since: microseconds, -1 for no limit
    current: Ints


@dataclass(frozen=True, slots=True)
class EntityPlan:
    """Everything needed to keep and read the state of one entity field."""

    entity: str
    is_key: bool
    number_fields: tuple[str, ...]
    hash_fields: tuple[str, ...]
    arrays: PlanArrays

    @property
    def head_words(self) -> int:
        """Words before the first tile."""
        a = self.arrays
        return HEAD + len(a.track_hop) + len(a.distinct_hop) + 2 * len(a.last_field)

    @property
    def growth_words(self) -> int:
        """The most words that one event can add to a blob."""
        a = self.arrays
        duplicates = DUPLICATE_WORDS if self.is_key else 0
        return int(a.track_words.sum()) + 2 * len(a.distinct_hop) + duplicates


def tiles_kept(feature: AggregateFeature, max_lateness: int) -> int:
    """How many tiles behind the newest one a windowed feature needs (docs/features.md, ``keep``)."""
    assert feature.window is not None
    assert feature.hop is not None
    return feature.window // feature.hop + -(-(feature.delay + max_lateness) // feature.hop) + 1


def bytes_bound(plan: EntityPlan) -> int:
    """The most bytes the blob of one entity can have, however many events it sees."""
    a = plan.arrays
    words = plan.head_words + int(((a.track_keep + 1) * a.track_words).sum())
    words += 2 * DISTINCT_MAX_ENTRIES * len(a.distinct_hop)
    words += DUPLICATE_WORDS * DUPLICATE_ENTRIES if plan.is_key else 0
    return 8 * words


def layout_digest(pipeline: Pipeline, entity: str) -> int:
    """63 bits that change when the meaning of any word of the entity's blob changes."""
    parts = [
        f"{f.aggregate}|{f.of}|{f.window}|{f.hop}|{f.delay}"
        for f in pipeline.features
        if isinstance(f, AggregateFeature) and f.entity == entity
    ]
    text = f"1|{entity}|{pipeline.event.key}|{pipeline.event.max_lateness}|" + ";".join(sorted(parts))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1


def _ints(values: list[int]) -> npt.NDArray[np.int64]:
    return np.array(values, dtype=np.int64)


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
    distinct: dict[tuple[str, int], int] = {}
    last: dict[str, int] = {}
    numbers: dict[str, int] = {}
    hashes: dict[str, int] = {}
    lateness = pipeline.event.max_lateness
    for f in features:
        if f.aggregate is Aggregate.LAST:
            assert f.of is not None
            last.setdefault(f.of, len(last))
            numbers.setdefault(f.of, len(numbers))
        elif f.aggregate is Aggregate.DISTINCT:
            assert f.of is not None
            assert f.hop is not None
            table = (f.of, f.hop)
            distinct[table] = max(distinct.get(table, 0), tiles_kept(f, lateness))
            hashes.setdefault(f.of, len(hashes))
        elif f.aggregate is not Aggregate.SECONDS_SINCE_LAST:
            assert f.hop is not None
            stats = tracks.setdefault(f.hop, [])
            keep[f.hop] = max(keep.get(f.hop, 0), tiles_kept(f, lateness))
            if f.of is not None:
                numbers.setdefault(f.of, len(numbers))
                found = next((s for s in stats if s.field == f.of), None)
                if found is None:
                    found = _Stat(f.of, set())
                    stats.append(found)
                found.needs.add(f.aggregate)

    track_of = {hop: i for i, hop in enumerate(tracks)}
    stat_start, track_words = [0], []
    stat_rows: list[tuple[int, int, int, int, int, int]] = []
    stat_of: dict[tuple[int, str], int] = {}
    for hop, stats in tracks.items():
        words = 2
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
        track_words.append(words)
        stat_start.append(len(stat_rows))

    table_of = {table: i for i, table in enumerate(distinct)}
    rows: list[tuple[int, ...]] = []
    for f in features:
        op = _OPS.get(f.aggregate, OP_COUNT if f.of is not None else OP_EVENTS)
        place = stat_index = tiles = -1
        if f.aggregate is Aggregate.LAST and f.of is not None:
            place = last[f.of]
        elif f.aggregate is Aggregate.DISTINCT and f.of is not None and f.hop is not None:
            place = table_of[f.of, f.hop]
        elif f.hop is not None:
            place = track_of[f.hop]
            stat_index = stat_of[f.hop, f.of] if f.of is not None else -1
        if f.window is not None and f.hop is not None:
            tiles = f.window // f.hop
        window = -1 if f.window is None else f.window
        rows.append(
            (op, columns[f.name], place, stat_index, tiles, f.hop or 1, f.delay, window, int(f.include_current))
        )

    def column(i: int) -> Ints:
        return _ints([row[i] for row in rows])

    def stat_column(i: int) -> Ints:
        return _ints([row[i] for row in stat_rows])

    arrays = PlanArrays(
        layout=layout_digest(pipeline, entity),
        is_key=int(entity == pipeline.event.key),
        dedupe_window=pipeline.event.dedupe_window,
        track_hop=_ints(list(tracks)),
        track_keep=_ints([keep[hop] for hop in tracks]),
        track_words=_ints(track_words),
        stat_start=_ints(stat_start),
        stat_field=stat_column(0),
        stat_n=stat_column(1),
        stat_sum=stat_column(2),
        stat_welford=stat_column(3),
        stat_min=stat_column(4),
        stat_max=stat_column(5),
        distinct_field=_ints([hashes[field] for field, _ in distinct]),
        distinct_hop=_ints([hop for _, hop in distinct]),
        distinct_keep=_ints(list(distinct.values())),
        last_field=_ints([numbers[field] for field in last]),
        op=column(0),
        out=column(1),
        track=column(2),
        stat=column(3),
        tiles=column(4),
        hop=column(5),
        delay=column(6),
        window=column(7),
        current=column(8),
    )
    return EntityPlan(
        entity=entity,
        is_key=entity == pipeline.event.key,
        number_fields=tuple(numbers),
        hash_fields=tuple(hashes),
        arrays=arrays,
    )
