"""Sums that fade: values told by the page, precision over long histories, gaps that leave nothing."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest

from domain.pipeline import Aggregate, AggregateFeature
from tests.reference import Row
from tests.unit.featurestore.harness import SECOND, START, Engine, compare, pipeline_of

DAY = 86_400 * SECOND


def fading(*, current: bool = True, of: str | None = "amount", half_life: int = DAY) -> AggregateFeature:
    return AggregateFeature(
        name="faded",
        entity="merchant",
        aggregate=Aggregate.DECAYED_COUNT if of is None else Aggregate.DECAYED_SUM,
        of=of,
        half_life=half_life,
        include_current=current,
    )


def event(time: float, offset: int, amount: float | None, *, partition: int = 0) -> tuple[int, Row]:
    fields: dict[str, float | str | None] = {"amount": 1.0, "tip": amount, "country": None, "merchant": "m"}
    if amount is not None:
        fields["amount"] = amount
    entities = {"account": f"a{partition}", "merchant": "m"}
    return partition, Row(f"id{offset}", START + round(time), offset, entities, fields)


def values(feature: AggregateFeature, rows: list[tuple[int, Row]], partitions: int = 1) -> list[float]:
    pipeline = pipeline_of([feature])
    compare(pipeline, rows, partitions=partitions)
    engine = Engine(pipeline, partitions, max_entities=100, forget=False)
    return [float(engine.process(partition, [row]).features[0, 1]) for partition, row in rows]


def test_an_event_counts_half_after_each_half_life() -> None:
    rows = [event(0, 0, 8.0), event(DAY, 1, 1.0), event(3 * DAY, 2, 0.0)]
    assert values(fading(), rows) == [8.0, 5.0, 1.25]
    assert values(fading(current=False), rows) == [0.0, 4.0, 1.25]
    assert values(fading(of=None), rows) == [1.0, 1.5, 1.375]


def test_a_look_into_the_past_sees_the_sum_as_at_the_newest_event() -> None:
    rows = [event(2 * DAY, 0, 8.0), event(0, 1, 4.0), event(DAY, 2, 0.0)]
    assert values(fading(), rows) == [8.0, 9.0, 9.0]


def test_partitions_are_seen_at_the_newest_of_them() -> None:
    rows = [event(0, 0, 8.0), event(2 * DAY, 1, 4.0, partition=1), event(DAY, 2, 0.0)]
    assert values(fading(), rows, partitions=2) == [8.0, 6.0, 6.0]


def test_a_missing_value_neither_counts_nor_moves_the_reference() -> None:
    rows = [event(0, 0, 8.0), event(DAY, 1, None), event(0, 2, 1.0)]
    assert values(fading(of="tip"), rows) == [8.0, 4.0, 9.0]


@pytest.mark.parametrize("amount", [1e300, -1e300, 1e-300, 5e-324])
def test_years_of_silence_leave_little_or_nothing_and_no_nonsense(amount: float) -> None:
    rows = [
        event(age * DAY, i, amount if i == 0 else 0.0) for i, age in enumerate([0, 1_100, 40_000, 70_000])
    ]
    found = values(fading(), rows)
    assert found[0] == amount
    # 1,100 half-lives: a factor of 2**-1100 is no float any more, but 1e300 times it is
    assert found[1] == pytest.approx(math.ldexp(amount, -1_100), rel=1e-12, abs=0)
    assert found[2:] == [0.0, 0.0]


def test_thousands_of_events_lose_a_thousandth_of_a_billionth() -> None:
    chance = random.Random(11)
    now, rows, faded = 0.0, [], []
    for offset in range(5_000):
        now += chance.expovariate(1 / (DAY / 50))
        rows.append(event(now, offset, chance.lognormvariate(3, 2))[1])
        faded.append(rows[-1].fields["amount"])
    engine = Engine(pipeline_of([fading()]), 1, max_entities=100, forget=False)
    found = np.concatenate(
        [engine.process(0, rows[at : at + 500]).features[:, 1] for at in range(0, len(rows), 500)]
    )
    for last in (10, 600, 4_999):
        exact = math.fsum(
            float(row.fields["amount"] or 0.0) * 2.0 ** (-(rows[last].time - row.time) / DAY)
            for row in rows[: last + 1]
        )
        # weights halve every 50 events, so the four roundings each of them costs weigh as those of about 70
        assert found[last] == pytest.approx(exact, rel=4 * 70 * 2.0**-52)
