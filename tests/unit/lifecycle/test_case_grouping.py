"""Which case an alert goes into."""

from __future__ import annotations

import msgspec
import pytest

from domain.pipeline_review import ReviewSpec
from domain.verdict import DecisionName, Source
from lifecycle.case_grouping import MAX_ALERTS, Grouping, Placed
from lifecycle.case_records import Case, CaseStatus, HeardAlert, Outcome, alert_key, stake_of

HOUR = 3_600_000_000
SPEC = ReviewSpec(amount="amount", group_by="account", window=10 * HOUR, reopen=2 * HOUR)
ANNA = ("account", "anna")


def alert(
    at: float, *, score: float | None = 0.5, amount: float | None = 100.0, block: bool = False
) -> HeardAlert:
    """An alert on an event ``at`` so many hours, raised at once."""
    decision = DecisionName.BLOCK if block else DecisionName.REVIEW
    time = round(at * HOUR)
    return HeardAlert(
        f"e{at}", time, time, {"account": "anna"}, score, decision, Source("t", 0, time), amount
    )


def place(grouping: Grouping, *times: float, entity: tuple[str, str] = ANNA) -> list[Placed]:
    return [grouping.place(alert(at), entity, round(at * HOUR)) for at in times]


def decided(case: Case, at: float) -> Case:
    return msgspec.structs.replace(
        case, status=CaseStatus.DECIDED, decision=Outcome.FRAUD, decided_at=round(at * HOUR), decided_by="bo"
    )


def test_alerts_of_an_entity_within_the_window_are_one_case() -> None:
    first, second, third, other = [
        *place(Grouping(SPEC, [], 7), 100, 104, 110),
        *place(Grouping(SPEC, [], 7), 100, entity=("account", "bo")),
    ]
    assert (first.before, first.case.id, first.case.revision) == (None, 7, 1)
    assert second.before == first.case
    assert (third.case.alerts, third.case.revision, third.case.id) == (3, 3, 7)
    assert (third.case.first_event_time, third.case.last_event_time) == (100 * HOUR, 110 * HOUR)
    assert (third.case.priority, third.case.amount) == (150.0, 300.0)
    assert other.case.value == "bo"


def test_what_lies_further_apart_is_another_case_however_it_arrives() -> None:
    grouping = Grouping(SPEC, [], 1)
    assert [placed.case.id for placed in place(grouping, 100, 110.01, 95, 120.01, 84)] == [1, 2, 1, 2, 3]
    # 99 lies within ten hours of what is in the first and of nothing newer
    assert [placed.case.id for placed in place(grouping, 99, 112)] == [1, 2]


def test_the_gravest_decision_and_the_highest_score_stay() -> None:
    grouping = Grouping(SPEC, [], 1)
    grouping.place(alert(1, score=0.9, block=True), ANNA, 1)
    case = grouping.place(alert(2, score=None, amount=-50.0), ANNA, 2).case
    assert (case.action, case.score) == (DecisionName.BLOCK, 0.9)
    assert (case.priority, case.amount) == (0.9 * 100 + 50, 150.0)


def test_a_full_case_takes_no_more() -> None:
    grouping = Grouping(SPEC, [], 1)
    placed = [grouping.place(alert(1), ANNA, 1) for _ in range(MAX_ALERTS + 1)]
    assert [one.case.id for one in placed[-2:]] == [1, 2]


@pytest.mark.parametrize(("at", "reopens"), [(103.0, True), (104.0, True), (104.1, False)])
def test_soon_after_the_decision_a_case_comes_back(at: float, reopens: bool) -> None:
    [there] = place(Grouping(SPEC, [], 1), 100)
    [placed] = place(Grouping(SPEC, [decided(there.case, 102)], 2), at)
    assert placed.reopened is reopens
    if reopens:
        case = placed.case
        assert (case.id, case.status, case.decision, case.decided_by) == (1, CaseStatus.OPEN, None, None)
        assert case.queued_at == round(at * HOUR)
        assert case.opened_at == there.case.opened_at
    else:
        assert placed.case.id == 2


def test_without_the_rule_a_decided_case_stays_decided_and_an_open_one_goes_first() -> None:
    [there] = place(Grouping(SPEC, [], 1), 100)
    never = msgspec.structs.replace(SPEC, reopen=None)
    assert place(Grouping(never, [decided(there.case, 101)], 2), 102)[0].case.id == 2
    young = msgspec.structs.replace(there.case, id=2)
    cases = [decided(msgspec.structs.replace(there.case, id=3), 101), young]
    assert place(Grouping(SPEC, cases, 4), 102)[0].case.id == 2


def test_an_alert_is_known_by_its_event_and_its_place() -> None:
    keys = {
        alert_key(id_, Source(topic, partition, offset))
        for id_, topic, partition, offset in [
            ("e", "t", 0, 1),
            ("e", "t", 0, 2),
            ("e", "t", 1, 1),
            ("f", "t", 0, 1),
            ("e", "u", 0, 1),
        ]
    }
    assert len(keys) == 5
    assert stake_of(1.0, 1e308) < float("inf")
