"""The API served by uvicorn over a real Kafka and Redis, with a stand-in for the worker."""

from __future__ import annotations

import http.client
import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from queue import Queue
from typing import Any

import httpx
import pytest
from confluent_kafka.admin import AdminClient

from api.app import create_app
from api.server import serve
from domain.clock import ManualClock
from featurestore.hot_verdicts import RedisHotVerdicts
from featurestore.redis_client import connect
from stream.feed import KafkaVerdictFeed
from stream.gateway import KafkaScoreGateway
from stream.topics import Topics, create_topics, partition_of
from tests.contract.check_hot_verdicts import NOW, verdict
from tests.integration.standin_worker import StandInWorker, produce_verdicts
from tests.system.scene import PATIENCE, Reader, eventually
from tests.unit.api.fakes import EVENT, World

pytestmark = [pytest.mark.kafka, pytest.mark.redis]
ENOUGH = PATIENCE


@dataclass
class Served:
    url: str
    port: int
    pipeline: str
    hot: RedisHotVerdicts
    world: World
    feed: KafkaVerdictFeed
    stop: Callable[[], None]


def _serving(kafka: str, redis_url: str, pipeline: str) -> Iterator[Served]:
    create_topics({"bootstrap.servers": kafka}, pipeline, 3)
    conf = {"bootstrap.servers": kafka}
    world = World()
    client = connect(redis_url)
    hot = RedisHotVerdicts(client, pipeline, ManualClock(NOW))
    gateway = KafkaScoreGateway(conf, pipeline, "api-1")
    feed = KafkaVerdictFeed(conf, pipeline, capacity=5)
    admin = AdminClient({"bootstrap.servers": kafka})

    async def start() -> None:
        await gateway.start()
        await feed.start()

    async def close() -> None:
        await feed.close()
        await gateway.close()

    def kafka_probe() -> None:
        admin.list_topics(Topics(pipeline).events, timeout=5)

    deps = replace(
        world.deps, gateway=gateway, feed=feed, hot=hot, start=start, close=close,
        probes={"kafka": kafka_probe, "redis": hot.ping},
    )  # fmt: skip
    stop, ready = threading.Event(), Queue[int]()
    thread = threading.Thread(
        target=serve, args=(create_app(deps),), kwargs={"port": 0, "stop": stop, "ready": ready.put}
    )
    thread.start()
    port = ready.get(timeout=ENOUGH)

    def stopping() -> None:
        stop.set()
        thread.join(ENOUGH)
        assert not thread.is_alive()

    try:
        yield Served(f"http://127.0.0.1:{port}", port, pipeline, hot, world, feed, stopping)
    finally:
        stopping()
        client.close()


@pytest.fixture
def served(kafka: str, redis_url: str, topic_prefix: str) -> Iterator[Served]:
    yield from _serving(kafka, redis_url, topic_prefix)


@pytest.fixture
def http_client(served: Served) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=served.url, timeout=ENOUGH) as client:
        yield client


def test_score_answers_with_what_was_committed_and_says_where_to_look_else(
    kafka: str, served: Served, http_client: httpx.Client
) -> None:
    with StandInWorker(kafka, served.pipeline, NOW) as worker:
        trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
        answer = http_client.post("/v1/score?deadline_ms=30000", json=EVENT, headers={"traceparent": trace})
        assert answer.status_code == 200, answer.text
        # the aborted verdict said block
        assert answer.json()["decision"] == "review"
        assert answer.json()["id"] == EVENT["transaction_id"]

        refused = http_client.post("/v1/score?deadline_ms=30000", json={**EVENT, "merchant_id": "refused"})
        assert (refused.status_code, refused.json()["reason"]) == (422, "wrong_key")

        silent = http_client.post("/v1/score?deadline_ms=1500", json={**EVENT, "merchant_id": "silence"})
        assert silent.status_code == 202
        assert silent.headers["location"] == "/v1/verdicts/t%2F1"
        # nobody waits for its answer, so it may still be on its way to the worker
        eventually("the worker has all three", lambda: len(worker.events) == 3)

    first = worker.events[0]
    headers = dict(first.headers())
    assert first.key() == b"4929-1"
    assert first.partition() == partition_of(b"4929-1", 3)
    assert headers["traceparent"] == trace.encode()
    assert len(headers["tidegate-request-id"]) == 32
    assert int(headers["tidegate-reply-partition"]) == partition_of(b"api-1", 16)


def test_many_requests_at_once_each_get_their_own(
    kafka: str, served: Served, http_client: httpx.Client
) -> None:
    answers: dict[int, str] = {}

    def ask(i: int) -> None:
        event = {**EVENT, "transaction_id": f"t{i}", "account_id": f"a{i}"}
        answers[i] = http_client.post("/v1/score?deadline_ms=30000", json=event).json().get("id", "")

    with StandInWorker(kafka, served.pipeline, NOW):
        threads = [threading.Thread(target=ask, args=(i,)) for i in range(20)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(ENOUGH)
    assert answers == {i: f"t{i}" for i in range(20)}


def test_verdicts_of_redis_readiness_and_chunked_bodies(served: Served, http_client: httpx.Client) -> None:
    served.hot.put_many([verdict(i, id=f"t/{i}") for i in range(3)])
    assert http_client.get("/v1/verdicts/t%2F2").json()["id"] == "t/2"
    assert len(http_client.get("/v1/verdicts?limit=2").json()["verdicts"]) == 2
    healthy = {"kafka": "ok", "redis": "ok"}
    eventually("it is ready", lambda: http_client.get("/readyz").json()["checks"] == healthy)

    connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=ENOUGH)
    endless = (b"x" * 1024 for _ in range(5))
    connection.request(
        "POST", "/v1/score", body=endless, headers={"Content-Type": "application/json"}, encode_chunked=True
    )
    answer = connection.getresponse()
    assert (answer.status, json.loads(answer.read())["reason"]) == (413, "too_large")
    connection.close()


def events_of(response: httpx.Response) -> Iterator[tuple[str, str, Any]]:
    """(event, id, data) of a stream of server-sent events."""
    event, ident = "", ""
    for line in response.iter_lines():
        name, _, value = line.partition(": ")
        if name == "event":
            event = value
        elif name == "id":
            ident = value
        elif name == "data":
            yield event, ident, json.loads(value)
            ident = ""


def test_stream_shows_committed_matches_and_ends_with_the_server(
    kafka: str, served: Served, http_client: httpx.Client
) -> None:
    produce_verdicts(kafka, served.pipeline, [verdict(1, score=0.99)])
    # before anybody watches: committed readers are let see a transaction a moment after its commit was acknowledged
    early = Reader(kafka, Topics(served.pipeline).verdicts, 3)
    eventually("the first verdict is visible", lambda: len(early.messages) == 1)
    early.close()
    with http_client.stream("GET", "/v1/verdicts/stream?min_score=0.9") as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        events = events_of(response)
        assert next(events) == ("ready", "", {})
        produce_verdicts(kafka, served.pipeline, [verdict(2, score=0.99)], abort=True)
        produce_verdicts(
            kafka, served.pipeline, [verdict(3, score=0.5), verdict(4, score=None), verdict(5, score=0.95)]
        )
        name, ident, data = next(events)
        assert (name, data["id"]) == ("verdict", "e5")
        assert ident.startswith("0-")
        served.stop()
        assert list(events) == []
