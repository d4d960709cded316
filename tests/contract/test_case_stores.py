"""Cases in either database: alerts are taken in once, people follow each other, and no label of a decision is lost."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from threading import Barrier

import msgspec
import pytest

from domain.clock import ManualClock
from domain.pipeline_review import ReviewSpec
from domain.verdict import DecisionName, Source
from featurestore.hot_verdicts_port import BadCursorError
from lifecycle.audit_trail import AuditTrail
from lifecycle.case_changes import CaseChanges
from lifecycle.case_labels import CaseLabels
from lifecycle.case_records import (
    ArrivedAlert,
    Case,
    CaseConflict,
    CaseOrder,
    CaseQuery,
    CaseStatus,
    EntryKind,
    HeardAlert,
    Outcome,
    UnknownCase,
)
from lifecycle.case_stats import CaseStatsReader
from lifecycle.case_store import SqlCaseStore, Taken
from lifecycle.case_upkeep import CaseUpkeep
from lifecycle.database import Database

SECOND = 1_000_000
HOUR = 3_600 * SECOND
START = 1_700_000_000 * SECOND
SPEC = ReviewSpec(amount="amount", group_by="account", window=10 * HOUR, reopen=HOUR)
LOG = "payments.alerts@1"


class World:
    """One pipeline's cases in a database."""

    def __init__(self, database: Database, pipeline: str = "payments") -> None:
        self.database = database
        self.clock = ManualClock(START)
        self.store = SqlCaseStore(database, pipeline, SPEC, self.clock)
        self.changes = CaseChanges(database, pipeline, self.clock)
        self.labels = CaseLabels(database, pipeline)
        self.stats = CaseStatsReader(database, pipeline)
        self.trail = AuditTrail(pipeline)

    def take(self, *alerts: ArrivedAlert, log: str = LOG) -> Taken:
        return self.store.take(log, alerts)

    def audited(self) -> list[tuple[str, str, str | None, str | None]]:
        """Every audit record; AssertionError when the chain is broken."""
        with self.database.reading() as connection:
            assert self.trail.verify(connection) is None
            records = self.trail.after(connection, 0, 1000)
        return [(one.action, one.by, one.before, one.after) for one in records]

    def pages(self, query: CaseQuery) -> Iterator[Case]:
        while True:
            page = self.store.page(query)
            yield from page.cases
            if page.next is None:
                return
            query = replace(query, cursor=page.next)


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def world(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[World]:
    url = f"sqlite:///{tmp_path}/cases.sqlite"
    if request.param == "postgres":
        url = request.getfixturevalue("postgres_url")
    with opened(url) as world:
        yield world


@contextmanager
def opened(url: str) -> Iterator[World]:
    database = Database(url)
    try:
        yield World(database)
    finally:
        database.close()


def arrived(
    offset: int,
    account: str = "anna",
    *,
    score: float | None = 0.5,
    amount: float | None = 100.0,
    at: int = START,
    partition: int = 0,
) -> ArrivedAlert:
    """The alert of event ``offset`` of ``account``."""
    alert = HeardAlert(
        f"e{offset}",
        at,
        at,
        {"account": account},
        score,
        DecisionName.REVIEW,
        Source("payments.events", partition, offset),
        amount,
    )
    return ArrivedAlert(partition, offset, msgspec.json.encode(alert), alert, ("account", account))


def at_once(*calls: Callable[[], object]) -> list[object]:
    barrier = Barrier(len(calls))

    def run(call: Callable[[], object]) -> object:
        barrier.wait(60)
        try:
            return call()
        except Exception as error:
            return error

    with ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(run, calls))


