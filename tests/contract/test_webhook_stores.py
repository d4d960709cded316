"""Webhooks in the database, on a real SQLite file and a real PostgreSQL: endpoints, secrets, queue, log, replay."""

from __future__ import annotations

import base64
import uuid
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from threading import Barrier
from typing import Any

import msgspec
import pytest
from sqlalchemy import select

from domain.clock import ManualClock
from domain.errors import RegistryConflict
from domain.verdict import DecisionName
from lifecycle.audit import AuditRecord
from lifecycle.audit_trail import AuditTrail
from lifecycle.database import Database
from lifecycle.webhook_queue import Overtaken, WebhookQueue
from lifecycle.webhook_rules import MAX_SECRETS
from lifecycle.webhook_secrets import SecretBox
from lifecycle.webhook_store import WebhookStore
from lifecycle.webhook_tables import secrets
from lifecycle.webhooks import (
    BadEndpoint,
    DeliveryState,
    Due,
    Endpoint,
    EndpointSettings,
    Incoming,
    Order,
    Settled,
    UnknownWebhook,
    WebhookFilter,
)
from tests.alerts import NOW, alert

SECOND = 1_000_000
LOG = "payments.alerts@1"
URL = "https://hooks.example/services/T0KEN"
WHO: dict[str, Any] = {"by": "anna", "reason": "because"}


def incoming(name: str, lane: str = "a", **alert_is: Any) -> Incoming:
    made = alert(name, **alert_is)
    body = b'{"type":"alert","data":' + msgspec.json.encode(made) + b"}"
    return Incoming(id=f"alert_{name}", body=body.decode(), lane=lane, alert=made)


@dataclass
class Webhooks:
    database: Database
    pipeline: str
    clock: ManualClock = field(default_factory=lambda: ManualClock(NOW))

    def __post_init__(self) -> None:
        box = SecretBox(b"k" * 32)
        self.store = WebhookStore(self.database, self.pipeline, self.clock, box)
        self.queue = WebhookQueue(self.database, self.pipeline, box)
        self.read: int | None = None

    def endpoint(self, url: str = URL, **settings: Any) -> Endpoint:
        return self.store.add(EndpointSettings(url=url, **settings), **WHO)[0]

    def take(self, *found: Incoming) -> int:
        after = (self.read or 0) + len(found)
        queued = self.queue.take(LOG, {0: (self.read, after)}, found, self.clock.now())
        self.read = after
        return queued

    def claim(
        self, owner: str = "d1", limit: int = 100, each: int = 100, busy: Mapping[str, int] | None = None
    ) -> list[Due]:
        ready = self.queue.ready(self.clock.now())
        claimed = self.queue.claim(
            owner, self.clock.now(), lease=60.0, limit=limit, each=each, busy=busy or {}
        )
        # what is ready may still have to wait for its order or its rate, but nothing else is ever claimed
        assert ready or not claimed
        return claimed

    def settle(self, due: Due, owner: str = "d1", **became: Any) -> None:
        values = {"at": self.clock.now(), "seconds": 0.1, "status": 200, "error": None, **became}
        self.queue.settle([Settled(due=due, **values)], owner)

    def claimed(self, **how: Any) -> list[str]:
        return [due.message.removeprefix("alert_") for due in self.claim(**how)]

    def states(self, endpoint: Endpoint) -> dict[str, DeliveryState]:
        return {d.message.removeprefix("alert_"): d.state for d in self.store.log(endpoint.id)}

    def audit(self) -> list[AuditRecord]:
        trail = AuditTrail(self.pipeline)
        with self.database.reading() as connection:
            assert trail.verify(connection) is None
            return trail.after(connection, 0, 100)


