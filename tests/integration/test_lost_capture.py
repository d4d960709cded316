"""State captured with a transaction that fails is state that the store never gets: it must not say otherwise."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Producer
from prometheus_client import CollectorRegistry

from domain.clock import SystemClock
from domain.verdict import Verdict
from scoring.scored import ScoredBatch
from scoring.verdicts import VerdictEncoder
from stream.kafka import KafkaConnection
from stream.topics import partition_of
from stream.worker import WorkerConfig, run_worker
from stream.worker_metrics import WorkerMetrics
from stream.worker_parts import WorkerParts
from tests.system.events import SMALL, event
from tests.system.scene import Scene, eventually
from tidegate.warm import warm_up

pytestmark = [pytest.mark.kafka, pytest.mark.redis]

WORKER = "w1"
HOUR = 3_600.0


@pytest.fixture
def scene(kafka: str, redis_url: str, topic_prefix: str, tmp_path: Path) -> Iterator[Scene]:
    with Scene.open(kafka, redis_url, SMALL, topic_prefix, tmp_path, partitions=2) as made:
        yield made


class LeapingClock(SystemClock):
    """A clock that can be told to leap ahead."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def monotonic(self) -> float:
        return super().monotonic() + self.ahead


class LeapingEncoder(VerdictEncoder):
    """Lets an hour pass while verdicts of ``partition`` are made, so that the batch they are in captures state."""

    def __init__(self, scene: Scene, clock: LeapingClock, partition: int) -> None:
        super().__init__(scene.pipeline, code_version="test")
        self._clock = clock
        self._leap_at = partition

    def verdicts(self, scored: ScoredBatch, *, partition: int, scored_at: int) -> list[Verdict]:
        if partition == self._leap_at:
            self._clock.ahead += HOUR
        return super().verdicts(scored, partition=partition, scored_at=scored_at)


class Usurper:
    """Fences the worker inside the second transaction that gets so far."""

    def __init__(self, scene: Scene) -> None:
        self._scene = scene
        self.visits = 0

    def __call__(self, point: str) -> None:
        if point == "after_send_offsets":
            self.visits += 1
            if self.visits == 2:
                owner = f"tidegate-{self._scene.pipeline.name}-{WORKER}"
                conf: dict[str, Any] = {"bootstrap.servers": self._scene.bootstrap, "transactional.id": owner}
                Producer(conf).init_transactions(30)


def test_a_flush_lost_with_its_transaction_is_not_passed_over(scene: Scene) -> None:
    """The transaction that fails has no event of partition ``quiet``, but its flush has that partition's state."""
    accounts = {partition_of(f"acc-{n}".encode(), 2): f"acc-{n}" for n in range(20)}
    quiet, busy = 0, 1
    clock, usurper = LeapingClock(), Usurper(scene)
    parts = WorkerParts(
        kafka=KafkaConnection(scene.bootstrap),
        pipeline=scene.pipeline,
        codec=scene.codec,
        encoder=LeapingEncoder(scene, clock, busy),
        store=scene.store,
        publish_report=lambda _: None,
        clock=clock,
        metrics=WorkerMetrics(CollectorRegistry()),
        at=usurper,
    )
    config = WorkerConfig(worker_id=WORKER, flush_seconds=HOUR, snapshot_seconds=100 * HOUR)
    warm_up(scene.pipeline)
    reader, stop = scene.reader(), threading.Event()
    worker = threading.Thread(target=run_worker, args=(config, parts, stop), daemon=True)
    worker.start()
    try:
        scene.send([event("e0", 0, accounts[quiet])])
        scene.await_count(reader, 1)
        assert scene.applied(quiet) == 0, "the premise: nothing has been written yet"
        scene.send([event("e1", 60, accounts[busy])])
        scene.await_count(reader, 2)
        assert usurper.visits > 2, "the premise: the second transaction was lost"
        eventually("the quiet partition is in Redis", lambda: scene.applied(quiet) == 1)
    finally:
        stop.set()
        worker.join(60)
    assert not worker.is_alive()
    for partition in (quiet, busy):
        scorer, _ = scene.never_killed(partition)
        assert scene.applied(partition) == 1
        assert scene.blobs(partition) == scene.blobs_of(scorer)
