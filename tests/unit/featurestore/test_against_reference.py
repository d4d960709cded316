"""The compiled engine against the slow oracle, over random pipelines, orders, gaps and values."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from domain.batch import EventBatch
from domain.durations import parse_duration
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
from featurestore.ports import Applied, PartitionFlush
from featurestore.tables import Advanced, FeatureTables
from tests.reference import Outcome, Reference, Row

SECOND = 1_000_000
YEAR = 365 * 86_400 * SECOND
START = 1_522_540_800 * SECOND
HOPS = [10 * SECOND, 60 * SECOND]
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


class Engine:
    """FeatureTables as the worker drives them: load what is missing, advance, flush, perhaps forget."""

    def __init__(self, pipeline: Pipeline, partitions: int, *, max_entities: int, forget: bool) -> None:
        self._tables = FeatureTables(pipeline, partitions=partitions, max_entities=max_entities)
        self._store = MemoryStateStore()
        self._stream_time = [0] * partitions
        self._forget = forget
        for partition in range(partitions):
            self._tables.hold(partition)

    def process(self, partition: int, rows: Sequence[Row]) -> Advanced:
        batch = batch_of(rows)
        requests = self._tables.missing(partition, batch)
        self._tables.load(requests, self._store.load_entities(requests))
        advanced = self._tables.advance(partition, batch, stream_time=self._stream_time[partition])
        self._stream_time[partition] = advanced.stream_time
        applied = Applied(rows[-1].offset + 1, advanced.stream_time, 0)
        before = self._store.load_applied(partition)
        self._store.flush([PartitionFlush(partition, before, applied, self._tables.dirty(partition))])
        self._tables.mark_clean(partition)
        if self._forget:
            self._tables.hold(partition)
        return advanced


def tolerance(feature: Feature, want: float, largest: float, n: int) -> float:
    """How far the engine may be from the exact value; 0 for what must be equal."""
    if isinstance(feature, AggregateFeature):
        if feature.aggregate in {Aggregate.SUM, Aggregate.MEAN}:
            # one rounding at the end, and the second order term of compensated summation
            return 1e-12 * abs(want) + 4 * n**3 * EPS**2 * largest
        if feature.aggregate is Aggregate.STD:
            return 1e-6 * want + n * EPS * largest
        if feature.aggregate is Aggregate.DISTINCT and want > 128:
            return 0.45 * want  # five standard errors of the sketch
    return 0.0


def check(pipeline: Pipeline, rows: Sequence[Row], advanced: Advanced, outcomes: Sequence[Outcome]) -> None:
    values = [abs(v) for row in rows for v in row.fields.values() if isinstance(v, float)]
    largest = max([1e15, *values]) if max(values, default=0.0) > 1e6 else 1e6
    for i, (row, outcome) in enumerate(zip(rows, outcomes, strict=True)):
        assert bool(advanced.late[i]) == outcome.late, row
        assert bool(advanced.duplicate[i]) == outcome.duplicate, row
        assert advanced.first_offset[i] == (-1 if outcome.first_offset is None else outcome.first_offset), row
        for column, feature in enumerate(pipeline.features):
            got = float(advanced.features[i, column])
            want = None if outcome.features is None else outcome.features[feature.name]
            if want is None:
                assert math.isnan(got), (feature, row, got)
            else:
                allowed = tolerance(feature, want, largest, 100)
                assert abs(got - want) <= allowed, (feature, row, got, want, allowed)
    assert advanced.stream_time == outcomes[-1].stream_time


def compare(
    pipeline: Pipeline,
    rows: Sequence[tuple[int, Row]],
    *,
    partitions: int = 1,
    batch: int = 7,
    max_entities: int = 1_000,
    forget: bool = False,
) -> None:
    """Feed runs of one partition's rows (at most ``batch`` at a time) to both, and compare everything."""
    engine = Engine(pipeline, partitions, max_entities=max_entities, forget=forget)
    oracle = Reference(pipeline, partitions)
    at = 0
    while at < len(rows):
        partition = rows[at][0]
        end = at
        while end < len(rows) and end - at < batch and rows[end][0] == partition:
            end += 1
        part = [row for _, row in rows[at:end]]
        check(pipeline, part, engine.process(partition, part), oracle.process(partition, part))
        at = end


