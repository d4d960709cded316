"""Back-pressure: whoever is one too many is told so at once."""

from __future__ import annotations

import asyncio

import httpx
import pytest

from api.app import create_app
from tests.unit.api.fakes import EVENT, World

pytestmark = pytest.mark.anyio


async def test_one_request_too_many_is_told_to_come_back_and_probes_are_not() -> None:
    world = World(requests=2)
    waiting, go_on = [asyncio.Event(), asyncio.Event()], asyncio.Event()

    async def submit(raw: bytes, key: bytes, deadline_s: float, traceparent: str | None = None) -> bytes:
        next(event for event in waiting if not event.is_set()).set()
        await go_on.wait()
        return b"{}"

    world.gateway.submit = submit  # type: ignore[method-assign]
    transport = httpx.ASGITransport(app=create_app(world.deps))
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        under_way = [asyncio.create_task(client.post("/v1/score", json=EVENT)) for _ in waiting]
        for event in waiting:
            await event.wait()
        answer = await client.get("/v1/verdicts")
        assert (answer.status_code, answer.json()["code"]) == (503, "busy")
        assert answer.headers["retry-after"] == "1"
        assert answer.json()["request_id"] == answer.headers["x-request-id"]
        assert (await client.get("/livez")).status_code == 200
        assert (await client.get("/readyz")).status_code == 200
        go_on.set()
        assert [(await task).status_code for task in under_way] == [200, 200]
        assert (await client.get("/v1/verdicts")).status_code == 200
