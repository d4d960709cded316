"""Erasures over HTTP: who is meant, what is kept and shown of it, and what is refused."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from api.access import Principal, Scope
from api.app import create_app
from lifecycle.audit_trail import AuditTrail
from lifecycle.database import Database
from lifecycle.erasure_store import ErasureStore
from tests.unit.api.fakes import World

pytestmark = pytest.mark.anyio


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    with closing(Database(f"sqlite:///{tmp_path}/t.sqlite")) as opened:
        yield opened


@pytest.fixture
async def client(world: World, database: Database) -> AsyncIterator[httpx.AsyncClient]:
    app = create_app(replace(world.deps, database=lambda: database))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://test") as client:
        yield client


async def test_an_erasure_is_taken_and_can_be_asked_for(
    client: httpx.AsyncClient, world: World, database: Database
) -> None:
    answer = await client.delete("/v1/entities/account_id/4929-1%2F2?reason=request%2017")
    assert answer.status_code == 202, answer.text
    said, digest = answer.json(), world.protector.protect("4929-1/2")
    assert (said["entity"], said["value_hash"], said["step"], said["reason"]) == (
        "account_id", digest, "requested", "request 17",
    )  # fmt: skip
    assert answer.headers["location"] == f"/v1/erasures/{said['id']}"
    asked = await client.get(answer.headers["location"])
    assert (asked.status_code, asked.json()) == (200, said)
    assert "4929" not in answer.text + asked.text
    # by its hash, and before anybody has begun: the same one
    again = await client.delete(f"/v1/entities/account_id/{digest}?hashed=true")
    assert again.json()["id"] == said["id"]
    pipeline = world.deps.pipeline.name
    [kept] = ErasureStore(database, pipeline).open()
    assert kept.value == digest
    with database.reading() as connection:
        [record] = AuditTrail(pipeline).after(connection, 0, 9)
    assert (record.action, record.subject, record.by) == ("entity.erase", f"account_id:{digest}", "local")


async def test_of_a_field_that_is_not_sensitive_the_audit_names_a_hash_too(
    client: httpx.AsyncClient, world: World, database: Database
) -> None:
    said = (await client.delete("/v1/entities/merchant_id/shop-7")).json()
    assert said["value_hash"] == world.protector.protect("shop-7")
    [kept] = ErasureStore(database, world.deps.pipeline.name).open()
    assert kept.value == "shop-7"


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        ("/v1/entities/amount/7", 404, "no-such-entity"),
        ("/v1/entities/account_id/", 422, "invalid-parameter"),
        ("/v1/entities/account_id/" + "x" * 513, 422, "invalid-parameter"),
        ("/v1/entities/account_id/a%00b", 422, "invalid-parameter"),
        ("/v1/entities/account_id/a?reason=", 422, "invalid-parameter"),
        ("/v1/entities/account_id/a?reason=%20", 422, "invalid-parameter"),
        ("/v1/entities/account_id/a?reason=a%0Ab", 422, "invalid-parameter"),
        ("/v1/entities/account_id/a?hashed=perhaps", 422, "invalid-parameter"),
    ],
)
async def test_what_is_refused(
    client: httpx.AsyncClient, world: World, database: Database, path: str, status: int, code: str
) -> None:
    answer = await client.delete(path)
    assert (answer.status_code, answer.json()["code"]) == (status, code), answer.text
    assert ErasureStore(database, world.deps.pipeline.name).open() == []


async def test_unknown_ones_and_no_database(client: httpx.AsyncClient) -> None:
    for id_ in ("e-1", "%00", "x" * 5000):
        assert (await client.get(f"/v1/erasures/{id_}")).json()["code"] == "no-such-erasure"
    without = httpx.ASGITransport(app=create_app(World().deps))
    async with httpx.AsyncClient(transport=without, base_url="http://test") as bare:
        assert (await bare.delete("/v1/entities/account_id/a")).json()["code"] == "no-database"


async def test_it_takes_the_scope(world: World, database: Database) -> None:
    class Reader:
        async def identify(self, request: object) -> Principal:
            return Principal("ana", frozenset(Scope) - {Scope.ENTITIES_ERASE})

    app = create_app(replace(world.deps, database=lambda: database, access=Reader()))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://test") as client:
        assert (await client.delete("/v1/entities/account_id/a")).status_code == 403
        assert (await client.get("/v1/erasures/e-1")).status_code == 403
