"""``/v1/webhooks`` over a real store."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import jsonschema
import msgspec
import pytest
from prometheus_client import CollectorRegistry
from starlette.requests import Request

from api.access import EVERYTHING, Principal, Scope
from api.app import create_app
from domain.errors import RegistryUnavailable
from lifecycle.database import Database
from lifecycle.webhook_queue import WebhookQueue
from lifecycle.webhook_secrets import SecretBox
from lifecycle.webhook_store import WebhookStore
from lifecycle.webhooks import Incoming, Settled
from tests.alerts import alert
from tests.contract.check_hot_verdicts import NOW
from tests.unit.api.fakes import World
from tests.unit.api.test_routes import problem

pytestmark = pytest.mark.anyio

URL = "https://hooks.example/T0KEN"
BOX = SecretBox(b"k" * 32)


class Somebody:
    """Whoever is told to ask."""

    def __init__(self) -> None:
        self.scopes = EVERYTHING

    async def identify(self, request: Request) -> Principal:
        return Principal("anna", self.scopes)


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    found = Database(f"sqlite:///{tmp_path_factory.mktemp('api')}/webhooks.sqlite")
    yield found
    found.close()


@pytest.fixture
def access() -> Somebody:
    return Somebody()


@pytest.fixture
def store(database: Database, world: World, tmp_path: Path) -> WebhookStore:
    return WebhookStore(database, tmp_path.name, world.clock, BOX)


@pytest.fixture
def queue(database: Database, tmp_path: Path) -> WebhookQueue:
    return WebhookQueue(database, tmp_path.name, BOX)


@pytest.fixture
async def client(world: World, store: WebhookStore, access: Somebody) -> AsyncIterator[httpx.AsyncClient]:
    app = create_app(replace(world.deps, webhooks=lambda: store, access=access))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://test") as client:
        yield client


async def made(client: httpx.AsyncClient, **settings: Any) -> dict[str, Any]:
    answer = await client.post("/v1/webhooks", json={"url": URL, **settings})
    assert answer.status_code == 201, answer.text
    body: dict[str, Any] = answer.json()
    assert answer.headers["location"] == f"/v1/webhooks/{body['endpoint']['id']}"
    assert answer.headers["cache-control"] == "no-store"
    return body


def take(queue: WebhookQueue, name: str) -> None:
    one = alert(name)
    body = b'{"data":' + msgspec.json.encode(one) + b"}"
    found = Incoming(id=f"alert_{name}", body=body.decode(), lane="a", alert=one)
    queue.take("log", {}, [found], NOW)


async def test_an_endpoint_from_beginning_to_end(client: httpx.AsyncClient, store: WebhookStore) -> None:
    body = await made(client, filter={"decisions": ["block"], "min_score": 0.5}, rate=3, order="key")
    path = f"/v1/webhooks/{body['endpoint']['id']}"
    assert body["secret"]["secret"].startswith("whsec_")
    assert body["endpoint"]["created_by"] == "anna"
    shown = (await client.get(path)).json()
    assert shown["endpoint"] == body["endpoint"]
    assert [secret["id"] for secret in shown["secrets"]] == [body["secret"]["id"]]
    assert (await client.get("/v1/webhooks")).json() == {"endpoints": [body["endpoint"]]}
    # never shown again, by no route
    for text in ((await client.get(path)).text, (await client.get("/v1/webhooks")).text):
        assert body["secret"]["secret"] not in text
    changed = await client.put(path, json={"url": URL, "enabled": False, "revision": 1, "reason": "holiday"})
    assert changed.json()["endpoint"]["settings"]["enabled"] is False
    assert changed.json()["endpoint"]["settings"]["rate"] is None
    problem(await client.put(path, json={"url": URL, "revision": 1}), 409, "conflict")
    rotated = await client.post(f"{path}:rotate", json={"overlap_seconds": 60})
    assert rotated.json()["secret"]["secret"] != body["secret"]["secret"]
    assert rotated.headers["cache-control"] == "no-store"
    assert len((await client.get(path)).json()["secrets"]) == 2
    assert (await client.delete(path, params={"reason": "no longer"})).status_code == 204
    problem(await client.get(path), 404, "no-such-webhook")
    assert store.endpoints() == []


async def test_a_test_event_and_what_became_of_it(client: httpx.AsyncClient, queue: WebhookQueue) -> None:
    path = f"/v1/webhooks/{(await made(client))['endpoint']['id']}"
    answer = await client.post(f"{path}:test", json={})
    assert answer.status_code == 202
    message = answer.json()["message"]
    assert (await client.get(answer.headers["location"])).json()["attempts"] == []
    (due,) = queue.claim("d", NOW, lease=60.0, limit=1, each=1, busy={})
    queue.settle([Settled(due=due, at=NOW, seconds=0.5, status=500, error="status_500", due_at=NOW + 1)], "d")
    found = (await client.get(answer.headers["location"])).json()
    assert (found["delivery"]["message"], found["delivery"]["state"]) == (message, "pending")
    assert found["attempts"] == [
        {"attempt": 1, "at": NOW, "seconds": 0.5, "status": 500, "error": "status_500"}
    ]
    await client.put(path, json={"url": URL, "enabled": False})
    problem(await client.post(f"{path}:test", json={}), 422, "invalid-parameter")


async def test_the_log_in_pages_and_a_replay(client: httpx.AsyncClient, queue: WebhookQueue) -> None:
    path = f"/v1/webhooks/{(await made(client))['endpoint']['id']}"
    for name in "abc":
        take(queue, name)
    first = (await client.get(f"{path}/deliveries", params={"limit": 2})).json()
    assert [d["message"] for d in first["deliveries"]] == ["alert_c", "alert_b"]
    rest = (await client.get(f"{path}/deliveries", params={"limit": 2, "before": first["next"]})).json()
    assert [d["message"] for d in rest["deliveries"]] == ["alert_a"]
    assert rest["next"] is None
    for due in queue.claim("d", NOW, lease=60.0, limit=9, each=9, busy={}):
        queue.settle([Settled(due=due, at=NOW, seconds=0.1, status=200, error=None)], "d")
    assert (await client.get(f"{path}/deliveries", params={"state": "pending"})).json()["deliveries"] == []
    answer = await client.post(f"{path}:replay", json={"messages": ["alert_a", "alert_x"]})
    assert (answer.status_code, answer.json()["queued"]) == (202, 1)
    answer = await client.post(f"{path}:replay", json={"since": NOW, "until": NOW + 1})
    assert answer.json()["queued"] == 3
    pending = (await client.get(f"{path}/deliveries", params={"state": "pending"})).json()["deliveries"]
    assert len(pending) == 3


@pytest.mark.parametrize(
    "body",
    [
        b"", b"nonsense", b"[]", b"{}", b'{"url":1}', b'{"url":""}', b'{"url":"http://user:t0psecret@x/"}',
        b'{"url":"https://x","rate":"2"}', b'{"url":"https://x","rate":NaN}', b'{"url":"https://x","rate":1e400}',
        b'{"url":"https://x","rate":0}', b'{"url":"https://x","unknown":1}', b'{"url":"https://x","order":"any"}',
        b'{"url":"https://x","filter":{"decisions":["allow"]}}', b'{"url":"https://x","filter":{"decisions":[]}}',
        b'{"url":"https://x","filter":{"min_score":2}}', b'{"url":"https://x","description":"a\\nb"}',
        b'{"url":"https://x","description":"\\ud800"}', b'{"url":"https://x","reason":""}', b'{"url":"\xff"}',
        b'{"url":"https://x","filter":' + b"[" * 100_000,
    ],
)  # fmt: skip
async def test_bodies_that_are_refused(client: httpx.AsyncClient, body: bytes) -> None:
    headers = {"content-type": "application/json"}
    answer = await client.post("/v1/webhooks", content=body, headers=headers)
    problem(answer, 422, "invalid-parameter")
    assert "t0psecret" not in answer.text


async def test_what_else_is_refused(client: httpx.AsyncClient) -> None:
    path = f"/v1/webhooks/{(await made(client))['endpoint']['id']}"
    for route, body in (
        (":rotate", {"overlap_seconds": -1}),
        (":rotate", {"overlap_seconds": 1e9}),
        (":replay", {}),
        (":replay", {"since": -1}),
        (":replay", {"since": 2**60}),
        (":replay", {"messages": []}),
        (":replay", {"messages": ["a\x00"]}),
        (":replay", {"messages": ["a"] * 1001}),
        (":test", {"x": 1}),
    ):
        problem(await client.post(path + route, json=body), 422, "invalid-parameter")
    for query in ({"limit": 0}, {"limit": 501}, {"before": 0}, {"before": 2**70}, {"state": "lost"}):
        problem(await client.get(f"{path}/deliveries", params=query), 422, "invalid-parameter")
    problem(await client.delete(path, params={"reason": " "}), 422, "invalid-parameter")
    problem(await client.post(f"{path}:test", content=b"{}"), 415, "not-json")


@pytest.mark.parametrize(
    "name", ["we_0000000000000000", "we_x", "x%00", "we_0000000000000000%0a", "%F0%9F%92%A9"]
)
async def test_what_is_not_there(client: httpx.AsyncClient, name: str) -> None:
    path = f"/v1/webhooks/{name}"
    answers = [
        await client.get(path),
        await client.put(path, json={"url": URL}),
        await client.delete(path),
        *[
            await client.post(f"{path}:{do}", json={"since": 0} if do == "replay" else {})
            for do in ("rotate", "test", "replay")
        ],
        await client.get(f"{path}/deliveries"),
        await client.get(f"{path}/deliveries/alert_1"),
    ]
    for answer in answers:
        problem(answer, 404, "no-such-webhook")
    good = (await made(client))["endpoint"]["id"]
    problem(await client.get(f"/v1/webhooks/{good}/deliveries/{name}"), 404, "no-such-webhook")


async def test_every_route_needs_its_scope(client: httpx.AsyncClient, access: Somebody) -> None:
    path = f"/v1/webhooks/{(await made(client))['endpoint']['id']}"
    access.scopes = EVERYTHING - {Scope.WEBHOOKS_WRITE}
    assert (await client.get(path)).status_code == 200
    writes = [
        await client.post("/v1/webhooks", json={"url": URL}),
        await client.put(path, json={"url": URL}),
        await client.delete(path),
        *[await client.post(f"{path}:{do}", json={"since": 0}) for do in ("rotate", "test", "replay")],
    ]
    access.scopes = EVERYTHING - {Scope.WEBHOOKS_READ}
    reads = [
        await client.get(p) for p in ("/v1/webhooks", path, f"{path}/deliveries", f"{path}/deliveries/m")
    ]
    for answer in writes + reads:
        problem(answer, 403, "forbidden")


async def test_a_database_that_is_away_and_an_api_without_one(world: World) -> None:
    def away() -> WebhookStore:
        raise RegistryUnavailable("db.internal:5432 is away")

    for webhooks, status, code in ((away, 503, "unavailable"), (None, 404, "no-webhooks")):
        app = create_app(replace(world.deps, webhooks=webhooks, registry=CollectorRegistry()))
        async with httpx.AsyncClient(
            transport=httpx.ASGITransport(app=app), base_url="http://test"
        ) as client:
            answer = await client.get("/v1/webhooks")
            problem(answer, status, code)
            assert "db.internal" not in answer.text


async def test_answers_are_what_openapi_says(client: httpx.AsyncClient, queue: WebhookQueue) -> None:
    document = (await client.get("/openapi.json")).json()

    def check(method: str, route: str, answer: httpx.Response) -> None:
        described = document["paths"][route][method]["responses"][str(answer.status_code)]
        schema = described["content"]["application/json"]["schema"]
        jsonschema.validate(answer.json(), {**schema, "components": document["components"]})

    base, one = "/v1/webhooks", "/v1/webhooks/{endpoint}"
    answer = await client.post(base, json={"url": URL, "rate": 0.5, "filter": {"reasons": ["rule:x"]}})
    check("post", base, answer)
    path = f"{base}/{answer.json()['endpoint']['id']}"
    check("get", base, await client.get(base))
    check("get", one, await client.get(path))
    check("put", one, await client.put(path, json={"url": URL}))
    check("post", f"{one}:rotate", await client.post(f"{path}:rotate", json={}))
    test = await client.post(f"{path}:test", json={})
    check("post", f"{one}:test", test)
    check("post", f"{one}:replay", await client.post(f"{path}:replay", json={"since": 0}))
    check("get", f"{one}/deliveries", await client.get(f"{path}/deliveries"))
    (due,) = queue.claim("d", NOW, lease=60.0, limit=1, each=1, busy={})
    queue.settle([Settled(due=due, at=NOW, seconds=0.5, status=204, error=None)], "d")
    check("get", f"{one}/deliveries/{{message}}", await client.get(test.headers["location"]))
