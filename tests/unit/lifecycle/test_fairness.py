"""Groups are compared with honest intervals, and the gate refuses what is shown, not what is noise."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from domain.errors import Fatal
from domain.pipeline import Pipeline
from lifecycle.fairness import FairnessReport, fairness, fairness_gate
from lifecycle.groups import MAX_GROUPS, read_groups
from tidegate.loading import load

PAYMENTS = Path(__file__).parents[3] / "examples/payments/pipeline.yaml"


def report(rates: list[tuple[int, float]], seed: int, *, events_each: int = 1) -> FairnessReport:
    """Groups of (events, false positive rate), 2 % fraud found half the time; entities of ``events_each``."""
    rng = np.random.default_rng(seed)
    n = sum(size for size, _ in rates)
    group = np.repeat(np.arange(len(rates)), [size for size, _ in rates])
    entities = np.arange(n) // events_each
    labels = np.where(rng.random(n) < 0.02, 1.0, 0.0)
    chance = np.where(labels == 1.0, 0.5, np.repeat([rate for _, rate in rates], [size for size, _ in rates]))
    # an entity is alerted as a whole
    alert = rng.random(n)[entities * events_each] < chance
    return fairness("region", [f"g{i}" for i in range(len(rates))], group, alert, labels, entities)


def test_the_numbers_are_counted_by_hand() -> None:
    group = np.array([0, 0, 0, 0, 1, 1, -1, 1])
    alert = np.array([1, 1, 0, 0, 1, 0, 1, 0], dtype=bool)
    labels = np.array([1.0, 0.0, 0.0, np.nan, 0.0, 0.0, 1.0, 1.0])
    found = fairness("f", ["a", "b", "unused"], group, alert, labels, np.arange(8))
    a, b = found.groups
    assert (a.name, a.events, a.labelled, a.frauds, found.ungrouped) == ("a", 4, 3, 1, 1)
    assert (a.alert_rate.value, a.false_positive_rate.value, a.precision.value, a.recall.value) == (
        0.5,
        0.5,
        0.5,
        1,
    )
    assert (b.alert_rate.hits, b.alert_rate.n, b.false_positive_rate.value) == (1, 3, 0.5)
    assert (b.precision.value, b.recall.value) == (0.0, 0.0)
    assert a.small
    assert b.small
    assert a.alert_rate_to_others.difference == pytest.approx(0.5 - 1 / 3)
    # Wilson's interval of 2 in 4
    assert (a.alert_rate.low, a.alert_rate.high) == pytest.approx((0.150, 0.850), abs=5e-4)


@pytest.mark.parametrize("events_each", [1, 20])
def test_intervals_hold_the_truth_also_where_entities_repeat(events_each: int) -> None:
    inside = alike = 0
    for seed in range(100):
        groups = report([(6_000, 0.05), (20_000, 0.05)], seed, events_each=events_each).groups
        small = next(g for g in groups if g.name == "g0")
        inside += small.false_positive_rate.low <= 0.05 <= small.false_positive_rate.high
        seen = small.false_positive_rate_to_others
        alike += (
            seen.difference_low <= 0.0 <= seen.difference_high and seen.ratio_low <= 1.0 <= seen.ratio_high
        )
    assert inside >= 88
    assert alike >= 88


def test_the_gate_refuses_what_is_shown_and_names_what_is_not() -> None:
    unfair = fairness_gate(report([(20_000, 0.02), (20_000, 0.06)], 1))
    assert (unfair.passed, unfair.failed) == (False, ("g1",))
    assert "g1" in unfair.reason
    fair = fairness_gate(report([(60_000, 0.05), (60_000, 0.05), (60_000, 0.05)], 2))
    assert (fair.passed, fair.failed, fair.undecided) == (True, (), ())
    few = fairness_gate(report([(20_000, 0.02), (20, 0.3)], 3))
    assert (few.passed, few.undecided) == (True, ("g1",))
    assert fairness_gate(report([(20_000, 0.02), (20_000, 0.06)], 1), max_ratio=4.0).passed
    with pytest.raises(ValueError, match="max_ratio"):
        fairness_gate(report([(100, 0.1)], 1), max_ratio=0.9)


def test_chance_among_many_groups_fails_no_model() -> None:
    failed = sum(
        not fairness_gate(report([(2_000, 0.03)] * 15, seed), max_ratio=1.0).passed for seed in range(30)
    )
    assert failed <= 4


@pytest.fixture(scope="module")
def pipeline() -> Pipeline:
    return load(PAYMENTS)


def test_groups_come_from_fields_and_columns(pipeline: Pipeline, tmp_path: Path) -> None:
    path = tmp_path / "events.csv"
    lines = [f"{i},{'de' if i % 3 else 'fr'},{i},c{i}," for i in range(40)]
    path.write_text("\n".join(["transaction_id,country,age,city,empty", *lines]), encoding="utf-8")
    country = read_groups(path, pipeline, "country")
    assert country.names == ("de", "fr")
    assert country.codes.tolist() == [i % 3 == 0 for i in range(40)]
    age = read_groups(path, pipeline, "age", limit=39)
    assert age.names == ("up to 9.5", "above 9.5 to 19", "above 19 to 28.5", "above 28.5")
    assert np.bincount(age.codes).tolist() == [10, 10, 9, 10]
    city = read_groups(path, pipeline, "city")
    assert len(city.names) == MAX_GROUPS
    assert city.names[-1] == "(21 others)"
    assert np.bincount(city.codes)[-1] == 21
    for field, message in (("nope", "no column 'nope'"), ("empty", "no row"), ("account_id", "sensitive")):
        with pytest.raises(Fatal, match=message):
            read_groups(path, pipeline, field)
