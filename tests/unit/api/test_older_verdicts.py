"""The API over a hot store and an older one behind it."""

from __future__ import annotations

from dataclasses import replace

import httpx
import msgspec
import pytest

from api.app import create_app
from domain.verdict import DecisionName
from featurestore.hot_verdicts_memory import MemoryHotVerdicts
from featurestore.hot_verdicts_port import HotLimits
from featurestore.reaching_verdicts import ReachingVerdicts
from tests.unit.api.fakes import World, verdict

pytestmark = pytest.mark.anyio


async def test_what_is_no_longer_hot_is_found_and_listed(world: World) -> None:
    older = MemoryHotVerdicts(world.clock, HotLimits(age=2**60))
    decisions = [DecisionName.REVIEW if i % 2 else DecisionName.ALLOW for i in range(8)]
    older.put_many([verdict(i, decision=decisions[i]) for i in range(8)])
    world.hot.put_many([verdict(i, decision=decisions[i]) for i in range(5, 8)])
    app = create_app(replace(world.deps, hot=ReachingVerdicts(world.hot, older)))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://test") as client:
        one = await client.get("/v1/verdicts/e1")
        assert one.content == msgspec.json.encode(verdict(1, decision=decisions[1]))
        assert (await client.get("/v1/verdicts/e9")).status_code == 404
        listed, cursor = [], ""
        for _ in range(3):
            page = (await client.get(f"/v1/verdicts?decision=review&limit=2{cursor}")).json()
            listed += [v["id"] for v in page["verdicts"]]
            if page["next"] is None:
                break
            cursor = f"&cursor={page['next']}"
        assert listed == ["e7", "e5", "e3", "e1"]
        assert page["next"] is None