@pytest.fixture(scope="module", params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def database(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    """One for all tests: each has a pipeline of its own, and what others have in it is none of its business."""
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path_factory.mktemp('webhooks')}/webhooks.sqlite"
    else:
        url = request.getfixturevalue("postgres").new_database()
    with closing(Database(url)) as database:
        yield database


@pytest.fixture
def webhooks(database: Database) -> Webhooks:
    return Webhooks(database, f"p{uuid.uuid4().hex[:10]}")


def test_an_endpoint_comes_back_as_it_was_said(webhooks: Webhooks) -> None:
    wanted = EndpointSettings(
        url=URL,
        description="Störungen",
        filter=WebhookFilter(decisions=(DecisionName.BLOCK,), min_score=0.5, reasons=("rule:x",)),
        rate=2.5,
        order=Order.KEY,
        enabled=False,
    )
    made, secret = webhooks.store.add(wanted, **WHO)
    assert webhooks.store.endpoint(made.id) == made
    assert made.settings == wanted
    assert webhooks.store.endpoints() == [made]
    assert secret.secret.startswith("whsec_")
    assert [info.id for info in webhooks.store.secrets(made.id)] == [secret.id]


def test_every_change_is_in_the_audit_without_what_is_secret(webhooks: Webhooks) -> None:
    made, secret = webhooks.store.add(EndpointSettings(url=URL), **WHO)
    webhooks.store.change(made.id, EndpointSettings(url=URL, rate=1.0), **WHO)
    rotated = webhooks.store.rotate(made.id, overlap=60.0, **WHO)
    webhooks.store.send_test(made.id, **WHO)
    webhooks.store.replay(made.id, **WHO)
    webhooks.store.delete(made.id, **WHO)
    records = webhooks.audit()
    actions = ["add", "change", "rotate", "test", "replay", "delete"]
    assert [r.action for r in records] == [f"webhook.{action}" for action in actions]
    assert {(r.by, r.reason, r.subject) for r in records} == {("anna", "because", made.id)}
    text = msgspec.json.encode(records).decode()
    for hidden in ("T0KEN", secret.secret, rotated.secret):
        assert hidden not in text
    assert "hooks.example" in text


def test_a_change_on_an_old_view_is_a_conflict(webhooks: Webhooks) -> None:
    made = webhooks.endpoint()
    changed = webhooks.store.change(made.id, EndpointSettings(url=URL, rate=1.0), revision=1, **WHO)
    assert changed.revision == 2
    with pytest.raises(RegistryConflict):
        webhooks.store.change(made.id, EndpointSettings(url=URL), revision=1, **WHO)
    assert webhooks.store.endpoint(made.id) == changed


def test_what_is_not_there_says_so(webhooks: Webhooks) -> None:
    ask: list[Callable[[], object]] = [
        lambda: webhooks.store.endpoint("we_0"),
        lambda: webhooks.store.secrets("we_0"),
        lambda: webhooks.store.log("we_0"),
        lambda: webhooks.store.delivery("we_0", "m"),
        lambda: webhooks.store.send_test("we_0", **WHO),
        lambda: webhooks.store.rotate("we_0", overlap=0, **WHO),
        lambda: webhooks.store.replay("we_0", **WHO),
        lambda: webhooks.store.delete("we_0", **WHO),
        lambda: webhooks.store.change("we_0", EndpointSettings(url=URL), **WHO),
    ]
    for call in ask:
        with pytest.raises(UnknownWebhook):
            call()
    assert webhooks.audit() == []


def test_secrets_live_beside_each_other_until_they_expire(webhooks: Webhooks) -> None:
    made, first = webhooks.store.add(EndpointSettings(url=URL), **WHO)
    webhooks.clock.advance(1)
    second = webhooks.store.rotate(made.id, overlap=3600.0, **WHO)

    names = iter(range(9))

    def signing() -> list[str]:
        webhooks.take(incoming(f"e{next(names)}"))
        (due,) = webhooks.claim()
        webhooks.settle(due)
        return ["whsec_" + base64.b64encode(secret).decode() for secret in due.secrets]

    assert signing() == [second.secret, first.secret]
    webhooks.clock.advance(3599)
    assert signing() == [second.secret, first.secret]
    webhooks.clock.advance(2)
    assert signing() == [second.secret]
    third = webhooks.store.rotate(made.id, overlap=0, **WHO)
    assert signing() == [third.secret]


def test_live_secrets_are_limited_and_an_overlap_never_prolongs_a_life(webhooks: Webhooks) -> None:
    made = webhooks.endpoint()
    for _ in range(MAX_SECRETS - 1):
        webhooks.store.rotate(made.id, overlap=60.0, **WHO)
    with pytest.raises(BadEndpoint, match="live"):
        webhooks.store.rotate(made.id, overlap=60.0, **WHO)
    # the refused call has changed nothing either
    ends = {info.expires_at for info in webhooks.store.secrets(made.id)}
    assert ends == {None, NOW + 60 * SECOND}
    webhooks.clock.advance(61)
    webhooks.store.rotate(made.id, overlap=2_000_000.0, **WHO)
    assert len(webhooks.store.secrets(made.id)) == 2


def test_secrets_are_unreadable_in_the_database_and_under_another_key(webhooks: Webhooks) -> None:
    _, secret = webhooks.store.add(EndpointSettings(url=URL), **WHO)
    raw = base64.b64decode(secret.secret.removeprefix("whsec_"))
    with webhooks.database.reading() as connection:
        rows = connection.execute(select(secrets).where(secrets.c.pipeline == webhooks.pipeline)).all()
    assert len(rows) == 1
    assert all(raw not in bytes(row.sealed) for row in rows)
    webhooks.take(incoming("e1"))
    stranger = WebhookQueue(webhooks.database, webhooks.pipeline, SecretBox(b"x" * 32))
    # it can not sign, which is this endpoint's trouble and nobody else's
    (due,) = stranger.claim("d", NOW, lease=1.0, limit=1, each=1, busy={})
    assert due.secrets == ()
    webhooks.clock.advance(2)
    (due,) = webhooks.claim()
    assert due.secrets == (raw,)


def test_alerts_are_queued_for_those_who_want_them(webhooks: Webhooks) -> None:
    every = webhooks.endpoint()
    sure = webhooks.endpoint(filter=WebhookFilter(min_score=0.95))
    blocked = webhooks.endpoint(filter=WebhookFilter(decisions=(DecisionName.BLOCK,)))
    velocity = webhooks.endpoint(filter=WebhookFilter(reasons=("rule:velocity", "rule:x")))
    off = webhooks.endpoint(enabled=False)
    webhooks.take(
        incoming("low"),
        incoming("high", score=0.99),
        incoming("none", score=None),
        incoming("block", decision="block", codes=["high_amount", "rule:x"]),
    )
    wanted = {
        every.id: {"low", "high", "none", "block"},
        sure.id: {"high"},
        blocked.id: {"block"},
        velocity.id: {"block"},
        off.id: set(),
    }
    for endpoint in webhooks.store.endpoints():
        assert webhooks.states(endpoint).keys() == wanted[endpoint.id]
    assert {q.endpoint: q.pending for q in webhooks.queue.waiting()} == {k: len(v) for k, v in wanted.items()}


def test_what_was_read_and_what_is_queued_are_one(webhooks: Webhooks) -> None:
    endpoint = webhooks.endpoint()
    queue = webhooks.queue
    assert queue.positions(LOG) == {}
    queue.take(LOG, {0: (None, 5), 1: (None, 3)}, [incoming("a")], NOW)
    assert queue.positions(LOG) == {0: 5, 1: 3}
    for read in ({0: (None, 6)}, {0: (4, 6)}, {1: (3, 4), 0: (6, 7)}):
        with pytest.raises(Overtaken):
            queue.take(LOG, read, [incoming("b")], NOW)
    assert queue.positions(LOG) == {0: 5, 1: 3}
    assert webhooks.states(endpoint).keys() == {"a"}
    # the topic made anew: its records are read, and those that are known are not sent again
    assert queue.take("payments.alerts@2", {0: (None, 2)}, [incoming("a"), incoming("c")], NOW) == 1
    assert queue.positions(LOG) == {0: 5, 1: 3}
    assert webhooks.states(endpoint).keys() == {"a", "c"}


def test_without_endpoints_nothing_is_kept(webhooks: Webhooks) -> None:
    assert webhooks.take(incoming("a")) == 0
    late = webhooks.endpoint()
    assert webhooks.store.replay(late.id, **WHO).queued == 0


def test_of_two_who_take_in_the_same_records_one_queues_them(webhooks: Webhooks) -> None:
    endpoint = webhooks.endpoint()
    barrier = Barrier(2)

    def take(_: int) -> bool:
        barrier.wait(60)
        try:
            webhooks.queue.take(LOG, {0: (None, 2)}, [incoming("a"), incoming("b")], NOW)
        except Overtaken:
            return False
        return True

    with ThreadPoolExecutor(2) as pool:
        assert sorted(pool.map(take, range(2))) == [False, True]
    assert webhooks.states(endpoint).keys() == {"a", "b"}


def test_a_claim_is_nobody_elses_until_it_ends(webhooks: Webhooks) -> None:
    webhooks.endpoint()
    webhooks.take(incoming("a"), incoming("b"))
    assert webhooks.claimed(limit=1) == ["a"]
    assert webhooks.claimed(owner="d2") == ["b"]
    assert webhooks.claimed() == []
    # a process that comes back under its name begins where it died; another one waits for the lease to end
    assert webhooks.queue.release("d1", webhooks.clock.now()) == 1
    assert webhooks.claimed() == ["a"]
    webhooks.clock.advance(61)
    assert webhooks.claimed() == ["a", "b"]


def test_many_claim_at_once_and_nothing_is_claimed_twice(webhooks: Webhooks) -> None:
    webhooks.endpoint()
    webhooks.take(*[incoming(f"e{n}") for n in range(40)])
    barrier = Barrier(4)

    def claim(worker: int) -> list[str]:
        barrier.wait(60)
        return [name for _ in range(5) for name in webhooks.claimed(owner=f"d{worker}", limit=2)]

    with ThreadPoolExecutor(4) as pool:
        claimed = [name for names in pool.map(claim, range(4)) for name in names]
    assert sorted(claimed) == sorted(f"e{n}" for n in range(40))


def test_a_delivery_is_tried_until_it_succeeds_and_each_attempt_is_kept(webhooks: Webhooks) -> None:
    endpoint = webhooks.endpoint()
    webhooks.take(incoming("a"))
    (due,) = webhooks.claim()
    assert (due.url, due.attempts, due.message) == (URL, 0, "alert_a")
    webhooks.settle(due, status=500, error="status_500", due_at=NOW + 5 * SECOND)
    assert webhooks.claim() == []
    webhooks.clock.advance(5)
    (due,) = webhooks.claim()
    assert due.attempts == 1
    webhooks.settle(due, status=204)
    assert webhooks.claim() == []
    delivery, tried = webhooks.store.delivery(endpoint.id, "alert_a")
    assert (delivery.state, delivery.attempts, delivery.status) == (DeliveryState.DELIVERED, 2, 204)
    assert [(t.attempt, t.status, t.error) for t in tried] == [(1, 500, "status_500"), (2, 204, None)]
    assert [t.at for t in tried] == [NOW, NOW + 5 * SECOND]


def test_the_last_failure_ends_it_and_a_replay_begins_anew(webhooks: Webhooks) -> None:
    endpoint = webhooks.endpoint()
    webhooks.take(incoming("a"), incoming("b"), incoming("block", decision="block"))
    for due in webhooks.claim():
        webhooks.settle(due, status=None, error="timeout", due_at=None)
    assert set(webhooks.states(endpoint).values()) == {DeliveryState.FAILED}
    assert [d.message for d in webhooks.store.log(endpoint.id, state=DeliveryState.FAILED, limit=2)] == [
        "alert_block",
        "alert_b",
    ]
    assert webhooks.store.replay(endpoint.id, only=["alert_a"], **WHO).queued == 1
    (due,) = webhooks.claim()
    assert (due.message, due.attempts) == ("alert_a", 0)
    webhooks.settle(due)
    _, tried = webhooks.store.delivery(endpoint.id, "alert_a")
    assert [t.attempt for t in tried] == [1, 2]
    # delivered or not: asked for again, sent again, as far as the filter wants it
    webhooks.store.change(
        endpoint.id,
        EndpointSettings(url=URL, filter=WebhookFilter(decisions=(DecisionName.REVIEW,))),
        **WHO,
    )
    replayed = webhooks.store.replay(endpoint.id, since=NOW, until=NOW + 1, **WHO)
    assert (replayed.queued, replayed.more) == (2, False)
    assert webhooks.claimed() == ["a", "b"]
    assert webhooks.store.replay(endpoint.id, since=NOW + 1, **WHO).queued == 0


def test_a_long_replay_goes_in_steps(webhooks: Webhooks) -> None:
    endpoint = webhooks.endpoint(enabled=False)
    webhooks.take(*[incoming(f"e{n}") for n in range(5)])
    first = webhooks.store.replay(endpoint.id, limit=3, **WHO)
    assert (first.queued, first.more) == (3, True)
    assert first.last is not None
    second = webhooks.store.replay(endpoint.id, limit=3, after=first.last, **WHO)
    assert (second.queued, second.more) == (2, False)
    assert webhooks.claim() == []
    webhooks.store.change(endpoint.id, EndpointSettings(url=URL), **WHO)
    assert webhooks.claimed() == [f"e{n}" for n in range(5)]


def test_in_order_means_one_after_the_other_for_each_key(webhooks: Webhooks) -> None:
    webhooks.endpoint(order=Order.KEY)
    webhooks.take(
        incoming("a1", lane="a"), incoming("a2", lane="a"), incoming("b1", lane="b"), incoming("a3", lane="a")
    )
    first, other = webhooks.claim()
    assert (first.message, other.message) == ("alert_a1", "alert_b1")
    assert webhooks.claim() == []
    webhooks.settle(first, status=500, error="status_500", due_at=NOW + SECOND)
    assert webhooks.claim() == []
    webhooks.clock.advance(1)
    (again,) = webhooks.claim()
    assert again.message == "alert_a1"
    webhooks.settle(again)
    (second,) = webhooks.claim()
    assert second.message == "alert_a2"
    webhooks.settle(second, status=None, error="timeout", due_at=None)
    assert webhooks.claimed() == ["a3"]


def test_without_order_a_failed_one_holds_nobody_up(webhooks: Webhooks) -> None:
    webhooks.endpoint()
    webhooks.take(incoming("a1"), incoming("a2"))
    assert webhooks.claimed() == ["a1", "a2"]


def test_a_rate_holds_over_claims_and_processes(webhooks: Webhooks) -> None:
    webhooks.endpoint(rate=2.0)
    fast = webhooks.endpoint()
    webhooks.take(*[incoming(f"e{n}") for n in range(9)])

    def slow() -> int:
        return sum(due.endpoint != fast.id for due in webhooks.claim())

    assert slow() == 2
    assert slow() == 0
    webhooks.clock.advance(0.5)
    assert slow() == 1
    webhooks.clock.advance(10)
    assert slow() == 2


def test_an_endpoint_that_wants_quiet_gets_it(webhooks: Webhooks) -> None:
    endpoint = webhooks.endpoint()
    webhooks.take(incoming("a"), incoming("b"))
    first, _ = webhooks.claim(limit=2)
    webhooks.take(incoming("c"))
    until = NOW + 30 * SECOND
    webhooks.settle(first, status=429, error="status_429", due_at=until, pause_until=until)
    assert webhooks.store.endpoint(endpoint.id).paused_until == until
    assert webhooks.claim() == []
    webhooks.clock.advance(30)
    assert webhooks.claimed() == ["c", "a"]


def test_no_endpoint_takes_every_place(webhooks: Webhooks) -> None:
    slow, other = webhooks.endpoint(), webhooks.endpoint()
    webhooks.take(*[incoming(f"e{n}") for n in range(9)])
    given = [due.endpoint for due in webhooks.claim(limit=6, each=4, busy={slow.id: 3})]
    assert (given.count(slow.id), given.count(other.id)) == (1, 4)


def test_410_disables_the_endpoint_and_says_so(webhooks: Webhooks) -> None:
    endpoint = webhooks.endpoint()
    webhooks.take(incoming("a"), incoming("b"))
    first, second = webhooks.claim()
    webhooks.settle(first, status=410, error="status_410", gone=True)
    webhooks.settle(second, status=410, error="status_410", gone=True)
    now = webhooks.store.endpoint(endpoint.id)
    assert (now.settings.enabled, now.disabled_reason) == (False, "it answered 410 Gone")
    assert [(r.action, r.by) for r in webhooks.audit()][1:] == [("webhook.disable", "dispatcher")]
    assert webhooks.take(incoming("c")) == 0
    with pytest.raises(BadEndpoint):
        webhooks.store.send_test(endpoint.id, **WHO)
    enabled = webhooks.store.change(endpoint.id, EndpointSettings(url=URL), **WHO)
    assert enabled.disabled_reason is None
    assert webhooks.store.replay(endpoint.id, **WHO).queued == 3


def test_a_test_event_is_queued_for_its_endpoint_alone(webhooks: Webhooks) -> None:
    one, other = webhooks.endpoint(order=Order.KEY), webhooks.endpoint()
    id_ = webhooks.store.send_test(one.id, **WHO)
    (due,) = webhooks.claim()
    assert (due.endpoint, due.message) == (one.id, id_)
    body = msgspec.json.decode(due.body)
    assert body == {
        "type": "test",
        "timestamp": "2023-11-14T22:13:20Z",
        "data": {"pipeline": webhooks.pipeline, "endpoint": one.id},
    }
    assert webhooks.store.log(other.id) == []
    # nobody replays a test
    assert webhooks.store.replay(other.id, **WHO).queued == 0


def test_what_is_deleted_under_way_is_gone(webhooks: Webhooks) -> None:
    endpoint = webhooks.endpoint()
    webhooks.take(incoming("a"), incoming("b"))
    first, _ = webhooks.claim()
    webhooks.store.delete(endpoint.id, **WHO)
    webhooks.settle(first)
    assert webhooks.claim() == []
    assert webhooks.queue.waiting() == []


def test_old_messages_are_forgotten(webhooks: Webhooks) -> None:
    endpoint = webhooks.endpoint()
    webhooks.take(incoming("old"), incoming("waits"))
    done, _ = webhooks.claim()
    webhooks.settle(done)
    webhooks.clock.advance(10)
    webhooks.take(incoming("new"))
    assert webhooks.queue.forget(NOW) == (0, 0)
    assert webhooks.queue.forget(NOW + SECOND) == (2, 1)
    assert webhooks.states(endpoint).keys() == {"new"}
    assert webhooks.store.replay(endpoint.id, **WHO).queued == 1


def test_messages_about_an_entity_are_erased_with_their_log(webhooks: Webhooks) -> None:
    endpoint = webhooks.endpoint()
    mine = 'x"%_'
    webhooks.take(incoming("a", account=mine), incoming("b", account='x"11'), incoming("c", account=mine))
    first, *_ = webhooks.claim(limit=1)
    assert webhooks.queue.erase("merchant", mine) == 0
    assert webhooks.queue.erase("account", mine) == 2
    webhooks.settle(first)
    assert webhooks.states(endpoint).keys() == {"b"}
    assert webhooks.queue.erase("account", mine) == 0
    # a test event names no entity
    webhooks.store.send_test(endpoint.id, **WHO)
    assert webhooks.queue.erase("pipeline", webhooks.pipeline) == 0
