"""Quantile sketches: codes and their order, accuracy at every level, bounded size, partitions at other levels."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from domain.pipeline import Aggregate, AggregateFeature, Pipeline
from featurestore.kernels_sketch import SMALLEST, accuracy_at, code_of, value_of
from featurestore.plan import SKETCH_ENTRIES, bytes_bound, plan_entities
from tests.reference import Row
from tests.unit.featurestore.harness import SECOND, START, Engine, compare, pipeline_of

HOP = 60 * SECOND
WINDOW = 48 * HOP


def quantile(q: float, *, name: str | None = None, window: int = WINDOW) -> AggregateFeature:
    return AggregateFeature(
        name=name or f"q{q}",
        entity="merchant",
        aggregate=Aggregate.QUANTILE,
        of="amount",
        q=q,
        window=window,
        hop=HOP,
    )


def event(time: int, offset: int, amount: float, *, partition: int = 0) -> Row:
    fields: dict[str, float | str | None] = {"amount": amount, "tip": None, "country": None, "merchant": "m"}
    return Row(f"id{offset}", START + time, offset, {"account": f"a{partition}", "merchant": "m"}, fields)


def sketch(engine: Engine, pipeline: Pipeline, partition: int = 0) -> tuple[int, int, int]:
    """Entries, level and bytes of the merchant's blob, as docs/redis-format.md lays them out."""
    blob = engine.stored(partition, "merchant", "m") or b""
    words = np.frombuffer(blob, "<i8")
    [plan] = [plan for plan in plan_entities(pipeline) if plan.entity == "merchant"]
    head = 6 + len(plan.arrays.tracks) + plan.arrays.n_distinct
    assert len(blob) <= bytes_bound(plan)
    return int(words[head]), int(words[head + 1]), len(blob)


MAGNITUDES = st.floats(min_value=SMALLEST, max_value=1e300)


@settings(max_examples=50, deadline=None)
@given(
    a=st.one_of(MAGNITUDES, MAGNITUDES.map(lambda v: -v), st.just(0.0)), b=MAGNITUDES, level=st.integers(0, 7)
)
def test_a_code_stands_for_values_within_its_accuracy_and_in_their_order(
    a: float, b: float, level: int
) -> None:
    assert abs(value_of(code_of(a, level), level) - a) <= accuracy_at(level) * (1 + 1e-9) * abs(a)
    codes = [code_of(v, level) for v in sorted([a, b, -b])]
    assert codes == sorted(codes)
    # what was coarsened later is what would have been counted coarsely
    assert code_of(a, 17) in {-(1 << 20) - 1, -(1 << 20), 0, 1 << 20, (1 << 20) + 1}


def test_accuracy_doubles_with_each_level() -> None:
    assert [round(accuracy_at(level), 4) for level in (0, 1, 2, 5, 20)] == [0.01, 0.02, 0.04, 0.3095, 1.0]
    assert code_of(-0.0, 0) == code_of(9e-301, 0) == 0


def test_rank_is_that_of_the_first_bucket_beyond_q_times_n_minus_1() -> None:
    features = [quantile(q) for q in (0.01, 0.5, 0.75, 0.99)]
    amounts = [5.0, -3.0, 0.0, 100.0, 5.0]
    rows = [(0, event(i * SECOND, i, amount)) for i, amount in enumerate(amounts)]
    pipeline = pipeline_of(features)
    compare(pipeline, rows)
    last = Engine(pipeline, 1, max_entities=9, forget=False).process(0, [r for _, r in rows]).features[-1, 1:]
    # sorted: -3, 0, 5, 5, 100; 0.75 * 4 = 3 is still the second 5
    assert last.tolist() == pytest.approx([-3.0, 5.0, 5.0, 5.0], rel=0.01)


def test_quantiles_over_the_same_field_and_hop_share_one_sketch() -> None:
    [_, plan] = plan_entities(
        pipeline_of([quantile(0.5), quantile(0.9), quantile(0.9, name="x", window=2 * WINDOW)])
    )
    assert (len(plan.arrays.tables), plan.arrays.n_distinct) == (1, 0)


def exact(rows: list[Row], now: int, q: float) -> float:
    """Order statistic over the window of ``now``, from the definition."""
    [found] = all_exact(rows, now, [q])
    return found


def all_exact(rows: list[Row], now: int, qs: Sequence[float]) -> list[float]:
    """The same of several, sorted once."""
    lowest = now // HOP - WINDOW // HOP
    values = sorted(float(row.fields["amount"] or 0.0) for row in rows if row.time // HOP >= lowest)
    return [values[math.floor(q * (len(values) - 1))] for q in qs]


def busy(seed: int, n: int, spread: float, partition: int = 0) -> list[Row]:
    """Values of both signs over many magnitudes, ``n`` of them in two windows."""
    chance = random.Random(seed)
    rows = []
    for i in range(n):
        amount = chance.lognormvariate(0, spread) * chance.choice([1, 1, 1, -1])
        rows.append(event(i * 2 * WINDOW // n, i, amount, partition=partition))
    return rows


@pytest.mark.parametrize("spread", [0.5, 3.0, 100.0])
def test_a_full_sketch_gets_coarser_and_stays_within_its_accuracy(spread: float) -> None:
    pipeline = pipeline_of([quantile(q) for q in (0.05, 0.5, 0.95)])
    rows = busy(5, 12_000, spread)
    engine = Engine(pipeline, 1, max_entities=9, forget=False)
    levels = []
    for at in range(0, len(rows), 1_000):
        found = engine.process(0, rows[at : at + 1_000]).features[-1, 1:]
        entries, level, _ = sketch(engine, pipeline)
        assert 0 < entries <= SKETCH_ENTRIES
        levels.append(level)
        last = rows[at + 999].time
        want = all_exact(rows[: at + 1_000], last, (0.05, 0.5, 0.95))
        assert np.all(np.abs(found - want) <= accuracy_at(level) * (1 + 1e-9) * np.abs(want)), (
            level,
            found,
            want,
        )
    assert levels == sorted(levels)
    assert levels[-1] > 0
    # once everything has expired it is as fine as new
    engine.process(0, [event(9 * WINDOW, 99_999, 1.0)])
    assert sketch(engine, pipeline)[:2] == (1, 0)


def test_partitions_at_other_levels_are_read_at_the_coarsest() -> None:
    pipeline = pipeline_of([quantile(0.5)])
    engine = Engine(pipeline, 2, max_entities=9, forget=False)
    many, few = busy(6, 8_000, 3.0), busy(7, 400, 3.0, partition=1)
    for at in range(0, 8_000, 1_000):
        engine.process(0, many[at : at + 1_000])
    engine.process(1, few[:-1])
    found = engine.process(1, few[-1:]).features[0, 1]
    assert sketch(engine, pipeline, 1)[1] == 0
    level = sketch(engine, pipeline, 0)[1]
    assert level > 0
    want = exact(many + few, few[-1].time, 0.5)
    assert abs(found - want) <= accuracy_at(level) * abs(want)


def test_more_tiles_than_a_sketch_has_room_for_are_refused() -> None:
    with pytest.raises(ValueError, match="too many for a sketch"):
        plan_entities(pipeline_of([quantile(0.5, window=500 * HOP)]))
