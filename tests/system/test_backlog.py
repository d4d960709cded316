"""72 hours of events wait when a worker starts: it stays below its memory limit, and computes the same."""

from __future__ import annotations

import json
import os
import random
import urllib.request
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from stream.replay import Sendable
from tests.system.bits import assert_same_bits
from tests.system.events import SMALL
from tests.system.scene import Scene, eventually
from tests.system.worker_program import WorkerProcess
from tidegate.embedded.process import free_port

pytestmark = [pytest.mark.kafka, pytest.mark.redis, pytest.mark.slow]

ROWS = int(os.environ.get("TIDEGATE_BACKLOG_ROWS", "60000"))
ACCOUNTS = ROWS // 2
"""So many that their state is far larger than what may stay in memory."""
HOURS = 72
MEMORY_MB = 520
"""The least that can be set: 8 MB for entity state."""


@pytest.fixture
def scene(kafka: str, redis_url: str, topic_prefix: str, tmp_path: Path) -> Iterator[Scene]:
    with Scene.open(kafka, redis_url, SMALL, topic_prefix, tmp_path) as made:
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


def metric(port: int, name: str) -> float:
    """One sample of a worker's /metrics."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as page:
        for line in page.read().decode().splitlines():
            if line.startswith(name + " "):
                return float(line.split()[1])
    raise AssertionError(f"there is no metric {name}")


def peak_mb(worker: WorkerProcess) -> float:
    """The most resident memory a process ever had (Linux)."""
    for line in Path(f"/proc/{worker.pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    raise AssertionError("the system does not tell the peak of resident memory")


def test_a_backlog_stays_within_the_memory_limit(scene: Scene) -> None:
    scene.send(list(backlog(ROWS)))
    reader = scene.reader()
    port = free_port()
    worker = scene.worker(memory_mb=MEMORY_MB, metrics_port=port)
    worker.start()
    scene.await_count(reader, ROWS)
    eventually("all is in Redis", lambda: scene.applied() == ROWS, worker.tail)
    peak = peak_mb(worker)
    held = metric(port, "tidegate_entities_in_memory")
    print(f"peak {peak:.0f} MB of {MEMORY_MB}; {held:.0f} of {len(scene.blobs())} entities in memory")
    assert peak < MEMORY_MB
    assert held < 0.9 * len(scene.blobs())
    scorer, wanted = scene.never_killed()
    assert_same_bits(scene.pipeline, reader.verdicts(), wanted)
    assert scene.blobs() == scene.blobs_of(scorer)
