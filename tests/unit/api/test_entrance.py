"""Who gets in by key: recognised, refused, expired, revoked, too often, and with the database away."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence

import httpx
import msgspec
import pytest

from api.access import Scope
from api.key_ring import GRACE_SECONDS
from api.keys import Rate, RootKey
from api.rates import Rates
from domain.clock import ManualClock
from domain.errors import Fatal, RegistryUnavailable
from lifecycle.keys import StoredKey, new_key
from tests.unit.api.entering import Gate, bearer
from tests.unit.api.fakes import EVENT, World

pytestmark = pytest.mark.anyio


async def score(client: httpx.AsyncClient, key: str) -> httpx.Response:
    return await client.post("/v1/score", json=EVENT, headers=bearer(key))


def refused(world: World, why: str) -> float | None:
    return world.registry.get_sample_value("tidegate_api_refused_total", {"why": why})


async def test_a_key_opens_what_its_scopes_name_and_nothing_else(world: World) -> None:
    gate = Gate(world)
    key = gate.key([Scope.SCORE, "unheard:of"])
    async with gate.client() as client:
        assert (await score(client, key)).status_code == 200
        assert (await client.get("/v1/verdicts/x", headers=bearer(key))).status_code == 404
        answer = await client.get("/v1/verdicts", headers=bearer(key))
        assert (answer.status_code, answer.json()["code"]) == (403, "forbidden")
        assert "verdicts:read" in answer.json()["detail"]
        assert key not in answer.text
    assert len(world.gateway.seen) == 1


@pytest.mark.parametrize(
    ("header", "why"),
    [
        (None, "missing"),
        ("", "malformed"),
        ("Bearer", "malformed"),
        ("Bearer ", "malformed"),
        ("Basic {key}", "malformed"),
        ("{key}", "malformed"),
        ("Bearer {key}0", "malformed"),
        ("Bearer {key} {key}", "malformed"),
        ("Bearer tg_", "malformed"),
        ("Bearer eyJhbGciOiJub25lIn0.e30.", "malformed"),
        ("Bearer " + "x" * 9_000, "malformed"),
        ("Bearer {other}", "unknown"),
        ("Bearer {mixed}", "unknown"),
    ],
)
async def test_what_is_no_key_of_ours_is_refused_alike(world: World, header: str | None, why: str) -> None:
    gate = Gate(world)
    key, other = gate.key(Scope), new_key()
    # a real id with somebody else's secret
    mixed = key[: -len(other.rpartition("_")[2])] + other.rpartition("_")[2]
    headers = {} if header is None else {"Authorization": header.format(key=key, other=other, mixed=mixed)}
    async with gate.client() as client:
        answer = await client.post("/v1/score", json=EVENT, headers=headers)
    body = answer.json()
    assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
    del body["request_id"]
    assert body == {
        "type": "urn:tidegate:problem:unauthenticated",
        "title": "Unauthorized",
        "status": 401,
        "detail": "this needs a valid key or token",
        "code": "unauthenticated",
        "remedy": "send the header Authorization: Bearer KEY; `tidegate keys create` makes one",
    }
    assert refused(world, why) == 1
    assert world.gateway.seen == []


async def test_two_credentials_are_one_too_many(world: World) -> None:
    gate = Gate(world)
    key = gate.key()
    twice = [("Authorization", f"Bearer {key}"), ("Authorization", f"Bearer {key}")]
    async with gate.client() as client:
        assert (await client.post("/v1/score", json=EVENT, headers=twice)).status_code == 401


async def test_a_key_ends_at_its_expiry_even_if_it_was_read_before(world: World) -> None:
    gate = Gate(world)
    key = gate.key(expires_at=world.clock.now() + 100_000)
    async with gate.client() as client:
        assert (await score(client, key)).status_code == 200
        world.clock.advance(0.1)
        assert gate.reads == 1
        assert (await score(client, key)).status_code == 401
        assert gate.reads == 1


async def test_keys_made_or_revoked_elsewhere_are_known_soon(world: World) -> None:
    gate = Gate(world)
    async with gate.client() as client:
        assert (await score(client, gate.key())).status_code == 200
        late = gate.key()
        # nobody can make us ask the database for each unknown key
        for _ in range(20):
            assert (await score(client, late)).status_code == 401
        assert gate.reads == 1
        world.clock.advance(0.6)
        assert (await score(client, late)).status_code == 200
        assert gate.reads == 2
        gate.keys.clear()
        world.clock.advance(6)
        assert (await score(client, late)).status_code == 401
        early = gate.key()
        gate.ring.forget()
        assert (await score(client, early)).status_code == 200


async def test_while_the_database_is_away_known_keys_go_on_for_a_time(world: World) -> None:
    gate = Gate(world)
    key = gate.key()
    async with gate.client() as client:
        gate.error = RegistryUnavailable("secret-host is away", remedy="x")
        answer = await score(client, key)
        assert (answer.status_code, answer.json()["code"]) == (503, "unavailable")
        assert "retry-after" in answer.headers
        assert "secret-host" not in answer.text
        gate.error = None
        world.clock.advance(1)
        assert (await score(client, key)).status_code == 200
        gate.error = RegistryUnavailable("away", remedy="x")
        world.clock.advance(GRACE_SECONDS - 1)
        assert (await score(client, key)).status_code == 200
        reads = gate.reads
        assert (await score(client, key)).status_code == 200
        # a stranger may have got a key meanwhile
        assert (await score(client, new_key())).status_code == 503
        assert gate.reads == reads
        world.clock.advance(2)
        assert (await score(client, key)).status_code == 503


async def test_a_database_that_hangs_stops_nobody_who_is_known(world: World) -> None:
    gate = Gate(world, known_seconds=0.05)
    key = gate.key()
    hanging, go_on = threading.Event(), threading.Event()
    load = gate._load

    def hang() -> Sequence[StoredKey]:
        hanging.set()
        assert go_on.wait(60)
        return load()

    async with gate.client() as client:
        assert (await score(client, key)).status_code == 200
        gate.ring._load = hang
        world.clock.advance(10)
        try:
            # the reading that hangs is given a moment once
            assert [(await score(client, key)).status_code for _ in range(3)] == [200] * 3
            assert hanging.is_set()
            assert not go_on.is_set()
        finally:
            go_on.set()
        # a change made here is known to whoever comes next, although that reading began before it
        gate.keys.clear()
        gate.ring.forget()
        assert (await score(client, key)).status_code == 401


async def test_a_change_is_not_lost_in_a_reading_that_began_before_it(world: World) -> None:
    gate = Gate(world)
    key = gate.key()
    load, begun, go_on = gate._load, threading.Event(), threading.Event()

    def read_then_wait() -> Sequence[StoredKey]:
        found = load()
        gate.ring._load = load
        begun.set()
        assert go_on.wait(60)
        return found

    async with gate.client() as client:
        assert (await score(client, key)).status_code == 200
        gate.ring._load = read_then_wait
        world.clock.advance(1)
        assert (await score(client, key)).status_code == 200
        while not begun.is_set():
            await asyncio.sleep(0.001)
        gate.keys.clear()
        gate.ring.forget()
        late = asyncio.create_task(score(client, key))
        await asyncio.sleep(0)
        go_on.set()
        assert (await late).status_code == 401


async def test_the_key_of_the_environment_may_do_everything_without_a_database(world: World) -> None:
    root = new_key()
    gate = Gate(world, root=root)
    gate.error = RegistryUnavailable("away", remedy="x")
    async with gate.client() as client:
        assert (await score(client, root)).status_code == 200
        assert (await client.get("/metrics", headers=bearer(root))).status_code == 200
        wrong = root[:-1] + ("0" if root[-1] != "0" else "1")
        assert (await score(client, wrong)).status_code == 401
    assert gate.reads == 0
    with pytest.raises(Fatal, match="TIDEGATE_API_KEY") as error:
        RootKey("hunter2")
    assert "hunter2" not in str(error.value)


async def test_who_asks_too_often_waits_as_long_as_said(world: World) -> None:
    gate = Gate(world, rate=Rate(10, 20))
    slow, usual = gate.key(rate=0.5, burst=2), gate.key()
    async with gate.client() as client:
        assert [(await score(client, slow)).status_code for _ in range(3)] == [200, 200, 429]
        answer = await score(client, slow)
        assert (answer.json()["code"], answer.headers["retry-after"]) == ("too-many-requests", "2")
        world.clock.advance(2)
        assert [(await score(client, slow)).status_code for _ in range(2)] == [200, 429]
        # another's allowance is another's
        assert [(await score(client, usual)).status_code for _ in range(21)] == [200] * 20 + [429]
    assert refused(world, "rate") == 4


def test_an_allowance_is_given_back_evenly_and_what_is_remembered_is_bounded() -> None:
    clock = ManualClock(1_000_000_000)
    rates = Rates(clock, known=2)
    taken = 0
    for _ in range(1_000):
        taken += rates.wait("a", 10, 5) == 0
        clock.advance(0.01)
    assert taken == 5 + 99
    for name in "bcd":
        rates.wait(name, 1, 1)
    assert len(rates._whole_at) == 2
    assert rates.wait("d", 1, 1) == pytest.approx(1.0)


async def test_without_authentication_only_names_of_loopback_are_answered(world: World) -> None:
    from dataclasses import replace

    from api.access import EverybodyOnThisMachine
    from api.app import create_app

    app = create_app(replace(world.deps, access=EverybodyOnThisMachine(only_local_names=True)))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://test") as client:
        for host in ("127.0.0.1:8080", "localhost", "LOCALHOST:1", "[::1]:8080"):
            assert (await client.get("/v1/verdicts", headers={"Host": host})).status_code == 200
        for host in ("evil.example", "127.0.0.1.evil.example", "localhost:8080@evil", "[::1", ""):
            answer = await client.get("/v1/verdicts", headers={"Host": host})
            assert answer.status_code == 403, host
        assert (await client.get("/livez", headers={"Host": "10.0.0.7:8080"})).status_code == 200


async def test_a_change_is_signed_by_who_asked_and_not_by_what_the_body_claims(world: World) -> None:
    from types import SimpleNamespace
    from typing import cast

    from fastapi import Request

    from api.access import EVERYTHING, Principal, asked_by

    def request(name: str) -> Request:
        found = SimpleNamespace(scope={"tidegate_principal": Principal(name, EVERYTHING)})
        return cast(Request, found)

    assert asked_by(request("local"), "ana") == "ana (API)"
    assert asked_by(request("local"), None) == "somebody (API)"
    assert asked_by(request("key shop (1)"), None) == "key shop (1)"
    assert asked_by(request("key shop (1)"), "ana") == "key shop (1) for ana"
    assert msgspec.json.encode(Scope.SCORE) == b'"score"'
