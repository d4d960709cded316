"""The oracle of docs/features.md: the whole history, every window counted from scratch, nothing clever.

Written from the page alone. Nothing is shared with ``featurestore`` but the declaration records, so that a
misreading in one of them shows as a difference. Cost: the whole history per event.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from domain.pipeline import Aggregate, AggregateFeature, LatePolicy, Pipeline, ValueFeature

__all__ = ["Label", "Outcome", "Reference", "Row"]

Value = float | str | None
REMEMBERED_IDS = 64
_OWN_TILES = (Aggregate.DISTINCT, Aggregate.QUANTILE)
"""These share tiles only with their like over the same field."""


@dataclass(frozen=True, slots=True)
class Row:
    """One event: time in UTC microseconds, ``entities`` as text, ``fields`` by name (None: missing)."""

    id: str
    time: int
    offset: int
    entities: dict[str, str]
    fields: dict[str, Value]


@dataclass(frozen=True, slots=True)
class Label:
    """One change of the label of an event at ``time``; ``change`` is +1, -1 or 0. Times in UTC microseconds."""

    offset: int
    known_at: int
    time: int
    entities: dict[str, str]
    change: int


@dataclass(frozen=True, slots=True)
class Outcome:
    """``features`` is None for a duplicate; a missing value in it is None, and expressions are left out.

    ``labels_applied`` counts the given labels that were applied before the event.
    """

    features: dict[str, float | None] | None
    late: bool
    first_offset: int | None
    stream_time: int
    labels_applied: int

    @property
    def duplicate(self) -> bool:
        """Whether the event was seen before."""
        return self.first_offset is not None


@dataclass(slots=True)
class _Partition:
    stream_time: int | None = None
    counted: list[Row] = field(default_factory=list)
    labels: list[Label] = field(default_factory=list)
    ids: dict[str, list[Row]] = field(default_factory=dict)


class Reference:
    """Feed it every event of every partition, in the order of processing; it answers each at once."""

    def __init__(self, pipeline: Pipeline, partitions: int = 1) -> None:
        self._pipeline = pipeline
        self._partitions = [_Partition() for _ in range(partitions)]

    def process(self, partition: int, rows: Sequence[Row], labels: Sequence[Label] = ()) -> list[Outcome]:
        """Outcomes of ``rows``, which are the partition's next events in offset order.

        ``labels`` are its next label changes, in log order: each is applied as soon as stream time reaches
        the moment at which it was known, and the ones before it are applied.
        """
        pending = list(labels)
        return [
            self._process(self._partitions[partition], partition, row, pending, len(labels)) for row in rows
        ]

    def _process(
        self, here: _Partition, partition: int, row: Row, pending: list[Label], given: int
    ) -> Outcome:
        event = self._pipeline.event
        late = here.stream_time is not None and row.time < here.stream_time - event.max_lateness
        here.stream_time = row.time if here.stream_time is None else max(here.stream_time, row.time)
        while pending and pending[0].known_at <= here.stream_time:
            here.labels.append(pending.pop(0))
        applied = given - len(pending)
        first = self._first_occurrence(here, row)
        if first is not None:
            return Outcome(None, late, first.offset, here.stream_time, applied)
        features: dict[str, float | None] = {}
        for feature in self._pipeline.features:
            if isinstance(feature, ValueFeature):
                value = row.fields[feature.field]
                assert not isinstance(value, str)
                features[feature.name] = value
            elif isinstance(feature, AggregateFeature):
                features[feature.name] = self._aggregate(feature, partition, row)
        if not (late and event.late is LatePolicy.IGNORE):
            here.counted.append(row)
            self._remember(here, row)
        return Outcome(features, late, None, here.stream_time, applied)

    def _first_occurrence(self, here: _Partition, row: Row) -> Row | None:
        for known in here.ids.get(row.entities[self._pipeline.event.key], []):
            if known.id == row.id and known.time >= row.time - self._pipeline.event.dedupe_window:
                return known
        return None

    def _remember(self, here: _Partition, row: Row) -> None:
        key = self._pipeline.event.key
        newest = max(r.time for r in here.counted if r.entities[key] == row.entities[key])
        known = here.ids.get(row.entities[key], [])[-(REMEMBERED_IDS - 1) :]
        known = [r for r in known if r.time >= newest - self._pipeline.event.dedupe_window]
        here.ids[row.entities[key]] = [*known, row]

    def _aggregate(self, f: AggregateFeature, partition: int, row: Row) -> float | None:
        """One feature from the events of the same entity value, one list per partition."""
        here = self._partitions[partition]
        sources = [here] if f.entity == self._pipeline.event.key else self._partitions
        histories, labels = [], []
        for source in sources:
            history = [r for r in source.counted if r.entities[f.entity] == row.entities[f.entity]]
            if f.include_current and source is here:
                history.append(row)
            histories.append(history)
            told = [c for c in source.labels if c.change and c.entities[f.entity] == row.entities[f.entity]]
            labels.append(told if self._label_fed(f) else [])
        if f.aggregate is Aggregate.SECONDS_SINCE_LAST:
            times = [r.time for history in histories for r in history]
            newest = max(times, default=None)
            if newest is None or (f.window is not None and row.time - newest > f.window):
                return None
            return max(0, row.time - newest) / 1e6
        if f.aggregate is Aggregate.LAST:
            return self._last(f, row, histories)
        if f.half_life is not None:
            return _decayed(f, row.time, [r for history in histories for r in history])
        inside = []
        positives = 0
        for history, told in zip(histories, labels, strict=True):
            lowest, highest = self._tiles(f, row.time, [*history, *told])
            inside += [r for r in history if lowest <= r.time // _given(f.hop) <= highest]
            positives += sum(c.change for c in told if lowest <= c.time // _given(f.hop) <= highest)
        if f.aggregate is Aggregate.RATE:
            return min(max(positives / len(inside), 0.0), 1.0) if inside else None
        if f.of is None:
            return float(len(inside))
        values = [r.fields[f.of] for r in inside if r.fields[f.of] is not None]
        if f.aggregate is Aggregate.DISTINCT:
            return float(len(set(values)))
        if f.aggregate is Aggregate.QUANTILE:
            ordered = sorted(v for v in values if isinstance(v, float))
            return ordered[math.floor(_given(f.q) * (len(ordered) - 1))] if ordered else None
        return _combine(f.aggregate, [v for v in values if isinstance(v, float)])

    @staticmethod
    def _last(f: AggregateFeature, row: Row, histories: list[list[Row]]) -> float | None:
        assert f.of is not None
        newest: Row | None = None
        for history in histories:  # in partition order, and each in order of processing: later ones win ties
            for r in history:
                if r.fields[f.of] is not None and (newest is None or r.time >= newest.time):
                    newest = r
        if newest is None or (f.window is not None and row.time - newest.time > f.window):
            return None
        value = newest.fields[f.of]
        assert isinstance(value, float)
        return value

    def _tiles(self, f: AggregateFeature, now: int, seen: Sequence[Row | Label]) -> tuple[int, float]:
        """First and last tile of the window at ``now`` that one partition keeps, having ``seen`` all that."""
        hop = _given(f.hop)
        lowest = (now - f.delay) // hop - _given(f.window) // hop
        highest: float = now // hop if f.delay == 0 else (now - f.delay) // hop - 1
        if f.aggregate is Aggregate.DISTINCT:
            highest = math.inf
        oldest_kept = max((r.time // hop for r in seen), default=0) - self._keep(f)
        return max(lowest, oldest_kept), highest

    def _sharing(self, f: AggregateFeature) -> list[AggregateFeature]:
        """Features of the same entity that share tiles with ``f``, itself included."""
        return [
            g
            for g in self._pipeline.features
            if isinstance(g, AggregateFeature)
            and (g.entity, g.hop) == (f.entity, f.hop)
            and [g.aggregate is own for own in _OWN_TILES] == [f.aggregate is own for own in _OWN_TILES]
            and (g.of == f.of or f.aggregate not in _OWN_TILES)
        ]

    def _label_fed(self, f: AggregateFeature) -> bool:
        """Whether labels open tiles that ``f`` looks at, as events do."""
        return any(g.aggregate is Aggregate.RATE for g in self._sharing(f))

    def _keep(self, f: AggregateFeature) -> int:
        """Tiles kept behind the newest. Features with the same hop share tiles: the largest need counts."""
        lateness = self._pipeline.event.max_lateness
        return max(
            g.window // g.hop + math.ceil((g.delay + lateness) / g.hop) + 1
            for g in self._sharing(f)
            if g.window is not None and g.hop is not None
        )


def _decayed(f: AggregateFeature, now: int, events: list[Row]) -> float:
    """Half as much for every half-life of age, seen at ``now`` or at the newest event, whichever is later."""
    told = [(r.time, 1.0 if f.of is None else r.fields[f.of]) for r in events]
    values = [(time, value) for time, value in told if isinstance(value, float)]
    at = max([now, *(time for time, _ in values)])
    # in three factors, so that none leaves the range of a float before the product does
    return math.fsum(
        v * _third(f, at - time) * _third(f, at - time) * _third(f, at - time) for time, v in values
    )


def _third(f: AggregateFeature, age: int) -> float:
    """The cube root of what is left after ``age``."""
    return float(2.0 ** (-(age / _given(f.half_life)) / 3))


N = TypeVar("N", int, float)


def _given(value: N | None) -> N:
    assert value is not None
    return value


def _combine(aggregate: Aggregate, values: list[float]) -> float | None:
    if aggregate is Aggregate.COUNT:
        return float(len(values))
    if aggregate is Aggregate.SUM:
        return math.fsum(values)
    if not values:
        return None
    if aggregate is Aggregate.MEAN:
        return math.fsum(values) / len(values)
    if aggregate is Aggregate.MIN:
        return min(values)
    if aggregate is Aggregate.MAX:
        return max(values)
    assert aggregate is Aggregate.STD
    # exact: the standard library computes with fractions and rounds once
    return statistics.stdev(values) if len(values) > 1 else None
