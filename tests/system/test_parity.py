"""The same rows through Kafka, Redis and a worker process, and through a backtest: the same bits in each verdict."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from stream.replay import file_records
from tests.system.bits import assert_same_bits
from tests.system.handbook import HANDBOOK, backtest_of, handbook_slice
from tests.system.scene import Scene, eventually

ROWS = int(os.environ.get("TIDEGATE_PARITY_ROWS", "10000"))


@pytest.mark.kafka
@pytest.mark.redis
@pytest.mark.slow
def test_the_worker_says_what_the_backtest_says(
    kafka: str, redis_url: str, topic_prefix: str, tmp_path: Path
) -> None:
    events = tmp_path / "events.parquet"
    bad = handbook_slice(events, ROWS)
    with Scene.open(kafka, redis_url, HANDBOOK, topic_prefix, tmp_path) as scene:
        reader = scene.reader()
        dead = scene.reader(scene.topics.dead_letters)
        scene.send(list(file_records(events, scene.pipeline)))
        log = tmp_path / "worker.log"
        with log.open("wb") as file:
            worker = subprocess.Popen(
                [sys.executable, "-m", "tidegate", "worker"],
                env={**os.environ, **scene.environment()},
                stdout=file,
                stderr=file,
                cwd=Path(__file__).parents[2],
            )
        try:
            expected = backtest_of(scene.pipeline, events, tmp_path / "verdicts.parquet")
            wanted = len(expected.scored)

            def tell() -> str:
                return f"{len(reader.messages)} of {wanted} verdicts; the worker says:\n{log.read_text()[-4000:]}"

            goals = [*range(1_000, wanted, 1_000), wanted]
            for goal in goals:  # patience is for standing still, however many rows there are
                scene.await_count(reader, goal, tell)
            eventually("all is in Redis", lambda: scene.applied() == ROWS, tell)
            worker.send_signal(signal.SIGTERM)
            assert worker.wait(120) == 0, tell()
        finally:
            worker.kill()
            worker.wait()

        verdicts = reader.verdicts()
        assert len(verdicts) == ROWS - 1
        assert_same_bits(scene.pipeline, verdicts, expected.scored)
        assert expected.rejected == [bad]
        [letter] = dead.messages
        headers = dict(letter.headers())
        assert (headers["tidegate-reason"], headers["tidegate-source-offset"]) == (
            b"out_of_range",
            str(bad).encode(),
        )
        assert scene.blobs() == scene.blobs_of(expected.scorer)