def test_an_alert_goes_into_one_case_once(world: World) -> None:
    assert world.take(arrived(0), arrived(1, "bo"), arrived(2)) == Taken(opened=2, joined=1)
    assert world.store.offsets(LOG) == {0: 3}
    # read again after a crash, by us or by somebody who took over
    assert world.take(arrived(0), arrived(1, "bo"), arrived(2), arrived(3)) == Taken(joined=1)
    # the topic was made anew with the same events in it, at other offsets
    again = msgspec.structs.replace(arrived(3), offset=0)
    assert world.take(again, log="payments.alerts@2") == Taken(repeated=1)
    assert world.store.offsets("payments.alerts@2") == {0: 1}
    # the log has lost its end, which was taken in: what comes there now is new
    world.store.rewind(LOG, 0, 3)
    world.store.rewind(LOG, 1, 3)
    assert world.store.offsets(LOG) == {0: 3}
    # what is no alert moves on, and nothing else happens
    assert world.take(ArrivedAlert(0, 7, b"?", None), arrived(8)) == Taken(joined=1)
    assert world.store.offsets(LOG) == {0: 9}
    view = world.store.case(1)
    assert [alert.event_id for alert in view.alerts] == ["e0", "e2", "e3", "e8"]
    assert (view.case.alerts, view.case.value, view.case.priority) == (4, "anna", 200.0)
    assert msgspec.json.decode(view.alerts[0].alert, type=HeardAlert) == arrived(0).alert
    assert [entry.kind for entry in view.history] == [EntryKind.OPENED]


def test_two_that_take_the_same_alerts_in_at_once_open_no_case_twice(world: World) -> None:
    with opened(world.database._url.render_as_string(hide_password=False)) as other:
        batches = [[arrived(n, f"a{n % 3}") for n in range(k, k + 4)] for k in range(0, 20, 4)]
        for batch in batches:
            results = at_once(lambda b=batch: world.take(*b), lambda b=batch: other.take(*b))  # type: ignore[misc]
            assert all(isinstance(result, Taken) for result in results), results
    found = list(world.pages(CaseQuery(status=None)))
    assert sorted(case.value for case in found) == ["a0", "a1", "a2"]
    assert sum(case.alerts for case in found) == 20


def test_the_queue_is_ordered_by_what_is_at_stake_and_paged_by_key(world: World) -> None:
    stakes = [3.0, 8.0, 8.0, 8.0, 1.0, 5.0, 0.1]
    world.take(*[arrived(n, f"a{n}", score=1.0, amount=stake) for n, stake in enumerate(stakes)])
    query = CaseQuery(limit=2)
    first = world.store.page(query)
    assert [case.value for case in first.cases] == ["a1", "a2"]
    # one comes before what was shown, one is decided, one comes after: all others are seen once
    world.take(arrived(7, "a7", score=1.0, amount=9.0), arrived(8, "a8", score=1.0, amount=4.0))
    world.changes.decide(1, Outcome.UNSURE, by="bo")
    assert first.next is not None
    rest = [case.value for case in world.pages(replace(query, cursor=first.next))]
    assert rest == ["a3", "a5", "a8", "a4", "a6"]
    assert [c.id for c in world.pages(CaseQuery(status=None, order=CaseOrder.NEWEST, limit=4))] == list(
        range(9, 0, -1)
    )
    decided = CaseQuery(status=CaseStatus.DECIDED, decision=Outcome.UNSURE)
    assert [case.value for case in world.pages(decided)] == ["a0"]
    assert [case.id for case in world.pages(CaseQuery(entity=("account", "a4")))] == [5]
    for cursor in (first.next, "x", "!", "AAAA"):
        with pytest.raises(BadCursorError):
            world.store.page(CaseQuery(limit=2, unassigned=True, cursor=cursor))


def test_people_change_what_they_have_seen_and_the_audit_knows(world: World) -> None:
    world.take(arrived(0))
    case = world.changes.assign(1, "bo", by="anna", revision=1)
    assert (case.assignee, case.revision) == ("bo", 2)
    assert world.changes.assign(1, "bo", by="anna").revision == 2
    assert [c.id for c in world.pages(CaseQuery(assignee="bo"))] == [1]
    assert not list(world.pages(CaseQuery(unassigned=True)))
    case = world.changes.comment(1, "called the holder", by="bo", revision=2)
    # an alert came while bo was thinking
    world.take(arrived(1))
    with pytest.raises(CaseConflict, match="revision 4"):
        world.changes.decide(1, Outcome.FRAUD, by="bo", revision=case.revision)
    assert world.labels.count() == 0
    world.clock.advance(30)
    case = world.changes.decide(1, Outcome.FRAUD, by="bo", note="not hers", revision=4)
    assert (case.status, case.decision, case.decided_by, case.note, case.revision) == (
        CaseStatus.DECIDED,
        Outcome.FRAUD,
        "bo",
        "not hers",
        5,
    )
    history = world.store.case(1).history
    assert [(entry.kind, entry.by, entry.after, entry.text) for entry in history] == [
        (EntryKind.OPENED, "caser", None, None),
        (EntryKind.ASSIGNED, "anna", "bo", None),
        (EntryKind.COMMENT, "bo", None, "called the holder"),
        (EntryKind.DECIDED, "bo", "fraud", "not hers"),
    ]
    assert history[-1].waited == 30 * SECOND
    assert world.audited() == [
        ("case.assign", "anna", None, "bo"),
        ("case.comment", "bo", None, None),
        ("case.decide", "bo", "open", "fraud"),
    ]
    for unknown in (0, 2, 2**70):
        with pytest.raises(UnknownCase):
            world.store.case(unknown)
        with pytest.raises(UnknownCase):
            world.changes.assign(unknown, None, by="bo")


