"""The dispatcher against a real HTTP server, with a clock that the test moves; and with a real Kafka."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient
from prometheus_client import CollectorRegistry

from alerts.dispatcher import Deliverer, DispatcherConfig, DispatcherParts, run_dispatcher
from alerts.guard import AddressGuard, parse_networks
from alerts.metrics import DispatcherMetrics
from alerts.schedule import STANDARD_DELAYS, Schedule
from alerts.sender import Sender
from domain.clock import Clock, ManualClock, SystemClock
from domain.verdict import Alert
from lifecycle.database import Database
from lifecycle.webhook_queue import WebhookQueue
from lifecycle.webhook_secrets import SecretBox
from lifecycle.webhook_store import WebhookStore
from lifecycle.webhooks import DeliveryState, Endpoint, EndpointSettings, Incoming, Order
from stream.kafka import KafkaConnection
from stream.log_identity import log_identity
from stream.topics import Topics, create_topics
from tests.alerts import NOW, alert
from tests.receiver import Answer, Received, Receiver, receiving
from tests.system.scene import eventually

WHO: dict[str, Any] = {"by": "test", "reason": "test"}
HERE = AddressGuard(parse_networks("127.0.0.0/8"))


@dataclass
class Desk:
    """A store, a queue, and dispatchers that end with the test."""

    database: Database
    clock: Clock
    stack: ExitStack
    box: SecretBox = field(default_factory=lambda: SecretBox(b"k" * 32))
    taken: int = 0

    def __post_init__(self) -> None:
        self.store = WebhookStore(self.database, "payments", self.clock, self.box)
        self.queue = WebhookQueue(self.database, "payments", self.box)
        self.registry = CollectorRegistry()

    def endpoint(self, receiver: Receiver, **settings: Any) -> Endpoint:
        return self.store.add(EndpointSettings(url=receiver.url(), **settings), **WHO)[0]

    def take(self, *names: str) -> None:
        """Queue alerts; the first letter of a name is its lane."""
        found = []
        for name in names:
            one = alert(name)
            body = f'{{"data":{msgspec.json.encode(one).decode()}}}'
            found.append(Incoming(id=f"alert_{name}", body=body, lane=name[0], alert=one))
        self.queue.take("log", {}, found, self.clock.now())

    def parts(self, guard: AddressGuard = HERE, **changes: Any) -> DispatcherParts:
        return DispatcherParts(
            **{
                "conf": {},
                "topic": "",
                "key_field": "account",
                "identity": lambda: "log",
                "queue": self.queue,
                "sender": lambda: Sender(guard, self.clock, user_agent="test", seconds=60.0),
                "clock": self.clock,
                "draw": lambda: 0.0,
                "metrics": DispatcherMetrics(self.registry),
                **changes,
            }
        )

    def start(self, guard: AddressGuard = HERE, **config: Any) -> Callable[[], None]:
        """A deliverer in a thread; what is returned ends it."""
        stop = threading.Event()
        deliverer = Deliverer(DispatcherConfig(owner="d1", **config), self.parts(guard), stop)
        return self.running(lambda: asyncio.run(deliverer.run()), stop)

    def running(self, run: Callable[[], None], stop: threading.Event) -> Callable[[], None]:
        thread = threading.Thread(target=run)
        thread.start()

        def end() -> None:
            stop.set()
            thread.join()

        self.stack.callback(end)
        return end

    def metric(self, name: str, **labels: str) -> float:
        return self.registry.get_sample_value(f"tidegate_dispatcher_{name}", labels) or 0.0


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as receiver:
        yield receiver


@contextmanager
def a_desk(directory: Path, clock: Clock) -> Iterator[Desk]:
    with (
        closing(Database(f"sqlite:///{directory}/webhooks.sqlite")) as database,
        ExitStack() as stack,
    ):
        yield Desk(database, clock, stack)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(NOW)


@pytest.fixture
def desk(tmp_path: Path, clock: ManualClock) -> Iterator[Desk]:
    with a_desk(tmp_path, clock) as desk:
        yield desk


def names(receiver: Receiver) -> list[str]:
    return [msgspec.json.decode(request.body)["data"]["id"] for request in receiver.received]


def test_ten_attempts_over_three_days_and_then_no_more(
    desk: Desk, receiver: Receiver, clock: ManualClock
) -> None:
    receiver.answer = lambda _: (500, {}, b"")
    endpoint = desk.endpoint(receiver)
    desk.take("a")
    desk.start(schedule=Schedule(jitter=0.0))

    def tried() -> int:
        return len(desk.store.delivery(endpoint.id, "alert_a")[1])

    for number, delay in enumerate(STANDARD_DELAYS, 1):
        clock.advance(delay)
        eventually(f"attempt {number}", lambda number=number: tried() == number)  # type: ignore[misc]
    delivery, attempts = desk.store.delivery(endpoint.id, "alert_a")
    assert delivery.state is DeliveryState.FAILED
    waits = [0.0, *[(b.at - a.at) / 1e6 for a, b in pairwise(attempts)]]
    assert waits == list(STANDARD_DELAYS)
    assert len({request.headers["webhook-id"] for request in receiver.received}) == 1
    # each attempt is signed anew, with its own time
    assert len({request.headers["webhook-signature"] for request in receiver.received}) == 10
    eventually("it is counted", lambda: desk.metric("attempts_total", outcome="failed") == 1)
    assert desk.metric("attempts_total", outcome="retried") == 9


def test_who_asks_for_quiet_gets_it_for_everything(
    desk: Desk, receiver: Receiver, clock: ManualClock
) -> None:
    receiver.answer = lambda _: (429, {"retry-after": "3600"}, b"")
    endpoint = desk.endpoint(receiver)
    desk.take("a")
    desk.start()
    eventually("it is asked for", lambda: desk.store.endpoint(endpoint.id).paused_until > 0)
    assert desk.store.endpoint(endpoint.id).paused_until == NOW + 3_600_000_000
    receiver.answer = lambda _: (204, {}, b"")
    other = desk.endpoint(receiver)
    clock.advance(3599)
    desk.take("b")
    # the other endpoint's delivery shows that the dispatcher has looked since
    eventually("others go on", lambda: desk.store.log(other.id)[0].state is DeliveryState.DELIVERED)
    assert names(receiver) == ["a", "b"]
    clock.advance(1)
    eventually("quiet ends", lambda: sorted(names(receiver)) == ["a", "a", "b", "b"])


def test_410_ends_it(desk: Desk, receiver: Receiver) -> None:
    receiver.answer = lambda _: (410, {}, b"")
    endpoint = desk.endpoint(receiver)
    desk.take("a")
    desk.start()
    eventually("it is disabled", lambda: not desk.store.endpoint(endpoint.id).settings.enabled)
    eventually("it is counted", lambda: desk.metric("disabled_total") == 1)
    assert names(receiver) == ["a"]


def test_in_order_a_failure_holds_up_its_own_entity_only(
    desk: Desk, receiver: Receiver, clock: ManualClock
) -> None:
    broken = True

    def answer(request: Received) -> Answer:
        return (500 if broken and b'"id":"a1"' in request.body else 204), {}, b""

    receiver.answer = answer
    endpoint = desk.endpoint(receiver, order=Order.KEY)
    desk.take("a1", "a2", "b1", "a3", "b2")
    desk.start(schedule=Schedule(jitter=0.0))

    def delivered() -> int:
        return len(desk.store.log(endpoint.id, state=DeliveryState.DELIVERED))

    eventually("the other entity's are delivered", lambda: delivered() == 2)
    assert sorted(names(receiver)) == ["a1", "b1", "b2"]
    broken = False
    clock.advance(5)
    eventually("all are delivered", lambda: delivered() == 5)
    assert [name for name in names(receiver) if name[0] == "a"] == ["a1", "a1", "a2", "a3"]


def test_a_slow_endpoint_has_its_places_and_leaves_the_others_theirs(desk: Desk, receiver: Receiver) -> None:
    lock, go_on, inside, most = threading.Lock(), threading.Event(), 0, 0

    def answer(_: Received) -> Answer:
        nonlocal inside, most
        with lock:
            inside += 1
            most = max(most, inside)
        go_on.wait(60)
        with lock:
            inside -= 1
        return 204, {}, b""

    receiver.answer = answer
    slow = desk.endpoint(receiver)
    desk.take(*[f"a{n}" for n in range(12)])
    with receiving() as quick:
        other = desk.endpoint(quick)
        desk.store.replay(other.id, since=0, **WHO)
        desk.start(places=6, each=4)
        eventually(
            "the others are delivered",
            lambda: len(desk.store.log(other.id, state=DeliveryState.DELIVERED)) == 12,
        )
    eventually("its places are taken", lambda: inside == 4)
    go_on.set()
    eventually("it is served", lambda: len(desk.store.log(slow.id, state=DeliveryState.DELIVERED)) == 12)
    assert most == 4


def test_an_address_within_is_refused_and_the_log_says_so(desk: Desk, receiver: Receiver) -> None:
    endpoint = desk.endpoint(receiver)
    desk.take("a")
    desk.start(AddressGuard())
    eventually("it is refused", lambda: desk.store.log(endpoint.id)[0].error == "private_address")
    assert receiver.received == []


def test_secrets_of_another_key_are_one_endpoints_trouble(desk: Desk, receiver: Receiver) -> None:
    stranger = WebhookStore(desk.database, "payments", desk.clock, SecretBox(b"x" * 32))
    foreign, _ = stranger.add(EndpointSettings(url=receiver.url("/foreign")), **WHO)
    ours = desk.endpoint(receiver)
    desk.take("a")
    desk.start()
    eventually("ours", lambda: desk.store.log(ours.id)[0].state is DeliveryState.DELIVERED)
    eventually("theirs", lambda: desk.store.log(foreign.id)[0].error == "no_secret")
    assert [request.path for request in receiver.received] == ["/hook"]


def test_asked_to_stop_it_finishes_what_is_under_way(desk: Desk, receiver: Receiver) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def answer(_: Received) -> Answer:
        begun.set()
        go_on.wait(60)
        return 204, {}, b""

    receiver.answer = answer
    endpoint = desk.endpoint(receiver)
    desk.take("a")
    end = desk.start()
    assert begun.wait(60)
    go_on.set()
    end()
    assert desk.store.log(endpoint.id)[0].state is DeliveryState.DELIVERED


@pytest.mark.kafka
def test_two_dispatchers_on_one_topic_deliver_each_alert_once(
    kafka: str, topic_prefix: str, tmp_path: Path, receiver: Receiver
) -> None:
    create_topics({"bootstrap.servers": kafka}, topic_prefix, 2, replies_partitions=1)
    topic = Topics(topic_prefix).alerts
    connection = KafkaConnection(kafka)
    producer = Producer(connection.client("test"))

    def send(count: int) -> None:
        for number in range(count):
            one = alert(f"e{number}", account=f"a{number % 7}", offset=number)
            producer.produce(topic, value=msgspec.json.encode(one), key=f"k{number % 7}")
        producer.produce(topic, value=b"no alert", key="x")
        assert producer.flush(60) == 0

    def snoozed(one: Alert) -> bool:
        return one.entities["account"] == "a3"

    with a_desk(tmp_path, SystemClock()) as desk:
        admin = AdminClient(connection.client("test"))
        endpoint = desk.endpoint(receiver)
        parts = desk.parts(
            topic=topic,
            conf=connection.reader("test", "test"),
            identity=lambda: log_identity(admin, topic),
            snoozed=snoozed,
        )
        for owner in ("d1", "d2"):
            stop = threading.Event()
            config = DispatcherConfig(owner=owner)
            desk.running(lambda config=config, stop=stop: run_dispatcher(config, replace(parts), stop), stop)  # type: ignore[misc]
        send(70)
        expected = {f"e{number}" for number in range(70) if number % 7 != 3}
        eventually(
            "all are delivered",
            lambda: (
                len(desk.store.log(endpoint.id, state=DeliveryState.DELIVERED, limit=1000)) == len(expected)
            ),
            lambda: str(names(receiver)),
            lambda: len(receiver.received),
        )
        assert sorted(names(receiver)) == sorted(expected)
        assert desk.metric("snoozed_total") >= 10
        assert desk.metric("skipped_total") >= 1
