"""Labels that feed features: when they count, that order relative to events is irrelevant, what is refused."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from domain.pipeline import Aggregate, AggregateFeature, LatePolicy, Pipeline
from tests.reference import Label, Row
from tests.unit.featurestore.harness import (
    SECOND,
    START,
    Arrival,
    Engine,
    batch_of,
    batches,
    compare,
    labels_of,
    pipeline_of,
)
from tests.unit.featurestore.strategies import aggregate_features, histories, label_logs

MINUTE = 60 * SECOND


def rate(name: str = "rate", *, entity: str = "merchant", delay: int = 0) -> AggregateFeature:
    return AggregateFeature(
        name=name,
        entity=entity,
        aggregate=Aggregate.RATE,
        of="label",
        window=10 * MINUTE,
        hop=MINUTE,
        delay=delay,
        include_current=False,
    )


def event(minute: float, offset: int, *, account: str = "a", merchant: str = "m") -> Row:
    fields = {"amount": 1.0, "tip": None, "country": None, "merchant": merchant}
    return Row(
        f"id{offset}",
        START + round(minute * MINUTE),
        offset,
        {"account": account, "merchant": merchant},
        fields,
    )


def label(row: Row, offset: int, known: float, change: int = 1) -> Label:
    return Label(offset, START + round(known * MINUTE), row.time, row.entities, change)


def rates(pipeline: Pipeline, rows: list[Row], labels: list[Arrival], batch: int = 100) -> list[float]:
    """The pipeline's first rate of each row, as engine and oracle agree."""
    found: list[float] = []
    engine = Engine(pipeline, 1, max_entities=100, forget=False)
    compare(pipeline, [(0, row) for row in rows], labels=labels, batch=batch)
    for _, part, due in batches(engine, [(0, row) for row in rows], labels, batch):
        found += engine.process(0, part, due).features[:, 1].tolist()
    return found


def test_a_label_counts_from_the_moment_it_is_known_and_a_reversal_takes_it_back() -> None:
    rows = [event(minute, minute) for minute in range(7)]
    labels = [Arrival(0, 0, label(rows[0], 0, known=3)), Arrival(0, 0, label(rows[0], 1, known=5, change=-1))]
    expected = [np.nan, 0.0, 0.0, 1 / 3, 1 / 4, 0.0, 0.0]
    np.testing.assert_array_equal(rates(pipeline_of([rate()]), rows, labels), expected)
    np.testing.assert_array_equal(rates(pipeline_of([rate()]), rows, labels, batch=1), expected)


def test_a_label_waits_for_those_before_it_in_the_log() -> None:
    rows = [event(minute, minute) for minute in range(6)]
    labels = [Arrival(0, 0, label(rows[0], 0, known=4)), Arrival(0, 0, label(rows[1], 1, known=2))]
    found = rates(pipeline_of([rate()]), rows, labels)
    np.testing.assert_array_equal(found, [np.nan, 0.0, 0.0, 0.0, 2 / 4, 2 / 5])


def test_a_delayed_rate_looks_only_at_events_before_the_delay() -> None:
    rows = [event(minute, minute) for minute in range(5)]
    labels = [Arrival(0, 0, label(rows[1], 0, known=1))]
    found = rates(pipeline_of([rate(delay=2 * MINUTE)]), rows, labels)
    # at minute 3 the events before minute 1 count, at minute 4 those before minute 2
    np.testing.assert_array_equal(found, [np.nan, np.nan, np.nan, 0.0, 1 / 2])


def test_a_rate_stays_between_0_and_1_when_events_and_labels_do_not_match() -> None:
    rows = [event(0, 0), event(10, 1), event(2, 2), event(10, 3), event(10.5, 4)]
    labels = [Arrival(0, 0, label(rows[2], n, known=0)) for n in range(3)]
    pipeline = pipeline_of([rate()], max_lateness=MINUTE, late=LatePolicy.IGNORE)
    # the event of minute 2 was ignored for being late, its labels were not
    np.testing.assert_array_equal(rates(pipeline, rows, labels), [np.nan, 1.0, 1.0, 1.0, 1.0])
    undone = [Arrival(0, 0, label(rows[1], 0, known=0, change=-1))]
    np.testing.assert_array_equal(rates(pipeline, rows[:2] + rows[3:4], undone), [np.nan, 0.0, 0.0])


@settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_labels_after_all_events_leave_the_same_state_as_in_between(data: st.DataObject) -> None:
    features = [*data.draw(aggregate_features()), rate("r1"), rate("r2", entity="account", delay=3 * MINUTE)]
    pipeline = pipeline_of(features, late=data.draw(st.sampled_from(LatePolicy)))
    partitions = data.draw(st.sampled_from([1, 2]))
    rows = data.draw(histories(partitions))
    labels = data.draw(label_logs(rows))
    live = Engine(pipeline, partitions, max_entities=1_000, forget=False)
    applied: list[list[Label]] = [[] for _ in range(partitions)]
    for partition, part, due in batches(live, rows, labels, 5):
        live.process(partition, part, due)
        applied[partition] += due
    recovered = Engine(pipeline, partitions, max_entities=data.draw(st.sampled_from([1, 1_000])), forget=True)
    for partition, part, _ in batches(recovered, rows, [], 40):
        recovered.process(partition, part)
    for partition in range(partitions):
        if applied[partition]:
            recovered.apply_labels(partition, applied[partition])
    states = stored(live, rows, partitions)
    assert stored(recovered, rows, partitions) == states
    # what is contained already, as after a torn write, is skipped
    for partition, part, _ in batches(recovered, rows, [], 9):
        again = [c for c in applied[partition] if c.offset % 2]
        newest = max(row.time for _, row in rows) + 2 * 365 * 86_400 * SECOND
        recovered.load(partition, batch_of(part), labels_of(again))
        recovered.tables.advance(partition, batch_of(part), stream_time=newest, labels=labels_of(again))
    assert stored(recovered, rows, partitions) == states
    for partition in range(partitions):
        blobs = {(entity, key): blob for entity, key, blob in recovered.tables.dirty(partition)}
        assert all(states[partition, entity, key] == blob for (entity, key), blob in blobs.items())


def stored(
    engine: Engine, rows: list[tuple[int, Row]], partitions: int
) -> dict[tuple[int, str, str], bytes | None]:
    """Every blob of the entities in ``rows``."""
    names = {(p, e, row.entities[e]) for _, row in rows for e in row.entities for p in range(partitions)}
    return {name: engine.stored(*name) for name in names}


def test_a_blob_tells_the_last_event_and_the_last_label_that_changed_it() -> None:
    engine = Engine(pipeline_of([rate()]), 1, max_entities=100, forget=False)
    first, second = event(0, 4), event(1, 5, account="b")
    engine.process(0, [first, second], [label(first, 2, known=0), label(first, 7, known=0, change=0)])
    heads = {
        name: np.frombuffer(engine.stored(0, *name) or b"", "<i8")[[0, 4, 5]].tolist()
        for name in (("merchant", "m"), ("account", "a"), ("account", "b"))
    }
    # progress is (event offset + 1) + (label offset + 1); no rate looks at accounts; a change of 0 changes nothing
    assert heads == {("merchant", "m"): [9, 5, 2], ("account", "a"): [5, 4, -1], ("account", "b"): [6, 5, -1]}


def test_labels_grow_the_arena_as_events_do() -> None:
    pipeline = pipeline_of([rate(), rate("delayed", delay=2 * MINUTE)])
    rows = [event(n / 1_000, n, account=f"a{n}", merchant=f"m{n}") for n in range(1_200)]
    rows.append(event(13, 1_200, account="a", merchant="m7"))
    # a dozen tiles for each merchant, all opened between two rows
    about = [(row.entities, row.time + tile * MINUTE) for tile in range(12) for row in rows[:-1]]
    labels = [Label(n, START + 12 * MINUTE, time, entities, 1) for n, (entities, time) in enumerate(about)]
    engine = compare(
        pipeline, [(0, row) for row in rows], labels=[Arrival(0, 1_200, c) for c in labels], batch=1_200
    )
    assert engine.tables.arena_bytes > 8 * (64 + 32) * 1_200
    recovered = Engine(pipeline, 1, max_entities=10_000, forget=False)
    for part in (rows[:-1], rows[-1:]):
        recovered.process(0, part)
    recovered.apply_labels(0, labels)
    assert stored(recovered, [(0, row) for row in rows], 1) == stored(engine, [(0, row) for row in rows], 1)


@pytest.mark.parametrize("rows", [[event(0, 0)], []], ids=["one event", "no event"])
def test_labels_that_are_not_due_are_refused(rows: list[Row]) -> None:
    engine = Engine(pipeline_of([rate()]), 1, max_entities=100, forget=False)
    labels = labels_of([label(event(0, 0), 0, known=0), label(event(0, 0), 1, known=1)][len(rows) - 1 :])
    engine.load(0, batch_of(rows), labels)
    with pytest.raises(ValueError, match=r"1 of [12] label changes are not known.*LabelBatch\.due"):
        engine.tables.advance(0, batch_of(rows), stream_time=0, labels=labels)


def test_labels_cost_nothing_where_nothing_asks_for_them() -> None:
    pipeline = pipeline_of([])
    assert (pipeline.label_fed, pipeline_of([rate()]).label_fed) == (False, True)
    engine = Engine(pipeline, 1, max_entities=100, forget=False)
    first = event(0, 0)
    labels = labels_of([label(first, 0, known=0)])
    assert engine.tables.missing(0, batch_of([]), labels) == []
    assert engine.process(0, [first], [label(first, 0, known=0)]).labels_applied.tolist() == [1]
