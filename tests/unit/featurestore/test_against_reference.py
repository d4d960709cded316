"""The compiled engine against the slow oracle, over random pipelines, orders, gaps and values."""

from __future__ import annotations

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from domain.durations import parse_duration
from domain.pipeline import Aggregate, AggregateFeature, LatePolicy
from tests.reference import Reference, Row
from tests.unit.featurestore.harness import SECOND, START, compare, pipeline_of
from tests.unit.featurestore.strategies import (
    aggregate_features,
    every_aggregate,
    histories,
    label_logs,
    random_rows,
)


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
    rows = data.draw(histories(partitions), label="history")
    compare(
        pipeline,
        rows,
        labels=data.draw(label_logs(rows), label="labels"),
        partitions=partitions,
        batch=data.draw(st.sampled_from([1, 3, 40]), label="batch"),
        max_entities=data.draw(st.sampled_from([1, 1_000]), label="max_entities"),
        forget=data.draw(st.booleans(), label="forget"),
    )


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