@st.composite
def aggregate_features(draw: st.DrawFn) -> list[AggregateFeature]:
    features = []
    for i in range(draw(st.integers(1, 6))):
        aggregate = draw(st.sampled_from(Aggregate))
        hop = draw(st.sampled_from(HOPS))
        window: int | None = hop * draw(st.integers(1, 6))
        of: str | None = draw(st.sampled_from(NUMBERS))
        delay = 0
        current = draw(st.booleans())
        if aggregate in {Aggregate.LAST, Aggregate.SECONDS_SINCE_LAST}:
            window = draw(st.sampled_from([None, 30 * SECOND]))
        elif aggregate is Aggregate.DISTINCT:
            of = draw(st.sampled_from([*NUMBERS, "country", "merchant"]))
        else:
            delay = hop * draw(st.sampled_from([0, 0, 0, 1, 3]))
        if aggregate is Aggregate.SECONDS_SINCE_LAST or (
            aggregate is Aggregate.COUNT and draw(st.booleans())
        ):
            of = None
        features.append(
            AggregateFeature(
                name=f"f{i}",
                entity=draw(st.sampled_from(["account", "merchant"])),
                aggregate=aggregate,
                of=of,
                window=window,
                hop=None if aggregate in {Aggregate.LAST, Aggregate.SECONDS_SINCE_LAST} else hop,
                delay=delay,
                include_current=current,
            )
        )
    return features


STEPS = st.one_of(
    st.sampled_from([0, 0, 1, -1, 10 * SECOND, -10 * SECOND, 60 * SECOND, -60 * SECOND, YEAR, -YEAR]),
    st.integers(-30 * SECOND, 40 * SECOND),
    st.integers(-400 * SECOND, 400 * SECOND),
)
AMOUNTS = st.one_of(
    st.sampled_from([0.0, -0.0, 1.0, 0.1, -3.7, 1e15, -1e15, 1e-9, 1 / 3]),
    st.floats(-1e15, 1e15, allow_nan=False),
)


