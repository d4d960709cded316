"""The contract of the store of recent verdicts, on memory and on Redis; and Redis's own promises."""

from __future__ import annotations

from collections.abc import Iterator
from uuid import uuid4

import pytest
import redis

from domain.clock import ManualClock
from domain.errors import StoreUnavailable
from domain.verdict import DecisionName
from featurestore.hot_verdicts import HotLimits, HotVerdicts, RedisHotVerdicts
from featurestore.hot_verdicts_memory import MemoryHotVerdicts
from featurestore.redis_client import Client, connect, run_commands
from tests.contract.check_hot_verdicts import NOW, CheckHotVerdicts, Make, drain, verdict


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(NOW)


class TestMemory(CheckHotVerdicts):
    @pytest.fixture
    def make(self, clock: ManualClock) -> Make:
        def store(limits: HotLimits) -> HotVerdicts:
            return MemoryHotVerdicts(clock, limits)

        return store


@pytest.fixture
def client(redis_url: str) -> Iterator[Client]:
    with connect(redis_url, timeout=120.0) as client:
        yield client


@pytest.mark.redis
class TestRedis(CheckHotVerdicts):
    @pytest.fixture
    def make(self, clock: ManualClock, client: Client) -> Make:
        def store(limits: HotLimits) -> HotVerdicts:
            return RedisHotVerdicts(client, f"t{uuid4().hex}", clock, limits)

        return store

    def test_trimming_leaves_no_key_behind_and_the_estimate_of_bytes_returns_to_zero(
        self, client: redis.Redis, clock: ManualClock
    ) -> None:
        name = f"t{uuid4().hex}"
        store = RedisHotVerdicts(client, name, clock, HotLimits(age=1_000_000))
        store.put_many([verdict(i, decision=DecisionName.REVIEW) for i in range(50)])
        clock.advance(10)
        store.put_many([verdict(99)])  # too old itself
        assert run_commands(client, [("KEYS", f"vd:{{{name}}}:*")])[0] == [f"vd:{{{name}}}:bytes".encode()]
        assert client.get(f"vd:{{{name}}}:bytes") == b"0"

    def test_a_write_trims_a_bounded_number(self, client: redis.Redis, clock: ManualClock) -> None:
        name = f"t{uuid4().hex}"
        RedisHotVerdicts(client, name, clock).put_many([verdict(i) for i in range(400)])
        tight = RedisHotVerdicts(client, name, clock, HotLimits(count=10))
        left = []
        for i in range(400, 403):
            tight.put_many([verdict(i)])
            left.append(client.zcard(f"vd:{{{name}}}:time"))
        assert left == [401 - 66, 402 - 132, 403 - 198]

    def test_the_estimate_of_bytes_is_near_what_redis_uses(
        self, client: redis.Redis, clock: ManualClock
    ) -> None:
        name = f"t{uuid4().hex}"
        before = _memory(client)
        store = RedisHotVerdicts(client, name, clock)
        for start in range(0, 4000, 500):
            changed = [
                verdict(
                    i, entities={"a": f"account-{i // 4}", "m": f"m{i % 50}"}, decision=DecisionName.BLOCK
                )
                for i in range(start, start + 500)
            ]
            store.put_many(changed)
        used = _memory(client) - before
        estimate = int(run_commands(client, [("GET", f"vd:{{{name}}}:bytes")])[0])
        assert 0.5 < used / estimate < 1.1

    def test_rare_matches_are_found_page_by_page(self, client: redis.Redis, clock: ManualClock) -> None:
        store = RedisHotVerdicts(client, f"t{uuid4().hex}", clock)
        rare = DecisionName.REVIEW
        store.put_many(
            [
                verdict(i, entities={"a": "x"}, decision=rare if i in (0, 2500) else DecisionName.ALLOW)
                for i in range(3000)
            ]
        )
        assert drain(store, entity=("a", "x"), decision=rare, limit=1) == ["0-2500", "0-0"]

    def test_no_redis_is_an_error_that_passes(self, clock: ManualClock) -> None:
        gone = RedisHotVerdicts(connect("unix:///nowhere/at/all"), "p", clock)
        with pytest.raises(StoreUnavailable):
            gone.put_many([verdict(1)])
        with pytest.raises(StoreUnavailable):
            gone.get("x")
        with pytest.raises(StoreUnavailable):
            gone.ping()


def _memory(client: Client) -> int:
    [info] = run_commands(client, [("INFO", "memory")])
    return int(info["used_memory"])
