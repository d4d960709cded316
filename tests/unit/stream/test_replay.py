"""Replay's pace, back-pressure and failures, with a producer that lives in memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

import pytest
from confluent_kafka import KafkaError

from domain.errors import Fatal, Retriable
from stream.replay import Pace, Sendable, replay


class MemoryProducer:
    """Takes ``room`` records until polled; refuses those with a payload in ``lost``; polling passes time."""

    def __init__(self, *, room: int = 10**9, lost: frozenset[bytes] = frozenset()) -> None:
        self.now = 0.0
        self.sent: list[tuple[float, bytes | None, bytes]] = []
        self.full = 0
        self._room = room
        self._lost = lost
        self._waiting: deque[tuple[bytes, Callable[[KafkaError | None, Any], None]]] = deque()

    def produce(self, topic: str, value: bytes, key: bytes | None, on_delivery: Callable[..., None]) -> None:
        if len(self._waiting) >= self._room:
            self.full += 1
            raise BufferError
        self.sent.append((self.now, key, value))
        self._waiting.append((value, on_delivery))

    def poll(self, seconds: float) -> int:
        self.now += seconds
        while self._waiting:
            value, report = self._waiting.popleft()
            report(KafkaError(KafkaError._MSG_TIMED_OUT) if value in self._lost else None, None)
        return 0

    def monotonic(self) -> float:
        return self.now


def records(count: int, step: float = 1.0) -> list[Sendable]:
    return [Sendable(b"k%d" % (i % 3), b"%d" % i, int(i * step * 1e6)) for i in range(count)]


def test_a_rate_spreads_records_evenly() -> None:
    producer = MemoryProducer()
    result = replay(records(41), producer, "t", pace=Pace(rate=20), monotonic=producer.monotonic)
    assert result.delivered == 41
    assert [when for when, _, _ in producer.sent] == pytest.approx([i / 20 for i in range(41)])


def test_a_speed_keeps_the_gaps_of_event_time_and_does_not_wait_for_unknown_times() -> None:
    producer = MemoryProducer()
    given = [Sendable(None, b"bad", None), *records(3, step=60.0), Sendable(None, b"worse", None)]
    replay(given, producer, "t", pace=Pace(speed=30), monotonic=producer.monotonic)
    assert [when for when, _, _ in producer.sent] == pytest.approx([0, 0, 2, 4, 4])


def test_a_full_queue_holds_the_reader_up_and_loses_nothing() -> None:
    producer = MemoryProducer(room=7)
    progress: list[int] = []
    result = replay(records(100), producer, "t", monotonic=producer.monotonic, progress=progress.append)
    assert producer.full > 5
    assert [payload for _, _, payload in producer.sent] == [b"%d" % i for i in range(100)]
    assert result.delivered == sum(progress) == 100


def test_lost_records_fail_loudly_with_their_number() -> None:
    producer = MemoryProducer(lost=frozenset({b"3", b"5"}))
    with pytest.raises(Retriable, match=r"2 records did not get into t .*8 did"):
        replay(records(10), producer, "t", monotonic=producer.monotonic)


def test_a_silent_broker_ends_in_an_error() -> None:
    producer = MemoryProducer()

    def poll(seconds: float) -> int:
        producer.now += seconds
        return 0

    producer.poll = poll  # type: ignore[method-assign]
    with pytest.raises(Retriable, match="4 times: no answer from Kafka"):
        replay(records(4), producer, "t", monotonic=producer.monotonic)


@pytest.mark.parametrize("pace", [{"rate": 0.0}, {"speed": -1.0}, {"rate": 1.0, "speed": 1.0}])
def test_a_pace_that_makes_no_sense_is_refused(pace: dict[str, float]) -> None:
    with pytest.raises(Fatal, match="--"):
        Pace(**pace)