def test_of_two_who_decide_at_once_one_wins(world: World) -> None:
    world.take(arrived(0))
    with opened(world.database._url.render_as_string(hide_password=False)) as other:
        results = at_once(
            lambda: world.changes.decide(1, Outcome.FRAUD, by="anna", revision=1),
            lambda: other.changes.decide(1, Outcome.LEGITIMATE, by="bo", revision=1),
        )
    assert sorted(type(result).__name__ for result in results) == ["Case", "CaseConflict"]
    [won] = [result for result in results if isinstance(result, Case)]
    assert world.store.case(1).case == won
    [label] = world.labels.pending(10)
    assert label.label == (1 if won.decision is Outcome.FRAUD else 0)


def test_a_decision_is_the_label_of_every_event_until_kafka_has_it(world: World) -> None:
    world.take(arrived(0), arrived(1), arrived(2, "bo"))
    world.changes.decide(2, Outcome.UNSURE, by="bo")
    assert world.labels.count() == 0, "who is unsure says nothing"
    world.changes.decide(1, Outcome.FRAUD, by="bo")
    first = world.labels.pending(10)
    assert [
        (one.event_id, one.label, one.known_at) for one in sorted(first, key=lambda one: one.event_id)
    ] == [
        ("e0", 1, START),
        ("e1", 1, START),
    ]
    assert first[0].source.topic == "payments.events"
    assert len(world.labels.pending(1)) == 1
    # decided otherwise before the first label was noted as written: the new one is still to come
    world.changes.decide(1, Outcome.LEGITIMATE, by="cy")
    world.labels.written(first, {}, START)
    second = world.labels.pending(10)
    assert [(one.label, one.known_at) for one in second] == [(0, START + 1)] * 2
    assert [alert.label_written for alert in world.store.case(1).alerts] == [False, False]
    world.labels.written(second, {second[0].key: "its event is gone"}, START)
    assert world.labels.count() == 0
    told = {alert.key: alert for alert in world.store.case(1).alerts}
    assert told[second[0].key].label_refused == "its event is gone"
    assert not told[second[0].key].label_written
    assert told[second[1].key].label_written
    # the same once more is no news; who is unsure after all takes it back
    world.changes.decide(1, Outcome.LEGITIMATE, by="cy")
    assert world.labels.count() == 0
    world.changes.decide(1, Outcome.UNSURE, by="cy")
    assert [one.label for one in world.labels.pending(10)] == [None, None]
    assert [action for action, *_ in world.audited()] == ["case.decide"] * 5


def test_a_decided_case_comes_back_with_an_alert_soon_after(world: World) -> None:
    world.take(arrived(0))
    world.changes.decide(1, Outcome.FRAUD, by="bo")
    world.labels.written(world.labels.pending(10), {}, START)
    world.clock.advance(60)
    assert world.take(arrived(1, at=START + 1_800 * SECOND)) == Taken(reopened=1)
    view = world.store.case(1)
    assert (view.case.status, view.case.decision, view.case.alerts) == (CaseStatus.OPEN, None, 2)
    assert view.history[-1].kind is EntryKind.REOPENED
    assert world.audited()[-1] == ("case.reopen", "caser", "fraud", "open")
    # the first label holds until somebody says otherwise; then only what is new is told
    assert [alert.label for alert in view.alerts] == [1, None]
    world.changes.decide(1, Outcome.FRAUD, by="bo")
    assert [one.event_id for one in world.labels.pending(10)] == ["e1"]
    # an hour after the decision it is another case
    world.changes.decide(1, Outcome.FRAUD, by="bo")
    assert world.take(arrived(2, at=START + 2 * HOUR)) == Taken(opened=1)