@st.composite
def histories(draw: st.DrawFn, partitions: int) -> list[tuple[int, Row]]:
    events = draw(
        st.lists(
            st.tuples(
                STEPS,
                st.integers(0, partitions - 1),
                st.integers(0, 1),
                st.integers(0, 2),
                AMOUNTS,
                st.one_of(st.none(), AMOUNTS),
                st.sampled_from([None, "ES", "FR", "ES "]),
                st.integers(0, 5),
            ),
            # long enough for ties, repeats and expiry to meet; shorter ones seldom tell anything
            min_size=12,
            max_size=60,
        )
    )
    now = START
    rows: list[tuple[int, Row]] = []
    for offset, (step, partition, account, merchant, amount, tip, country, repeat) in enumerate(events):
        now += step
        # an account lives in one partition; one event in six takes an id that was used before
        name = rows[offset // 2][1].id if repeat == 0 and rows else f"id{offset}"
        fields: dict[str, float | str | None] = {
            "amount": amount,
            "tip": tip,
            "country": country,
            "merchant": f"m{merchant}",
        }
        entities = {"account": f"a{partition}.{account}", "merchant": f"m{merchant}"}
        rows.append((partition, Row(name, now, offset, entities, fields)))
    return rows


@settings(max_examples=50, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_any_pipeline_over_any_history(data: st.DataObject) -> None:
    partitions = data.draw(st.sampled_from([1, 1, 2, 3]), label="partitions")
    pipeline = pipeline_of(
        data.draw(aggregate_features(), label="features"),
        max_lateness=data.draw(st.sampled_from([0, 15 * SECOND, 60 * SECOND]), label="max_lateness"),
        dedupe_window=data.draw(st.sampled_from([0, 20 * SECOND, 3_600 * SECOND]), label="dedupe_window"),
        late=data.draw(st.sampled_from(LatePolicy), label="late"),
    )
    compare(
        pipeline,
        data.draw(histories(partitions), label="history"),
        partitions=partitions,
        batch=data.draw(st.sampled_from([1, 3, 40]), label="batch"),
        max_entities=data.draw(st.sampled_from([1, 1_000]), label="max_entities"),
        forget=data.draw(st.booleans(), label="forget"),
    )


def every_aggregate(entity: str, window: int, hop: int) -> list[AggregateFeature]:
    """One feature of every kind over one entity."""
    features = []
    for aggregate in Aggregate:
        unwindowed = aggregate in {Aggregate.LAST, Aggregate.SECONDS_SINCE_LAST}
        features.append(
            AggregateFeature(
                name=f"{entity}_{aggregate}",
                entity=entity,
                aggregate=aggregate,
                of=None if aggregate in {Aggregate.COUNT, Aggregate.SECONDS_SINCE_LAST} else "amount",
                window=None if unwindowed else window,
                hop=None if unwindowed else hop,
                include_current=not unwindowed,
            )
        )
    return features


def random_rows(seed: int, n: int, accounts: int, merchants: int, step: int) -> list[tuple[int, Row]]:
    chance = random.Random(seed)
    now = START
    rows = []
    for offset in range(n):
        now += chance.randrange(step)
        time = now - chance.choice([0, 0, 0, 30, 200]) * SECOND
        merchant = f"m{chance.randrange(merchants)}"
        fields: dict[str, float | str | None] = {
            "amount": round(chance.lognormvariate(3, 2), 2),
            "tip": None,
            "country": None,
            "merchant": merchant,
        }
        entities = {"account": f"a{chance.randrange(accounts)}", "merchant": merchant}
        rows.append((0, Row(f"id{chance.randrange(n)}", time, offset, entities, fields)))
    return rows


def test_many_entities_and_ids_under_eviction() -> None:
    features = [*every_aggregate("account", 480 * SECOND, 10 * SECOND)]
    features += every_aggregate("merchant", 3_600 * SECOND, 60 * SECOND)
    rows = random_rows(seed=3, n=600, accounts=150, merchants=20, step=10 * SECOND)
    compare(pipeline_of(features), rows, batch=50, max_entities=40)


def test_ties_in_time_go_to_the_later_processed() -> None:
    rows = [
        (offset, time, merchant, amount)
        for offset, (time, merchant, amount) in enumerate(
            [(5, "m", 1.0), (5, "m", 2.0), (4, "m", 3.0), (5, "m", 4.0), (5, "x", 5.0), (5, "m", 6.0)]
        )
    ]
    history = [
        (
            offset % 2,
            Row(
                f"id{offset}",
                START + time * SECOND,
                offset,
                {"account": f"a{offset % 2}", "merchant": merchant},
                {"amount": amount, "tip": None, "country": None, "merchant": merchant},
            ),
        )
        for offset, time, merchant, amount in rows
    ]
    features = [
        AggregateFeature(
            name="last", entity="merchant", aggregate=Aggregate.LAST, of="amount", include_current=False
        )
    ]
    compare(pipeline_of(features), history, partitions=2)
    # one partition: the page itself says what comes out
    outcomes = Reference(pipeline_of(features)).process(0, [row for _, row in history])
    assert [o.features and o.features["last"] for o in outcomes] == [None, 1.0, 2.0, 2.0, None, 4.0]
    compare(pipeline_of(features), [(0, row) for _, row in history])


def test_more_ids_than_are_remembered() -> None:
    rows = random_rows(seed=5, n=400, accounts=1, merchants=1, step=SECOND)
    compare(pipeline_of(every_aggregate("account", 480 * SECOND, 10 * SECOND)), rows, batch=64)


def test_distinct_is_exact_up_to_128_and_estimated_above() -> None:
    feature = AggregateFeature(
        name="d",
        entity="account",
        aggregate=Aggregate.DISTINCT,
        of="amount",
        window=100 * SECOND,
        hop=10 * SECOND,
    )
    # 1 value a second keeps the window's count near 100, 10 a second near 1,000, and 1 a second again
    rows = []
    now = START
    for offset in range(1_000):
        now += SECOND if not 200 <= offset < 800 else SECOND // 10
        fields: dict[str, float | str | None] = {
            "amount": float(offset),
            "tip": None,
            "country": None,
            "merchant": "m",
        }
        rows.append((0, Row(f"id{offset}", now, offset, {"account": "a", "merchant": "m"}, fields)))
    compare(pipeline_of([feature]), rows, batch=100)


def test_a_month_of_hops_is_one_window() -> None:
    window, hop = parse_duration("30d"), parse_duration("15h")
    rows = random_rows(seed=9, n=300, accounts=2, merchants=2, step=parse_duration("12h"))
    features = every_aggregate("account", window, hop) + every_aggregate("merchant", window, hop)
    compare(pipeline_of(features, max_lateness=parse_duration("1h")), rows, batch=300)
