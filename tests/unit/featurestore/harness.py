"""The engine driven as a worker drives it, beside the oracle; no tests in here."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from domain.batch import EventBatch
from domain.label import LabelBatch
from domain.pipeline import (
    Aggregate,
    AggregateFeature,
    Decision,
    EventSpec,
    Feature,
    Field,
    FieldType,
    LatePolicy,
    Pipeline,
    ValueFeature,
)
from featurestore.memory import MemoryStateStore
from featurestore.ports import Applied, EntityRequest, PartitionFlush
from featurestore.tables import Advanced, FeatureTables
from tests.reference import Label, Outcome, Reference, Row

SECOND = 1_000_000
START = 1_522_540_800 * SECOND
NUMBERS = ("amount", "tip")
EPS = 2.0**-52


def pipeline_of(
    features: Sequence[Feature],
    *,
    max_lateness: int = 60 * SECOND,
    dedupe_window: int = 3_600 * SECOND,
    late: LatePolicy = LatePolicy.COUNT,
) -> Pipeline:
    fields = [
        Field(name="id", type=FieldType.STRING, source="id"),
        Field(name="time", type=FieldType.TIMESTAMP, source="time"),
        Field(name="account", type=FieldType.STRING, source="account"),
        Field(name="merchant", type=FieldType.STRING, source="merchant"),
        Field(name="amount", type=FieldType.NUMBER, source="amount"),
        Field(name="tip", type=FieldType.NUMBER, source="tip", required=False),
        Field(name="country", type=FieldType.STRING, source="country", required=False),
    ]
    return Pipeline(
        name="reference",
        version=1,
        event=EventSpec(
            id="id",
            time="time",
            key="account",
            max_lateness=max_lateness,
            max_future=0,
            dedupe_window=dedupe_window,
            late=late,
            fields=tuple(fields),
        ),
        features=(ValueFeature(name="amount", field="amount"), *features),
        detectors=(),
        decision=Decision(),
    )


def batch_of(rows: Sequence[Row]) -> EventBatch:
    def number(value: object) -> float:
        return value if isinstance(value, float) else math.nan

    def text(value: object) -> str | None:
        return value if isinstance(value, str) else None

    return EventBatch(
        ids=[row.id for row in rows],
        times=np.array([row.time for row in rows], np.int64),
        offsets=np.array([row.offset for row in rows], np.int64),
        entities={name: [row.entities[name] for row in rows] for name in ("account", "merchant")},
        numbers={name: np.array([number(row.fields[name]) for row in rows]) for name in NUMBERS},
        strings={name: [text(row.fields[name]) for row in rows] for name in ("country", "merchant")},
    )


def labels_of(labels: Sequence[Label]) -> LabelBatch:
    return LabelBatch(
        offsets=np.array([c.offset for c in labels], np.int64),
        known_at=np.array([c.known_at for c in labels], np.int64),
        times=np.array([c.time for c in labels], np.int64),
        entities={name: [c.entities[name] for c in labels] for name in ("account", "merchant")},
        change=np.array([c.change for c in labels], np.int64),
    )


class Engine:
    """FeatureTables as the worker drives them: load what is missing, advance, flush, perhaps forget."""

    def __init__(self, pipeline: Pipeline, partitions: int, *, max_entities: int, forget: bool) -> None:
        self.tables = FeatureTables(pipeline, partitions=partitions, max_entities=max_entities)
        self.store = MemoryStateStore()
        self._stream_time = [0] * partitions
        self._forget = forget
        for partition in range(partitions):
            self.tables.hold(partition)

    def process(self, partition: int, rows: Sequence[Row], labels: Sequence[Label] = ()) -> Advanced:
        batch = batch_of(rows)
        changes = labels_of(labels) if labels else None
        self.load(partition, batch, changes)
        advanced = self.tables.advance(
            partition, batch, stream_time=self._stream_time[partition], labels=changes
        )
        self._stream_time[partition] = advanced.stream_time
        self._flush(partition, next_offset=rows[-1].offset + 1, labels=labels)
        return advanced

    def apply_labels(self, partition: int, labels: Sequence[Label]) -> None:
        """All at once, without events, as recovery does."""
        self.load(partition, batch_of([]), labels_of(labels))
        self.tables.apply_labels(partition, labels_of(labels))
        self._flush(partition, labels=labels)

    def load(self, partition: int, batch: EventBatch, labels: LabelBatch | None) -> None:
        requests = self.tables.missing(partition, batch, labels)
        self.tables.load(requests, self.store.load_entities(requests))

    def stored(self, partition: int, entity: str, key: str) -> bytes | None:
        [[blob]] = self.store.load_entities([EntityRequest(partition, entity, [key])])
        return blob

    def due(self, partition: int, rows: Sequence[Row], labels: Sequence[Label]) -> list[Label]:
        """Which of the next labels can be applied in a batch of these rows."""
        newest = max(self._stream_time[partition], *(row.time for row in rows))
        return list(labels[: labels_of(labels).due(newest)])

    def _flush(self, partition: int, *, next_offset: int | None = None, labels: Sequence[Label] = ()) -> None:
        before = self.store.load_applied(partition)
        applied = Applied(
            next_offset if next_offset is not None else (before.next_offset if before else 0),
            self._stream_time[partition],
            0,
            labels[-1].offset + 1 if labels else (before.labels_offset if before else 0),
        )
        self.store.flush([PartitionFlush(partition, before, applied, self.tables.dirty(partition))])
        self.tables.mark_clean(partition)
        if self._forget:
            self.tables.hold(partition)


def tolerance(feature: Feature, want: float, largest: float, n: int) -> float:
    """How far the engine may be from the exact value; 0 for what must be equal."""
    if isinstance(feature, AggregateFeature):
        if feature.aggregate in {Aggregate.SUM, Aggregate.MEAN}:
            # one rounding at the end, and the second order term of compensated summation
            return 1e-12 * abs(want) + 4 * n**3 * EPS**2 * largest
        if feature.aggregate is Aggregate.STD:
            # squares of such values are beyond any float; a pipeline file allows magnitudes up to 1e100
            return math.inf if largest > 1e150 else 1e-6 * want + n * EPS * largest
        if feature.half_life is not None:
            # every event costs its predecessors four roundings, and an exponent a loses a * 2**-a < 1 of them
            return 8 * n * n * EPS * (1.0 if feature.of is None else largest)
        if feature.aggregate is Aggregate.QUANTILE:
            return 0.01 * (1 + 1e-9) * abs(want) + 1e-300
        if feature.aggregate is Aggregate.DISTINCT and want > 128:
            return 0.45 * want  # five standard errors of the sketch
    return 0.0


def check(
    pipeline: Pipeline, rows: Sequence[Row], advanced: Advanced, outcomes: Sequence[Outcome], largest: float
) -> None:
    for i, (row, outcome) in enumerate(zip(rows, outcomes, strict=True)):
        assert bool(advanced.late[i]) == outcome.late, row
        assert bool(advanced.duplicate[i]) == outcome.duplicate, row
        assert advanced.labels_applied[i] == outcome.labels_applied, row
        assert advanced.first_offset[i] == (-1 if outcome.first_offset is None else outcome.first_offset), row
        for column, feature in enumerate(pipeline.features):
            got = float(advanced.features[i, column])
            want = None if outcome.features is None else outcome.features[feature.name]
            if want is None:
                assert math.isnan(got), (feature, row, got)
            else:
                allowed = tolerance(feature, want, largest, 100)
                assert allowed == math.inf or abs(got - want) <= allowed, (feature, row, got, want, allowed)
    assert advanced.stream_time == outcomes[-1].stream_time


@dataclass(frozen=True, slots=True)
class Arrival:
    """A label change and where: in the log of ``partition``, from the moment of row number ``at`` on."""

    partition: int
    at: int
    label: Label


def compare(
    pipeline: Pipeline,
    rows: Sequence[tuple[int, Row]],
    *,
    labels: Sequence[Arrival] = (),
    partitions: int = 1,
    batch: int = 7,
    max_entities: int = 1_000,
    forget: bool = False,
) -> Engine:
    """Feed runs of one partition's rows (at most ``batch`` at a time) to both, and compare everything."""
    engine = Engine(pipeline, partitions, max_entities=max_entities, forget=forget)
    oracle = Reference(pipeline, partitions)
    largest = max([1e6, *(abs(v) for _, row in rows for v in row.fields.values() if isinstance(v, float))])
    for partition, part, due in batches(engine, rows, labels, batch):
        got, want = engine.process(partition, part, due), oracle.process(partition, part, due)
        check(pipeline, part, got, want, largest)
    return engine


def batches(
    engine: Engine, rows: Sequence[tuple[int, Row]], labels: Sequence[Arrival], size: int
) -> Iterator[tuple[int, list[Row], list[Label]]]:
    """The history as a worker would take it: a partition, its next rows, the labels due among those there."""
    waiting = sorted(labels, key=lambda arrival: arrival.label.offset)
    at = 0
    while at < len(rows):
        partition = rows[at][0]
        end = at
        while end < len(rows) and end - at < size and rows[end][0] == partition:
            end += 1
        part = [row for _, row in rows[at:end]]
        there = [a for a in waiting if a.partition == partition and a.at <= at]
        due = engine.due(partition, part, [a.label for a in there])
        taken = {label.offset for label in due}
        waiting = [a for a in waiting if a.label.offset not in taken]
        yield partition, part, due
        at = end
