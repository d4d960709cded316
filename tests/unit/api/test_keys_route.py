"""``/v1/keys`` over a real SQLite: made, used, rotated, revoked; and nobody gives what they do not have."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest

from api.access import Scope
from api.key_ring import KeyRing
from lifecycle.audit_trail import AuditTrail
from lifecycle.database import Database
from lifecycle.key_store import KeyStore
from lifecycle.keys import new_key
from tests.unit.api.entering import Gate, bearer
from tests.unit.api.fakes import EVENT, World

pytestmark = pytest.mark.anyio
ROOT = new_key()
WANTED: dict[str, Any] = {"name": "shop", "scopes": ["score", "keys:write"], "reason": "new shop"}


class _FromDatabase(Gate):
    """Reads the keys that the routes write."""

    def __init__(self, world: World, database: Database) -> None:
        super().__init__(world, root=ROOT, database=lambda: database)
        self.store = KeyStore(database, "payments", world.clock)

    def _load(self) -> Any:
        return self.store.live()


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    with closing(Database(f"sqlite:///{tmp_path}/keys.sqlite")) as opened:
        yield opened


@pytest.fixture
def gate(world: World, database: Database) -> Gate:
    return _FromDatabase(world, database)


async def post(client: httpx.AsyncClient, path: str, body: Any, key: str = ROOT) -> httpx.Response:
    return await client.post(path, json=body, headers=bearer(key))


async def test_the_life_of_a_key(gate: Gate, world: World, database: Database) -> None:
    async with gate.client() as client:
        answer = await post(client, "/v1/keys", {**WANTED, "expires_in": 3600, "rate": 5})
        assert answer.status_code == 201, answer.text
        made, secret = answer.json()["key"], answer.json()["secret"]
        assert made["created_by"] == "key of the environment"
        assert made["expires_at"] == world.clock.now() + 3_600_000_000
        assert (await client.post("/v1/score", json=EVENT, headers=bearer(secret))).status_code == 200

        rotated = await post(client, f"/v1/keys/{made['id']}:rotate", {"reason": "x", "overlap": 60}, secret)
        assert rotated.status_code == 201, rotated.text
        second = rotated.json()["secret"]
        listed = (await client.get("/v1/keys", headers=bearer(second))).json()["keys"]
        assert {key["id"] for key in listed} == {made["id"], rotated.json()["key"]["id"]}
        assert all(text.rpartition("_")[2] not in str(listed) for text in (secret, second))
        world.clock.advance(60)
        assert (await client.get("/v1/keys", headers=bearer(secret))).status_code == 401

        gone = await post(client, f"/v1/keys/{rotated.json()['key']['id']}:revoke", {"reason": "leaked"})
        assert gone.json()["revoked_at"] == world.clock.now()
        assert (await client.get("/v1/keys", headers=bearer(second))).status_code == 401
        dead = await client.get("/v1/keys?dead=true", headers=bearer(ROOT))
        assert len(dead.json()["keys"]) == 2
        assert (await client.get("/v1/keys", headers=bearer(ROOT))).json() == {"keys": []}
    trail = AuditTrail("payments")
    with database.reading() as connection:
        records = trail.after(connection, 0, 10)
        assert trail.verify(connection) is None
    assert [r.action for r in records] == ["key.create", "key.rotate", "key.expire", "key.revoke"]
    assert records[1].by == f"key shop ({made['id']})"


async def test_nobody_gives_what_they_do_not_have(gate: Gate) -> None:
    async with gate.client() as client:
        admin = (await post(client, "/v1/keys", {**WANTED, "scopes": sorted(Scope)})).json()["key"]
        small = (await post(client, "/v1/keys", WANTED)).json()["secret"]
        answer = await post(client, "/v1/keys", {**WANTED, "scopes": ["score", "entities:erase"]}, small)
        assert (answer.status_code, answer.json()["code"]) == (403, "forbidden")
        assert "entities:erase" in answer.json()["detail"]
        # a successor's text would be in the answer
        answer = await post(client, f"/v1/keys/{admin['id']}:rotate", {"reason": "mine"}, small)
        assert answer.status_code == 403
        assert (await post(client, "/v1/keys", {**WANTED, "scopes": ["score"]}, small)).status_code == 201


WRONG: list[Any] = [
    {},
    [],
    {**WANTED, "scopes": []},
    {**WANTED, "scopes": ["everything"]},
    {**WANTED, "scopes": "score"},
    {**WANTED, "name": ""},
    {**WANTED, "name": "a\nb"},
    {**WANTED, "reason": " "},
    {**WANTED, "rate": "12"},
    {**WANTED, "rate": 0},
    {**WANTED, "rate": True},
    {**WANTED, "expires_in": 0},
    {**WANTED, "expires_in": 1.5},
    {**WANTED, "expires_in": 10**30},
    {**WANTED, "secret": "tg_mine"},
]


async def test_what_can_not_be_a_key_is_refused(gate: Gate) -> None:
    async with gate.client() as client:
        for body in WRONG:
            answer = await post(client, "/v1/keys", body)
            assert (answer.status_code, answer.json()["code"]) == (422, "invalid-parameter"), (
                body,
                answer.text,
            )
        assert (await client.get("/v1/keys?dead=true", headers=bearer(ROOT))).json() == {"keys": []}


async def test_keys_that_are_not_there(gate: Gate, world: World) -> None:
    async with gate.client() as client:
        for key_id in (
            "abcdef012345",
            "x",
            "..",
            "%00",
            "\ud83d\ude00".encode("utf-16", "surrogatepass").decode("utf-16"),
        ):
            for verb, body in (("rotate", {"reason": "x"}), ("revoke", {"reason": "x"})):
                answer = await post(client, f"/v1/keys/{key_id}:{verb}", body)
                assert answer.status_code == 404, (key_id, answer.text)
    assert isinstance(gate.ring, KeyRing)
    without = Gate(World(), root=ROOT)
    async with without.client() as client:
        answer = await client.get("/v1/keys", headers=bearer(ROOT))
        assert (answer.status_code, answer.json()["code"]) == (404, "no-database")
