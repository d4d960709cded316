"""Every route of the application, whoever adds it: who may ask, and who may not."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace

import httpx
import pytest
from fastapi.routing import APIRoute
from starlette.routing import BaseRoute

from api.access import Scope, needed, routes_of
from api.app import create_app
from lifecycle.keys import new_key
from tests.unit.api.entering import Gate, bearer
from tests.unit.api.fakes import World

pytestmark = pytest.mark.anyio

OPEN = {"/livez", "/readyz"}
"""Probes of orchestrators, which hold no keys; they say which dependency is away, and nothing else."""
ANYBODY_KNOWN = {"/openapi.json"}


def routes(world: World) -> list[BaseRoute]:
    return list(routes_of(create_app(world.deps).routes))


def requests(route: BaseRoute) -> Iterator[tuple[str, str]]:
    """(method, path) for each method of ``route``; its parameters are filled in."""
    assert isinstance(route, APIRoute)
    path = re.sub(r"\{[^}]*\}", "abcdef012345", route.path)
    for method in sorted(route.methods or ()):
        yield method, path


def test_every_route_says_what_it_needs(world: World) -> None:
    found = routes(world)
    assert len(found) >= 15
    for route in found:
        # a mount, a websocket or a plain Starlette route would slip past needs()
        assert isinstance(route, APIRoute), route
        scopes = needed(route)
        assert (scopes is None) == (route.path in OPEN), route.path
        assert (scopes == frozenset()) == (route.path in ANYBODY_KNOWN), route.path


async def test_no_route_answers_strangers_other_tenants_or_those_without_its_scope(world: World) -> None:
    gate = Gate(world)
    other = World()
    # a key of another pipeline, known to its own API only
    strangers_key = Gate(other).key(Scope)
    tried = 0
    async with gate.client() as client:
        for route in routes_of(gate.app.routes):
            scopes = needed(route)
            if scopes is None:
                continue
            lacking = gate.key(set(Scope) - scopes)
            gate.ring.forget()
            for method, path in requests(route):
                tried += 1
                assert (await client.request(method, path)).status_code == 401, path
                answer = await client.request(method, path, headers=bearer(strangers_key))
                assert answer.status_code == 401, path
                if scopes:
                    answer = await client.request(method, path, headers=bearer(lacking))
                    assert answer.status_code == 403, path
                    assert answer.json()["code"] == "forbidden"
    assert tried >= 13
    assert world.gateway.seen == other.gateway.seen == []
    assert world.labels.written == []


async def test_no_route_fails_for_those_who_may(world: World) -> None:
    # the live stream never ends; tests/integration/test_api.py follows it
    gate = Gate(World(streams=0))
    key = gate.key(Scope)
    async with gate.client() as client:
        for route in routes_of(gate.app.routes):
            for method, path in requests(route):
                answer = await client.request(method, path, headers=bearer(key))
                assert answer.status_code not in {401, 403}, path
                assert answer.status_code < 500, (path, answer.text)


@pytest.mark.parametrize("asks", [True, False])
async def test_the_document_says_who_may(world: World, asks: bool) -> None:
    root = new_key()
    transport = httpx.ASGITransport(
        app=Gate(world, root=root).app if asks else create_app(replace(world.deps))
    )
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        document = (await client.get("/openapi.json", headers=bearer(root))).json()
    # where nobody is asked who they are, it works with and without
    wanted: list[dict[str, list[str]]] = [{"bearer": []}] if asks else [{"bearer": []}, {}]
    assert document["components"]["securitySchemes"]["bearer"]["scheme"] == "bearer"
    for path, operations in document["paths"].items():
        for operation in operations.values():
            if path in OPEN:
                assert "security" not in operation
            else:
                assert operation["security"] == wanted, path
                assert {"401", "403", "429", "503"} <= operation["responses"].keys(), path
    assert "`verdicts:read`" in document["paths"]["/v1/verdicts"]["get"]["description"]
