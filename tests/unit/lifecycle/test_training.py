"""The same pin gives the same bytes; rows are cut by time; labels that have not matured teach nothing."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from domain.errors import TooFewLabels
from domain.examples import Examples
from lifecycle.training import (
    HISTORIES,
    Trained,
    TrainingPlan,
    choose_split,
    enough,
    plan_training,
    read_rows,
    train,
)
from tests.unit.lifecycle.loop_stage import DAY, FIT, LEARNING, PER_DAY, RULES, START, MemoryRows, stream

NOW = START + 20 * DAY


def trained(examples: Examples, **changed: object) -> Trained:
    rows = MemoryRows(examples)
    rules = msgspec.structs.replace(RULES, **changed)
    plan = plan_training(rows, rows.pin(), rules, now=NOW, seed=3, since=None)
    return train(LEARNING, read_rows(rows, plan), plan, rules, FIT)


def test_the_same_pin_gives_the_same_bytes_and_another_seed_others() -> None:
    rows = MemoryRows(stream(20))
    plan = plan_training(rows, rows.pin(), RULES, now=NOW, seed=3, since=None)
    again = msgspec.convert(msgspec.to_builtins(plan), TrainingPlan)
    rows.all = Examples.joined([rows.all, stream(1, seed=9)])  # what came later is not of that pin
    first = train(LEARNING, read_rows(rows, plan), plan, RULES, FIT)
    assert train(LEARNING, read_rows(rows, again), again, RULES, FIT).packed == first.packed
    other = msgspec.structs.replace(plan, seed=4)
    assert train(LEARNING, read_rows(rows, other), other, RULES, FIT).packed != first.packed


def test_neither_the_later_slice_nor_young_labels_teach() -> None:
    examples = stream(20)
    first = trained(examples)
    assert START < first.split < NOW - 2 * DAY
    # what the later slice and the young rows are called changes nothing, as long as the slice begins where it did
    rng = np.random.default_rng(1)
    late = np.flatnonzero((examples.times > first.split) & (examples.times < NOW - 2 * DAY))
    y = examples.y.copy()
    y[late] = rng.permutation(y[late])
    young = examples.times >= NOW - 2 * DAY
    y[young] = 1.0 - y[young]
    changed = Examples(examples.x, y, examples.ranks, examples.score, examples.times, examples.known_at)
    assert choose_split(read_rows(MemoryRows(changed), plan_of(changed)), RULES, None) == first.split
    assert trained(changed).packed == first.packed
    # but what is older does
    early = np.where(examples.times < first.split - DAY, 1.0 - examples.y, examples.y)
    other = Examples(examples.x, early, examples.ranks, examples.score, examples.times, examples.known_at)
    assert trained(other).packed != first.packed


def plan_of(examples: Examples) -> TrainingPlan:
    rows = MemoryRows(examples)
    return plan_training(rows, rows.pin(), RULES, now=NOW, seed=3, since=None)


def test_after_a_change_both_slices_hold_some_of_the_new() -> None:
    examples = stream(20)
    plain = choose_split(examples, RULES, None)
    since = START + 17 * DAY
    split = choose_split(examples, RULES, since)
    assert split > plain
    new = examples.times[(examples.y == 1.0) & (examples.times >= since)]
    assert 0.4 < (new < split).mean() < 0.6
    assert choose_split(examples, RULES, START + 2 * DAY) == plain  # long ago: the usual slice holds enough
    with pytest.raises(TooFewLabels, match="no positive label"):
        choose_split(stream(0), RULES, None)


def test_labels_are_waited_for_and_what_is_missing_is_told() -> None:
    rows = MemoryRows(stream(20))
    assert enough(rows, rows.pin(), RULES, now=NOW, since=None) == (True, "")
    ready, why = enough(rows, rows.pin(), RULES, now=START + 3 * DAY, since=None)
    assert not ready
    assert "min_positive" in why
    # 24 positives a day: 40 of them have matured two days after the change and two more
    since = START + 15 * DAY
    ready, why = enough(rows, rows.pin(), RULES, now=since + 3 * DAY, since=since)
    assert not ready
    assert "since the change" in why
    assert enough(rows, rows.pin(), RULES, now=since + 5 * DAY, since=since)[0]


def test_too_many_rows_are_sampled() -> None:
    rows = MemoryRows(stream(20))
    rules = msgspec.structs.replace(RULES, max_rows=2_000)
    plan = plan_training(rows, rows.pin(), rules, now=NOW, seed=3, since=None)
    assert plan.share == 2_000 / (20 * PER_DAY)
    assert 1_500 < len(read_rows(rows, plan)) <= 2_500


def test_the_search_prefers_what_is_new_after_a_change_and_tells_what_it_tried() -> None:
    changed = trained(stream(20, turn=11.0), search=True)
    assert [history for history, _ in changed.tried] == list(HISTORIES)
    assert dict(changed.tried)[changed.history] == max(score for _, score in changed.tried)
    assert trained(stream(20)).tried == ()
    assert changed.metrics()["history"] == changed.history
