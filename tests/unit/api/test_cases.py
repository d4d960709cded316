"""Cases over HTTP: the queue, one case, and what reviewers do on the revision they saw."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import jsonschema
import msgspec
import pytest
from fastapi import Request
from prometheus_client import CollectorRegistry

from api.access import Principal, Scope
from api.app import create_app
from api.deps import ApiDeps
from domain.errors import RegistryUnavailable
from domain.verdict import Alert, DecisionName, Source, Versions
from lifecycle.case_labels import CaseLabels
from lifecycle.case_records import ArrivedAlert, HeardAlert
from lifecycle.case_store import SqlCaseStore
from lifecycle.database import Database
from tests.contract.check_hot_verdicts import NOW
from tests.unit.api.fakes import World
from tests.unit.api.test_routes import problem

pytestmark = pytest.mark.anyio


class As:
    """Whoever asks is ``name``, and may do what ``scopes`` say."""

    def __init__(self, name: str, *scopes: Scope) -> None:
        self.principal = Principal(name, frozenset(scopes))

    async def identify(self, request: Request) -> Principal:
        return self.principal


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    made = Database(f"sqlite:///{tmp_path}/cases.sqlite")
    yield made
    made.close()


@pytest.fixture
def deps(world: World, database: Database) -> ApiDeps:
    access = As("anna", Scope.CASES_READ, Scope.CASES_WRITE)
    return replace(world.deps, database=lambda: database, access=access)


def client_of(deps: ApiDeps) -> httpx.AsyncClient:
    app = create_app(replace(deps, registry=CollectorRegistry()))
    return httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://test")


@pytest.fixture
async def client(deps: ApiDeps) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(deps) as client:
        yield client


def take(deps: ApiDeps, *amounts: float) -> None:
    """A case for each amount, of an account of its own, one after the other."""
    assert deps.database is not None
    store = SqlCaseStore(deps.database(), "payments", deps.pipeline.reviewing, deps.clock)
    held = store.offsets("log").get(0, 0)
    for offset, amount in enumerate(amounts, held):
        account = deps.protector.protect(f"4929-{offset}")
        alert = Alert(
            id=f"t{offset}",
            event_time=NOW,
            scored_at=NOW,
            entities={"account_id": account},
            score=1.0,
            decision=DecisionName.BLOCK,
            reasons=[],
            flags=[],
            versions=Versions("1", 1, "", {}),
            source=Source("payments.events", 0, offset),
            amount=amount,
        )
        raw = msgspec.json.encode(alert)
        heard = msgspec.json.decode(raw, type=HeardAlert)
        store.take("log", [ArrivedAlert(0, offset, raw, heard, ("account_id", account))])


async def test_the_queue_begins_with_what_is_most_at_stake(client: httpx.AsyncClient, deps: ApiDeps) -> None:
    take(deps, 5.0, 50.0, 20.0)
    first = (await client.get("/v1/cases?limit=2")).json()
    assert [case["priority"] for case in first["cases"]] == [50.0, 20.0]
    rest = (await client.get("/v1/cases", params={"limit": 2, "cursor": first["next"]})).json()
    assert ([case["id"] for case in rest["cases"]], rest["next"]) == ([1], None)
    found = (await client.get("/v1/cases?entity=account_id:4929-1")).json()["cases"]
    assert [case["id"] for case in found] == [2]
    hashed = found[0]["value"]
    assert (await client.get(f"/v1/cases?entity_hash=account_id:{hashed}")).json()["cases"] == found
    await client.post("/v1/cases/2:decide", json={"decision": "fraud", "revision": 1})
    assert [c["id"] for c in (await client.get("/v1/cases?order=newest")).json()["cases"]] == [3, 1]
    assert [c["id"] for c in (await client.get("/v1/cases?order=newest&all=1")).json()["cases"]] == [3, 2, 1]
    assert [c["id"] for c in (await client.get("/v1/cases?decision=fraud")).json()["cases"]] == [2]
    problem(await client.get("/v1/cases?cursor=x"), 422, "bad-cursor")
    problem(await client.get("/v1/cases?assignee=%00"), 422, "invalid-parameter")
    problem(await client.get("/v1/cases?entity=nobody:1"), 422, "invalid-parameter")
    problem(await client.get("/v1/cases?status=lost"), 422, "invalid-parameter")


async def test_a_case_is_decided_on_what_was_seen(
    client: httpx.AsyncClient, deps: ApiDeps, world: World
) -> None:
    take(deps, 5.0)
    answer = await client.post("/v1/cases/1:assign", json={})
    assert (answer.json()["assignee"], answer.headers["etag"]) == ("anna", '"2"')
    answer = await client.post("/v1/cases/1:comment", json={"text": "called\nthe holder"})
    assert answer.json()["revision"] == 3
    decide = "/v1/cases/1:decide"
    body = {"decision": "fraud", "note": "not hers"}
    problem(await client.post(decide, json=body), 428, "revision-needed")
    problem(await client.post(decide, json=body, headers={"If-Match": '"2"'}), 412, "conflict")
    problem(await client.post(decide, json={**body, "revision": 2}), 409, "conflict")
    problem(
        await client.post(decide, json={**body, "revision": 2}, headers={"If-Match": '"3"'}),
        422,
        "invalid-parameter",
    )
    answer = await client.post(decide, json=body, headers={"If-Match": '"3"'})
    assert answer.status_code == 200, answer.text
    assert (answer.json()["decided_by"], answer.headers["etag"]) == ("anna", '"4"')
    view = (await client.get("/v1/cases/1")).json()
    assert [entry["kind"] for entry in view["history"]] == ["opened", "assigned", "comment", "decided"]
    assert view["alerts"][0]["alert"]["id"] == view["alerts"][0]["event_id"] == "t0"
    assert (view["alerts"][0]["label"], view["alerts"][0]["label_written"]) == (1, False)
    assert deps.database is not None
    assert CaseLabels(deps.database(), "payments").count() == 1
    assert world.labels.written == [], "the caser writes it"
    stats = (await client.get("/v1/cases/stats?days=1")).json()
    assert (stats["open"], stats["decisions"]["fraud"], stats["labels_pending"]) == (0, 1, 1)
    again = await client.post(decide, json={"decision": "unsure"}, headers={"If-Match": "*"})
    assert again.json()["decision"] == "unsure"
    assert (await client.post("/v1/cases/1:assign", json={"assignee": None})).json()["assignee"] is None


NONSENSE = [
    ("decide", b'{"decision": "maybe"}'),
    ("decide", b'{"decision": "fraud", "revision": 0}'),
    ("decide", b'{"decision": "fraud", "revision": 1e400}'),
    ("decide", b'{"decision": "fraud", "note": " ", "revision": 1}'),
    ("decide", b'{"decision": "fraud", "reviewer": "eve", "revision": 1}'),
    ("comment", b'{"text": "a\\u0000b"}'),
    ("comment", b'{"text": "\\ud800"}'),
    ("comment", b'{"text": "%b"}' % (b"x" * 2001)),
    ("assign", b'{"assignee": 7}'),
    ("assign", b'{"assignee": "a\\nb"}'),
    ("assign", b"[" * 10_000),
    ("assign", b"\xff"),
]


async def test_what_makes_no_sense_changes_nothing(client: httpx.AsyncClient, deps: ApiDeps) -> None:
    take(deps, 5.0)
    for path, body in NONSENSE:
        answer = await client.post(
            f"/v1/cases/1:{path}", content=body, headers={"Content-Type": "application/json"}
        )
        problem(answer, 422, "invalid-parameter")
    assert (await client.get("/v1/cases/1")).json()["case"]["revision"] == 1


async def test_who_may_not_is_told_so_and_a_case_that_is_not_there_too(
    client: httpx.AsyncClient, deps: ApiDeps, world: World
) -> None:
    take(deps, 5.0)
    for url in ("/v1/cases/7", f"/v1/cases/{2**53}"):
        problem(await client.get(url), 404, "no-such-case")
    problem(await client.post("/v1/cases/7:assign", json={}), 404, "no-such-case")
    problem(await client.get(f"/v1/cases/{2**53 + 1}"), 422, "invalid-parameter")
    problem(await client.get("/v1/cases/x"), 422, "invalid-parameter")
    async with client_of(replace(deps, access=As("bo", Scope.CASES_READ))) as reader:
        assert (await reader.get("/v1/cases/1")).status_code == 200
        for what in ("assign", "comment", "decide"):
            problem(await reader.post(f"/v1/cases/1:{what}", json={}), 403, "forbidden")
    async with client_of(replace(deps, access=As("bo", Scope.LABELS_WRITE))) as stranger:
        for path in ("", "/1", "/stats"):
            problem(await stranger.get(f"/v1/cases{path}"), 403, "forbidden")
    async with client_of(world.deps) as without:
        problem(await without.get("/v1/cases"), 404, "no-cases")

    def away() -> Database:
        raise RegistryUnavailable("db.internal is away")

    async with client_of(replace(deps, database=away)) as broken:
        found = problem(await broken.get("/v1/cases"), 503, "unavailable")
        assert "db.internal" not in str(found)


async def test_answers_are_what_openapi_says(client: httpx.AsyncClient, deps: ApiDeps) -> None:
    take(deps, 5.0, 6.0)
    document = (await client.get("/openapi.json")).json()

    def check(path: str, method: str, answer: httpx.Response) -> None:
        said = document["paths"][path][method]["responses"][str(answer.status_code)]
        [media] = said["content"].values()
        schema: dict[str, Any] = {**media["schema"], "components": document["components"]}
        jsonschema.Draft202012Validator(schema).validate(answer.json())

    decide = "/v1/cases/{case_id}:decide"
    check(decide, "post", await client.post("/v1/cases/1:decide", json={"decision": "fraud", "revision": 1}))
    check(decide, "post", await client.post("/v1/cases/1:decide", json={"decision": "fraud"}))
    comment = await client.post("/v1/cases/2:comment", json={"text": "x"})
    check("/v1/cases/{case_id}:comment", "post", comment)
    check("/v1/cases", "get", await client.get("/v1/cases?all=1"))
    check("/v1/cases/{case_id}", "get", await client.get("/v1/cases/1"))
    check("/v1/cases/stats", "get", await client.get("/v1/cases/stats"))
