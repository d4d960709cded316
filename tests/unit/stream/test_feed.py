"""A watcher's bounded queue."""

from __future__ import annotations

import asyncio

from domain.verdict import DecisionName
from stream.feed import FeedItem, _Watcher


def items(start: int, count: int) -> list[FeedItem]:
    return [FeedItem(b"{}", 0, i, DecisionName.ALLOW, 0.1 * (i % 10)) for i in range(start, start + count)]


def test_a_slow_watcher_keeps_the_oldest_and_is_told_how_many_it_lost() -> None:
    async def scenario() -> None:
        watcher = _Watcher(asyncio.get_running_loop(), lambda _d, _s: True, 5)
        await asyncio.to_thread(watcher.offer, items(0, 3))
        await asyncio.to_thread(watcher.offer, items(3, 6))
        await asyncio.to_thread(watcher.offer, items(9, 2))
        await asyncio.wait_for(watcher.wake.wait(), 30)
        taken, dropped = watcher.take()
        assert [item.offset for item in taken] == [0, 1, 2, 3, 4]
        assert dropped == 6
        assert watcher.take() == ([], 0)
        assert not watcher.wake.is_set()

    asyncio.run(scenario())


def test_what_is_not_wanted_takes_no_room_and_wakes_nobody() -> None:
    async def scenario() -> None:
        watcher = _Watcher(asyncio.get_running_loop(), lambda _d, s: s is not None and s > 0.85, 5)
        watcher.offer(items(0, 9))
        await asyncio.sleep(0)
        assert not watcher.wake.is_set()
        watcher.offer(items(0, 20))
        taken, dropped = watcher.take()
        assert [item.offset for item in taken] == [9, 19]
        assert dropped == 0

    asyncio.run(scenario())
