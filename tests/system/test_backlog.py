"""72 hours of events wait when a worker starts: it stays below its memory limit, and computes the same."""

from __future__ import annotations

import json
import os
import random
import time
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from stream.replay import Sendable
from tests.system.bits import assert_same_bits
from tests.system.scene import Scene, eventually, metric, samples
from tests.system.worker_program import ActAt, WorkerProcess
from tidegate.embedded.process import free_port
from tidegate.settings import MEMORY_BESIDE_STATE_MB

pytestmark = [pytest.mark.kafka, pytest.mark.redis, pytest.mark.slow]

PIPELINE = Path(__file__).with_name("backlog_pipeline.yaml")
ROWS = int(os.environ.get("TIDEGATE_BACKLOG_ROWS", "36000"))
ACCOUNTS = ROWS // 2
"""So many that their state is more than twice of what may stay in memory."""
HOURS = 72
MEMORY_MB = MEMORY_BESIDE_STATE_MB + 8
"""The least that can be set: 8 MB for entity state."""
STATE_BYTES = 8 << 20
QUIET_SECONDS = 2.0
"""Without a verdict for so long, the worker waits for its store (or the machine is slow: then this shows less)."""


@pytest.fixture
def scene(kafka: str, redis_url: str, topic_prefix: str, tmp_path: Path) -> Iterator[Scene]:
    with Scene.open(kafka, redis_url, PIPELINE, topic_prefix, tmp_path) as made:
        yield made


def backlog(rows: int) -> Iterator[Sendable]:
    """Events of the last 72 hours, evenly spread."""
    chance = random.Random(72)
    start = datetime(2024, 3, 1, tzinfo=UTC)
    for number in range(rows):
        account = f"acc-{chance.randrange(ACCOUNTS)}"
        record = {
            "id": f"e{number}",
            "at": (start + timedelta(hours=HOURS) * number / rows).isoformat(),
            "account": account,
            "amount": round(chance.lognormvariate(3.0, 0.6), 2),
            "pieces": chance.randrange(9),
            "shop": f"s{chance.randrange(30)}",
        }
        yield Sendable(account.encode(), json.dumps(record).encode(), None)


def peak_mb(worker: WorkerProcess) -> float:
    """The most resident memory a process ever had (Linux)."""
    for line in Path(f"/proc/{worker.pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    raise AssertionError("the system does not tell the peak of resident memory")


def test_a_backlog_stays_within_the_memory_limit(scene: Scene) -> None:
    """However slowly the store takes what it is given."""
    scene.send(list(backlog(ROWS)))
    reader = scene.reader()
    port = free_port()
    worker = scene.worker(memory_mb=MEMORY_MB, metrics_port=port)
    # the third flush stands still: nothing can leave memory, so the worker must not go on for ever
    gate = scene.directory / "the store goes on"
    worker.start(ActAt("before_flush", visit=3, until=gate))
    most: Counter[str] = Counter()
    seen, since = 0, time.monotonic()

    def reached() -> int:
        for name in ("tidegate_entities_in_memory", "tidegate_entity_bytes"):
            most[name] = max(most[name], round(metric(port, name)))
        return len(reader.messages)

    def waits() -> bool:
        nonlocal seen, since
        if (now := reached()) != seen:
            seen, since = now, time.monotonic()
        return seen >= ROWS // 10 and time.monotonic() - since > QUIET_SECONDS

    eventually("it waits for its store", waits, worker.tail, reached)
    assert len(reader.messages) < ROWS, "it scored everything though nothing could leave memory"
    gate.touch()
    eventually("all are answered", lambda: len(reader.messages) >= ROWS, worker.tail, reached)
    scene.await_applied(ROWS)
    scorer, wanted = scene.never_killed()
    stored = scene.blobs()
    assert scorer.tables.held_bytes > 2 * STATE_BYTES, "the backlog is no test of the limit"
    told: dict[str, float] = {}

    def below() -> bool:
        told.update(samples(port))
        few = 0 < told.get("tidegate_entities_in_memory", 0) < 0.75 * len(stored)
        return few and 0 < told["tidegate_entity_bytes"] <= STATE_BYTES

    # the last flush lets the last ones go, and then it is told
    eventually("the state in memory is below the limit", below, lambda: f"{told}, {len(stored)} are stored")
    peak = peak_mb(worker)
    print(f"peak {peak:.0f} MB of {MEMORY_MB}; most: {most}; now {told['tidegate_entities_in_memory']:.0f}")
    assert peak < MEMORY_MB
    # a batch comes on top of what may stay
    assert 0 < most["tidegate_entity_bytes"] < 1.5 * STATE_BYTES
    assert_same_bits(scene.pipeline, reader.verdicts(), wanted)
    assert stored == scene.blobs_of(scorer)
