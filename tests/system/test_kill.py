"""Workers killed with SIGKILL, by chance and at every step between input and state: nobody can tell afterwards."""

from __future__ import annotations

import os
import random
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from detectors.ensemble import Ensemble
from stream.replay import Sendable, file_records
from tests.system.bits import assert_same_bits
from tests.system.handbook import HANDBOOK, Backtest, backtest_of, handbook_slice
from tests.system.scene import Feeder, Reader, Scene
from tests.system.worker_program import KillAt, WorkerProcess

pytestmark = [pytest.mark.kafka, pytest.mark.redis, pytest.mark.slow]

ROWS = int(os.environ.get("TIDEGATE_KILL_ROWS", "9000"))
KILLS = 5
SEED = int(os.environ.get("TIDEGATE_KILL_SEED", "20180401"))
# Small transactions, and store and snapshots that lag by different amounts when the kill comes.
QUICK: dict[str, Any] = {"max_batch": max(100, ROWS // 100), "flush_seconds": 0.05, "snapshot_seconds": 0.3}
AHEAD = max(600, ROWS // 20)
POINTS = (
    "before_produce",
    "after_produce",
    "after_send_offsets",
    "after_commit",
    "before_flush",
    "after_flush",
)
POINT_ROWS = 1_500


@pytest.fixture
def scene(kafka: str, redis_url: str, topic_prefix: str, tmp_path: Path) -> Iterator[Scene]:
    with Scene.open(kafka, redis_url, HANDBOOK, topic_prefix, tmp_path) as made:
        yield made


def prepare(scene: Scene, rows: int) -> tuple[list[Sendable], Backtest]:
    """Rows as records, still to be sent, and the backtest of them."""
    events = scene.directory / "events.parquet"
    handbook_slice(events, rows)
    records = list(file_records(events, scene.pipeline))
    return records, backtest_of(scene.pipeline, events, scene.directory / "verdicts.parquet")


def check(scene: Scene, reader: Reader, worker: WorkerProcess, expected: Backtest, rows: int) -> None:
    """Same verdicts for a reader who was there all the time and one who comes after; same state at rest."""
    scene.await_count(reader, rows - 1)
    scene.await_applied(rows)
    worker.stop()
    late = scene.reader()
    scene.await_count(late, rows - 1)
    assert [m.value() for m in late.messages] == [m.value() for m in reader.messages]
    assert_same_bits(scene.pipeline, reader.verdicts(), expected.scored)
    by_key: dict[bytes, list[int]] = defaultdict(list)
    for message, verdict in zip(reader.messages, reader.verdicts(), strict=True):
        by_key[message.key()].append(verdict.source.offset)
    assert all(offsets == sorted(offsets) for offsets in by_key.values())
    assert scene.applied() == rows
    assert scene.blobs() == scene.blobs_of(expected.scorer)
    snapshot = scene.store.load_model(0)
    assert snapshot is not None
    assert snapshot.next_offset == rows
    restored = Ensemble(scene.pipeline)
    restored.restore(snapshot.blob)
    assert restored.snapshot() == expected.scorer.ensemble.snapshot()


def test_five_kills_at_random_moments(scene: Scene) -> None:
    records, expected = prepare(scene, ROWS)
    reader = scene.reader()
    dead = scene.reader(scene.topics.dead_letters)
    chance = random.Random(SEED)
    # one in each sixth of the first five sixths
    moments = [round(ROWS * (i + chance.random()) / (KILLS + 1)) for i in range(KILLS)]
    worker = scene.worker(**QUICK)
    sent = 0
    for moment in moments:
        worker.start()
        while len(reader.messages) < moment:
            # a little more than was answered, so that the worker, however fast, is amid traffic when it is killed
            upto = min(len(reader.messages) + AHEAD, ROWS)
            if upto > sent:
                scene.send(records[sent:upto])
                sent = upto
            scene.await_count(reader, min(moment, sent - AHEAD // 2))
        worker.kill()
    assert sent < ROWS
    scene.send(records[sent:])
    worker.start()
    check(scene, reader, worker, expected, ROWS)
    scene.await_count(dead, 1)
    assert len(dead.messages) == 1


def test_a_kill_at_every_step_of_a_batch(scene: Scene) -> None:
    """One worker per step, each taking over from the one that died at the step before."""
    rows = POINT_ROWS * 2
    records, expected = prepare(scene, rows)
    reader = scene.reader()
    dead = scene.reader(scene.topics.dead_letters)
    # A flush follows each commit; snapshots lag behind, as they do.
    worker = scene.worker(max_batch=50, flush_seconds=0.001, snapshot_seconds=0.3)
    feeder = Feeder(scene, (records[first : first + 100] for first in range(0, rows, 100)))
    for point in POINTS:
        worker.start(KillAt(point, visit=5))
        assert feeder.feed(worker) == -9, worker.tail()
    feeder.rest()
    worker.start()
    check(scene, reader, worker, expected, rows)
    scene.await_count(dead, 1)
    assert len(dead.messages) == 1
