"""Random pipelines, histories and logs of labels; no tests in here."""

from __future__ import annotations

import random
from collections.abc import Sequence

from hypothesis import strategies as st

from domain.pipeline import Aggregate, AggregateFeature
from tests.reference import Label, Row
from tests.unit.featurestore.harness import NUMBERS, SECOND, START, Arrival

YEAR = 365 * 86_400 * SECOND
HOPS = [10 * SECOND, 60 * SECOND]
DECAYED = {Aggregate.DECAYED_SUM, Aggregate.DECAYED_COUNT}
UNTILED = {Aggregate.LAST, Aggregate.SECONDS_SINCE_LAST, *DECAYED}


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
        half_life = q = None
        if aggregate in {Aggregate.LAST, Aggregate.SECONDS_SINCE_LAST}:
            window = draw(st.sampled_from([None, 30 * SECOND]))
        elif aggregate in DECAYED:
            window, half_life = None, draw(st.sampled_from([SECOND, 90 * SECOND, YEAR]))
        elif aggregate is Aggregate.DISTINCT:
            of = draw(st.sampled_from([*NUMBERS, "country", "merchant"]))
        else:
            delay = hop * draw(st.sampled_from([0, 0, 0, 1, 3]))
        if aggregate is Aggregate.SECONDS_SINCE_LAST or (
            aggregate is Aggregate.COUNT and draw(st.booleans())
        ):
            of = None
        if aggregate is Aggregate.DECAYED_COUNT:
            of = None
        if aggregate is Aggregate.QUANTILE:
            q = draw(st.sampled_from([0.5, 0.01, 0.95, 1 / 3]))
        if aggregate is Aggregate.RATE:
            of, current = "label", False
        features.append(
            AggregateFeature(
                name=f"f{i}",
                entity=draw(st.sampled_from(["account", "merchant"])),
                aggregate=aggregate,
                of=of,
                window=window,
                hop=None if aggregate in UNTILED else hop,
                delay=delay,
                half_life=half_life,
                q=q,
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
EXTREMES = st.sampled_from([-0.0, 1e-300, -1e-300, 5e-324, 1e300, -1e300, 1.0, -2.5, 1e15])
SMALL = st.one_of(st.sampled_from([-0.0, 0.0, 1.0, 1e-300]), st.floats(-1_000, 1_000, allow_nan=False))


@st.composite
def histories(draw: st.DrawFn, partitions: int) -> list[tuple[int, Row]]:
    amounts = draw(st.sampled_from([AMOUNTS, SMALL, SMALL, EXTREMES]))
    skews = [0, draw(st.sampled_from([0, 0, -180 * SECOND, 420 * SECOND]))]
    events = draw(
        st.lists(
            st.tuples(
                STEPS,
                st.integers(0, partitions - 1),
                st.integers(0, 1),
                st.integers(0, 2),
                amounts,
                st.one_of(st.none(), amounts),
                st.sampled_from([None, "ES", "FR", "ES "]),
                st.integers(0, 5),
                st.sampled_from(skews),
            ),
            # long enough for ties, repeats and expiry to meet; shorter ones seldom tell anything
            min_size=12,
            max_size=60,
        )
    )
    now = START
    rows: list[tuple[int, Row]] = []
    for offset, (step, partition, account, merchant, amount, tip, country, repeat, skew) in enumerate(events):
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
        # two producers whose clocks are minutes apart
        rows.append((partition, Row(name, now + skew, offset, entities, fields)))
    return rows


_OF = {
    Aggregate.COUNT: None,
    Aggregate.SECONDS_SINCE_LAST: None,
    Aggregate.DECAYED_COUNT: None,
    Aggregate.RATE: "label",
}
PAST_ONLY = {Aggregate.LAST, Aggregate.SECONDS_SINCE_LAST, Aggregate.RATE}


@st.composite
def label_logs(draw: st.DrawFn, rows: Sequence[tuple[int, Row]]) -> list[Arrival]:
    """Label changes about some of the rows, known and written down at any time, also before their event."""
    told = draw(
        st.lists(
            st.tuples(
                st.integers(0, len(rows) - 1),
                st.integers(0, len(rows)),
                st.sampled_from([1, 1, 1, -1, 0]),
                st.one_of(st.integers(-60 * SECOND, 900 * SECOND), st.sampled_from([YEAR, -YEAR])),
            ),
            max_size=30,
        )
    )
    arrivals = []
    for offset, (about, at, change, delay) in enumerate(sorted(told, key=lambda t: t[1])):
        partition, row = rows[about]
        label = Label(offset, row.time + delay, row.time, row.entities, change)
        arrivals.append(Arrival(partition, at, label))
    return arrivals


def every_aggregate(entity: str, window: int, hop: int) -> list[AggregateFeature]:
    """One feature of every kind over one entity."""
    features = []
    for aggregate in Aggregate:
        features.append(
            AggregateFeature(
                name=f"{entity}_{aggregate}",
                entity=entity,
                aggregate=aggregate,
                of=_OF.get(aggregate, "amount"),
                window=None if aggregate in UNTILED else window,
                hop=None if aggregate in UNTILED else hop,
                half_life=window if aggregate in DECAYED else None,
                q=0.9 if aggregate is Aggregate.QUANTILE else None,
                include_current=aggregate not in PAST_ONLY,
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
