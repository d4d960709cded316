"""The throughput benchmark runs and says what it promises; how fast is none of this test's business."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.kafka
@pytest.mark.redis
@pytest.mark.slow
def test_throughput_measures_both_sides_and_writes_them_down(tmp_path: Path) -> None:
    out = tmp_path / "result.json"
    done = subprocess.run(
        [
            *(sys.executable, "-m", "tidegate", "bench", "throughput", "--events", "3000", "--rounds", "1"),
            *("--partitions", "2", "--latency-seconds", "0.5", "--out", str(out), "--json"),
        ],
        capture_output=True,
        text=True,
        timeout=900,  # nine processes after each other: what hangs is ended, what is slow is not
        check=False,
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result == json.loads(out.read_text())
    assert result["events"] == 3000
    assert set(result["passthrough"]["by_batch"]) == {"500", "1000", "2000"}
    [turn] = result["rounds"]
    assert turn["ratio"] == pytest.approx(turn["worker"] / turn["passthrough"])
    assert result["ratio"]["median"] == pytest.approx(turn["ratio"])
    assert {"decode", "load", "score", "commit"} <= set(result["worker"]["stage_us"])
    assert set(result["worker"]["cpu_us"]) == {"worker", "kafka", "redis"}
    latency = result["latency"]
    assert 0 < latency["to_commit_ms"]["p50"] <= latency["to_commit_ms"]["p99"]
    assert 0 <= latency["to_append_ms"]["p50"] <= latency["to_append_ms"]["max"]
    assert result["machine"]["kafka"]
    assert result["date"]
