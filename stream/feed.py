"""Verdicts as they are committed, to any number of watchers of one process.

One consumer without a group reads all partitions from their ends, and only while somebody watches. Each
watcher has a bounded queue: a slow one loses verdicts, is told how many, and slows nobody down.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import msgspec
import structlog
from confluent_kafka import Consumer, KafkaException, Message, TopicPartition

from domain.errors import TidegateError
from domain.verdict import DecisionName
from stream.topics import Topics, partitions_of

__all__ = ["FeedItem", "KafkaVerdictFeed"]

_LOG = structlog.get_logger(__name__)
_ASK_SECONDS = 2.0
"""For Kafka to answer a question; also about the longest that stopping takes while Kafka is away."""
_POLL_SECONDS = 0.2
_RETRY_SECONDS = 1.0
_BATCH = 500


@dataclass(frozen=True, slots=True)
class FeedItem:
    """One committed verdict: its JSON as in the topic, where that record lies, and what filters look at.

    ``dropped`` is how many the watcher lost just before this one because it was slow.
    """

    raw: bytes
    partition: int
    offset: int
    decision: DecisionName
    score: float | None
    dropped: int = 0


class _Head(msgspec.Struct, gc=False):
    decision: DecisionName
    score: float | None


_DECODE = msgspec.json.Decoder(_Head).decode
Wanted = Callable[[DecisionName, float | None], bool]


class _Watcher:
    """A bounded queue from the reading thread to one coroutine. At most one wake-up is under way."""

    def __init__(self, loop: asyncio.AbstractEventLoop, wanted: Wanted, capacity: int) -> None:
        self.loop = loop
        self.wake = asyncio.Event()
        self._wanted = wanted
        self._items: deque[FeedItem] = deque()
        self._capacity = capacity
        self._dropped = 0
        self._lock = threading.Lock()

    def offer(self, items: list[FeedItem]) -> None:
        """From the reading thread."""
        mine = [item for item in items if self._wanted(item.decision, item.score)]
        if not mine:
            return
        with self._lock:
            idle = not self._items
            room = self._capacity - len(self._items)
            # the oldest are kept: after a gap a watcher goes on with what is then new
            self._items.extend(mine[: max(room, 0)])
            self._dropped += max(0, len(mine) - room)
        if idle:
            self.notify()

    def notify(self) -> None:
        """Wake the coroutine, from any thread."""
        with suppress(RuntimeError):  # its loop is closed
            self.loop.call_soon_threadsafe(self.wake.set)

    def take(self) -> tuple[list[FeedItem], int]:
        """On the loop: everything queued, and how many were dropped after it."""
        with self._lock:
            self.wake.clear()
            items, dropped = list(self._items), self._dropped
            self._items.clear()
            self._dropped = 0
        return items, dropped


class KafkaVerdictFeed:
    """:class:`api.ports.VerdictFeed` on the topic of verdicts.

    ``config`` says where Kafka is. ``start`` begins a thread, ``close`` ends it and every subscription.
    """

    def __init__(self, config: dict[str, Any], pipeline: str, *, capacity: int = 1000) -> None:
        self._topics = Topics(pipeline)
        self._config = config
        self._capacity = capacity
        self._watchers: tuple[_Watcher, ...] = ()
        self._changed = threading.Condition()
        self._positioned: dict[_Watcher, asyncio.Event] = {}
        self._stopped = False
        self._thread: threading.Thread | None = None

    async def start(self) -> None:
        """Begin; Kafka need not be there yet."""
        self._thread = threading.Thread(target=self._run, name="verdict-feed", daemon=True)
        self._thread.start()

    async def close(self) -> None:
        """End all subscriptions and the thread."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
            for watcher in self._watchers:
                watcher.notify()
        if self._thread is not None:
            await asyncio.to_thread(self._thread.join)

    async def subscribe(self, wanted: Wanted) -> AsyncIterator[FeedItem | None]:
        """First None, once reading has begun: every matching verdict committed from then on follows.

        ``wanted(decision, score)`` runs on the reading thread. Ends when the feed is closed.
        """
        watcher = _Watcher(asyncio.get_running_loop(), wanted, self._capacity)
        positioned = asyncio.Event()
        with self._changed:
            self._positioned[watcher] = positioned
            self._watchers = (*self._watchers, watcher)
            self._changed.notify_all()
        try:
            owed = 0
            begun = False
            while not self._stopped:
                if positioned.is_set() and not begun:
                    begun = True
                    yield None
                items, dropped = watcher.take()
                for item in items:
                    yield _with(item, owed)
                    owed = 0
                owed += dropped
                if not items and not self._stopped and (begun or not positioned.is_set()):
                    await watcher.wake.wait()
        finally:
            with self._changed:
                self._watchers = tuple(w for w in self._watchers if w is not watcher)
                self._positioned.pop(watcher, None)

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._watchers and not self._stopped:
                    self._changed.wait()
                if self._stopped:
                    return
            try:
                self._read()
            except (TidegateError, KafkaException) as error:
                _LOG.warning("verdict_feed_interrupted", error=str(error), retry_seconds=_RETRY_SECONDS)
                with self._changed:
                    self._changed.wait_for(lambda: self._stopped, _RETRY_SECONDS)

    def _read(self) -> None:
        """Read until nobody watches."""
        consumer = Consumer(
            {
                **self._config,
                "group.id": f"{self._topics.pipeline}.feed",  # required by the client; we never join it
                "isolation.level": "read_committed",
                "enable.auto.commit": False,
                "enable.auto.offset.store": False,
                "auto.offset.reset": "latest",
                "fetch.error.backoff.ms": 50,
                # prefetched memory; a feed that falls behind drops anyway
                "queued.max.messages.kbytes": 8192,
            }
        )
        try:
            self._assign_ends(consumer)
            while self._watchers and not self._stopped:
                self._announce()
                first = consumer.poll(_POLL_SECONDS)
                if first is not None:
                    items = _items([first, *consumer.consume(_BATCH, 0)])
                    for watcher in self._watchers:
                        watcher.offer(items)
        finally:
            consumer.close()

    def _assign_ends(self, consumer: Consumer) -> None:
        topic = self._topics.verdicts
        places = [
            TopicPartition(topic, p) for p in range(partitions_of(consumer, topic, timeout=_ASK_SECONDS))
        ]
        for place in places:
            found = consumer.get_watermark_offsets(place, timeout=_ASK_SECONDS)
            place.offset = found[1] if found is not None else 0
        consumer.assign(places)

    def _announce(self) -> None:
        """Tell new watchers that from here on they miss nothing."""
        with self._changed:
            fresh = list(self._positioned.items())
            self._positioned.clear()
        for watcher, event in fresh:
            with suppress(RuntimeError):
                watcher.loop.call_soon_threadsafe(event.set)
            watcher.notify()


def _with(item: FeedItem, dropped: int) -> FeedItem:
    if not dropped:
        return item
    return FeedItem(item.raw, item.partition, item.offset, item.decision, item.score, dropped)


def _items(messages: list[Message[Any, Any]]) -> list[FeedItem]:
    items = []
    for message in messages:
        error = message.error()
        if error is not None:
            _LOG.warning("kafka_error", process="api", error=str(error))
            continue
        raw = message.value() or b""
        try:
            head = _DECODE(raw)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            continue  # the archiver counts and reports strangers in this topic
        partition, offset = int(message.partition() or 0), int(message.offset() or 0)
        items.append(FeedItem(raw, partition, offset, head.decision, head.score))
    return items
