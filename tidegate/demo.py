"""``tidegate demo``: traffic with known fraud through a whole deployment, and what comes of it."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import msgspec
import numpy as np
from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition

from domain.clock import Clock
from domain.errors import Retriable
from domain.verdict import DecisionName, Reason
from stream.dead_letters import HEADER_OFFSET, HEADER_PARTITION
from stream.generator import TrafficEvent
from stream.topics import MAX_MESSAGE_BYTES, PARTITIONER, Topics

__all__ = ["DemoAlert", "DemoRun", "DemoState", "demo_json"]

KEPT_LATENCIES = 1_000_000
DELIVERY_SECONDS = 30.0


class _Seen(msgspec.Struct):
    """What the demo looks at in a verdict."""

    id: str
    score: float | None
    decision: DecisionName
    reasons: list[Reason]
    flags: list[str]
    source: dict[str, Any]
    entities: dict[str, str]


@dataclass(frozen=True, slots=True)
class DemoAlert:
    """An alert for the screen: what was decided, why, and what the generator knows."""

    id: str
    decision: DecisionName
    score: float
    reasons: tuple[str, ...]
    fraud: bool


@dataclass(slots=True)
class DemoState:
    """Running totals; written by two threads under ``lock``, read by the view."""

    lock: threading.Lock = field(default_factory=threading.Lock, repr=False)
    events: int = 0
    fraud: int = 0
    verdicts: int = 0
    duplicates: int = 0
    dead_letters: int = 0
    repeats: int = 0
    alerts: int = 0
    alerts_fraud: int = 0
    fraud_scored: int = 0
    scored: int = 0
    warming_up: int = 0
    first_at: float = 0.0
    last_at: float = 0.0
    latencies: deque[float] = field(default_factory=lambda: deque(maxlen=KEPT_LATENCIES))
    latest: deque[DemoAlert] = field(default_factory=lambda: deque(maxlen=8))
    producing: bool = True


class DemoRun:
    """Produces traffic in one thread and reads committed answers in another."""

    def __init__(
        self, bootstrap: str, pipeline: str, traffic: Iterator[TrafficEvent], *, rate: float, clock: Clock
    ) -> None:
        self._bootstrap = bootstrap
        self._topics = Topics(pipeline)
        self._traffic = traffic
        self._rate = rate
        self._clock = clock
        self._sent: dict[str, tuple[float, bool]] = {}
        self._seen: set[tuple[int, int]] = set()
        self._stop = threading.Event()
        self.state = DemoState()
        self.failure: BaseException | None = None
        self._threads = [
            threading.Thread(target=self._guarded, args=(work,), daemon=True)
            for work in (self._read, self._produce)
        ]
        self._reading = threading.Event()

    def start(self) -> None:
        """Begin."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """End both threads."""
        self._stop.set()
        for thread in self._threads:
            thread.join(DELIVERY_SECONDS)

    @property
    def finished(self) -> bool:
        """Whether all traffic is sent and answered."""
        state = self.state
        return not state.producing and state.verdicts + state.dead_letters >= state.events

    def _guarded(self, work: Any) -> None:
        try:
            work()
        except BaseException as error:  # a thread's error must reach the person at the terminal
            self.failure = error
            self._stop.set()

    def _produce(self) -> None:
        producer = Producer(
            {
                "bootstrap.servers": self._bootstrap,
                "partitioner": PARTITIONER,
                "linger.ms": 1,
                "enable.idempotence": True,
                "message.max.bytes": MAX_MESSAGE_BYTES,
            }
        )
        self._reading.wait(DELIVERY_SECONDS)
        failures: list[str] = []

        def delivered(error: KafkaError | None, _: Any) -> None:
            if error is not None:
                failures.append(str(error))

        state = self.state
        started = self._clock.monotonic()
        state.first_at = started
        for number, event in enumerate(self._traffic):
            if self._stop.is_set() or failures:
                break
            if self._rate > 0:
                ahead = number / self._rate - (self._clock.monotonic() - started)
                if ahead > 0.005:
                    producer.poll(0)
                    self._stop.wait(ahead)
            with state.lock:
                if not event.repeated:
                    self._sent[event.id] = (self._clock.monotonic(), bool(event.label))
                    state.fraud += bool(event.label)
                state.events += 1
            while True:
                try:
                    producer.produce(
                        self._topics.events, value=event.payload, key=event.key, on_delivery=delivered
                    )
                    break
                except BufferError:
                    producer.poll(0.05)
            producer.poll(0)
        left = producer.flush(DELIVERY_SECONDS)
        state.producing = False
        if failures or left:
            raise Retriable(
                f"{len(failures) + left} events were not delivered: {failures[:1]}",
                remedy="look at the broker's log",
            )

    def _read(self) -> None:
        consumer = Consumer(
            {
                "bootstrap.servers": self._bootstrap,
                "group.id": f"{self._topics.pipeline}.demo",
                "isolation.level": "read_committed",
                "enable.auto.commit": False,
                "fetch.wait.max.ms": 5,
            }
        )
        try:
            places = []
            for topic in (self._topics.verdicts, self._topics.dead_letters):
                for partition in consumer.list_topics(topic, 10.0).topics[topic].partitions:
                    place = TopicPartition(topic, partition)
                    _, high = consumer.get_watermark_offsets(place, timeout=10.0, cached=False)
                    places.append(TopicPartition(topic, partition, high))
            consumer.assign(places)
            self._reading.set()
            decode = msgspec.json.Decoder(_Seen).decode
            while not self._stop.is_set() and not self.finished:
                first = consumer.poll(0.05)
                messages = [] if first is None else [first, *consumer.consume(2_000, 0)]
                now = self._clock.monotonic()
                with self.state.lock:
                    for message in messages:
                        if message.error() is not None:
                            raise KafkaException(message.error())
                        if message.topic() == self._topics.verdicts:
                            self._note_verdict(decode(message.value() or b""), now)
                        else:
                            headers = dict(message.headers() or [])
                            place_of = (int(headers[HEADER_PARTITION] or 0), int(headers[HEADER_OFFSET] or 0))
                            self._note(place_of, "dead_letters", now)
        finally:
            consumer.close()

    def _note(self, place: tuple[int, int], what: str, now: float) -> bool:
        state = self.state
        if place in self._seen:
            state.duplicates += 1
            return False
        self._seen.add(place)
        setattr(state, what, getattr(state, what) + 1)
        state.last_at = now
        return True

    def _note_verdict(self, verdict: _Seen, now: float) -> None:
        state = self.state
        if not self._note((verdict.source["partition"], verdict.source["offset"]), "verdicts", now):
            return
        sent_at, fraud = self._sent.get(verdict.id, (now, False))
        if "duplicate" in verdict.flags:
            state.repeats += 1
            return
        state.latencies.append(now - sent_at)
        if verdict.score is None:
            state.warming_up += 1
            return
        state.scored += 1
        state.fraud_scored += fraud
        if verdict.decision is not DecisionName.ALLOW:
            state.alerts += 1
            state.alerts_fraud += fraud
            texts = tuple(reason.text for reason in verdict.reasons[:2])
            state.latest.appendleft(DemoAlert(verdict.id, verdict.decision, verdict.score, texts, fraud))


def demo_json(broker: str, state: DemoState) -> dict[str, Any]:
    """The result of a run: counts, rate from the first event sent to the last answer, and latencies."""
    seconds = max(state.last_at - state.first_at, 1e-9)
    latencies = np.array(state.latencies or [np.nan]) * 1e3
    p50, p99 = np.percentile(latencies, [50, 99])
    return {
        "broker": broker,
        "events": state.events,
        "verdicts": state.verdicts,
        "duplicates": state.duplicates,
        "dead_letters": state.dead_letters,
        "alerts": state.alerts,
        "seconds": round(seconds, 3),
        "events_per_second": round((state.verdicts + state.dead_letters) / seconds, 1),
        "latency_ms": {"p50": round(float(p50), 1), "p99": round(float(p99), 1)},
    }
