"""Readers of topics: one that watches all the time, and one that comes when all is over."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from confluent_kafka import Consumer, KafkaError, TopicPartition

from stream.kafka import KafkaConnection

__all__ = ["Seen", "Watch", "read_all"]

_SILENCE_SECONDS = 60.0
"""For a broker that is restarting; longer, and the scenario is told."""


@dataclass(frozen=True, slots=True)
class Seen:
    """A committed record, and when it was seen (UTC microseconds)."""

    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    headers: dict[str, bytes]
    timestamp_ms: int
    at: int


def _seen(message: Any) -> Seen:
    return Seen(
        message.partition(),
        message.offset(),
        message.key(),
        message.value(),
        dict(message.headers() or []),
        message.timestamp()[1],
        time.time_ns() // 1000,
    )


def _consumer(bootstrap: str, topic: str, partitions: int, **more: object) -> Any:
    conf = KafkaConnection(bootstrap).reader("tidegate-chaos-reader", f"chaos-{uuid.uuid4().hex}")
    # a broker that is killed and comes back is part of the play
    quiet = {"log_level": 2, "reconnect.backoff.max.ms": 200}
    consumer = Consumer({**conf, **quiet, **more})
    consumer.assign([TopicPartition(topic, p, 0) for p in range(partitions)])
    return consumer


class Watch:
    """Reads a topic from its first record on, ``read_committed``, in a thread, until closed."""

    def __init__(self, bootstrap: str, topic: str, partitions: int) -> None:
        self.seen: list[Seen] = []
        self._changed = threading.Condition()
        self._stop = threading.Event()
        self._consumer = _consumer(bootstrap, topic, partitions)
        self._thread = threading.Thread(target=self._run, name=f"watch-{topic}", daemon=True)
        self._thread.start()

    def __len__(self) -> int:
        return len(self.seen)

    def await_that(self, holds: Callable[[], bool], seconds: float) -> bool:
        """Whether ``holds()`` within so many seconds; looked at whenever something comes, and now and then."""
        deadline = time.monotonic() + seconds
        with self._changed:
            while not holds():
                left = deadline - time.monotonic()
                if left <= 0:
                    return False
                self._changed.wait(min(left, 0.1))
        return True

    def close(self) -> None:
        """End the thread; what was seen stays."""
        self._stop.set()
        self._thread.join(30)

    def _run(self) -> None:
        while not self._stop.is_set():
            first = self._consumer.poll(0.05)
            if first is None:
                continue
            messages = [first, *self._consumer.consume(500, 0)]
            fresh = [_seen(message) for message in messages if message.error() is None]
            with self._changed:
                self.seen += fresh
                self._changed.notify_all()
        self._consumer.close()


def read_all(bootstrap: str, topic: str, partitions: int) -> list[Seen]:
    """Everything committed in ``topic`` now; AssertionError when the broker falls silent."""
    consumer = _consumer(bootstrap, topic, partitions, **{"enable.partition.eof": True})
    found: list[Seen] = []
    ended: set[int] = set()
    silent_since = time.monotonic()
    try:
        while len(ended) < partitions:
            message = consumer.poll(1.0)
            if message is None:
                assert time.monotonic() - silent_since < _SILENCE_SECONDS, f"Kafka sends nothing of {topic}"
                continue
            silent_since = time.monotonic()
            error = message.error()
            if error is None:
                found.append(_seen(message))
                ended.discard(message.partition())
            elif error.code() == KafkaError._PARTITION_EOF:
                ended.add(message.partition())
    finally:
        consumer.close()
    return found