def test_the_service_is_measured(world: World) -> None:
    world.take(arrived(0), arrived(1, "bo"), arrived(2, "cy"), arrived(3, "di"))
    world.changes.assign(4, "bo", by="bo")
    for case_id, outcome, by in (
        (1, Outcome.FRAUD, "bo"),
        (2, Outcome.LEGITIMATE, "bo"),
        (1, Outcome.UNSURE, "cy"),
    ):
        world.clock.advance(100)
        world.changes.decide(case_id, outcome, by=by)
    world.clock.advance(2 * 3600)
    now = world.clock.now()
    stats = world.stats.stats(now=now, since=START)
    assert (stats.open, stats.unassigned, stats.oldest, stats.at_stake) == (2, 1, 7500.0, 100.0)
    assert stats.open_by_age == {"under_1h": 0, "under_1d": 2, "under_7d": 0, "older": 0}
    assert stats.decisions == {"fraud": 1, "legitimate": 1, "unsure": 1}
    assert (stats.seconds_mean, stats.seconds_median, stats.seconds_p90) == (150.0, 200.0, 200.0)
    assert [(one.by, one.decisions, one.mean_seconds) for one in stats.reviewers] == [
        ("bo", {"fraud": 1, "legitimate": 1}, 150.0),
        ("cy", {"unsure": 1}, None),
    ]
    assert stats.labels_pending == 2
    made = world.stats.decisions_after(0, 10)
    assert [entry.after for entry in made] == ["fraud", "legitimate", "unsure"]
    assert world.stats.decisions_after(world.stats.newest(), 10) == []
    later = world.stats.stats(now=now, since=now)
    assert (later.decisions["fraud"], later.seconds_median, later.reviewers) == (0, None, ())


def test_what_is_decided_and_written_can_go_and_an_entity_can_be_forgotten(world: World) -> None:
    world.take(arrived(0), arrived(1, "bo"), arrived(2, "cy"))
    world.changes.decide(1, Outcome.UNSURE, by="bo")
    world.changes.decide(2, Outcome.FRAUD, by="bo")
    upkeep = CaseUpkeep(world.database, "payments", world.clock)
    assert upkeep.tidy(START, by="bo") == 0
    # the label of the second is still to be written, the third is open
    assert upkeep.tidy(START + 1, by="bo") == 1
    assert [case.id for case in world.pages(CaseQuery(status=None, order=CaseOrder.NEWEST))] == [3, 2]
    assert upkeep.forget(("account", "bo"), by="bo", reason="asked for") == 1
    newest = world.stats.newest()
    assert upkeep.forget(("account", "cy"), by="bo", reason="asked for") == 1
    assert world.labels.count() == 0
    with pytest.raises(UnknownCase):
        world.store.case(2)
    # none of them is taken in again, and no id is given twice
    assert world.take(arrived(0), arrived(1, "bo"), arrived(3, "di")) == Taken(opened=1)
    assert [case.id for case in world.pages(CaseQuery(status=None, order=CaseOrder.NEWEST))] == [4]
    assert world.store.case(4).history[0].number == newest + 1
    assert [action for action, *_ in world.audited()][-3:] == ["case.tidy", "case.forget", "case.forget"]


def test_pipelines_do_not_see_each_other(world: World) -> None:
    other = World(world.database, "logins")
    world.take(arrived(0))
    assert other.store.offsets(LOG) == {}
    assert other.take(arrived(0)) == Taken(opened=1)
    other.changes.decide(1, Outcome.FRAUD, by="bo")
    assert world.store.case(1).case.status is CaseStatus.OPEN
    assert world.labels.count() == 0
    assert len(list(world.pages(CaseQuery(status=None)))) == 1
    assert world.stats.stats(now=START, since=0).decisions["fraud"] == 0
