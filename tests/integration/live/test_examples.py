"""The examples of examples/api run as they are, against the real service."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration.live.conftest import Live
from tests.system.scene import PATIENCE

pytestmark = [pytest.mark.kafka, pytest.mark.redis]
EXAMPLES = Path(__file__).parents[3] / "examples" / "api"


def run(live: Live, *command: str) -> subprocess.CompletedProcess[str]:
    environment = {
        **os.environ, "TIDEGATE_API": live.url, "DEADLINE_MS": "30000", "PYTHONPATH": str(EXAMPLES.parents[1]),
    }  # fmt: skip
    return subprocess.run(
        command, env=environment, capture_output=True, text=True, check=False, timeout=PATIENCE
    )


def test_curl(live: Live) -> None:
    done = run(live, "sh", str(EXAMPLES / "score.sh"), "example/1")
    assert done.returncode == 0, done.stdout + done.stderr
    verdict, labels, page, problem = map(json.loads, done.stdout.splitlines())
    assert (verdict["id"], labels["accepted"]) == ("example/1", 1)
    assert {v["entities"]["account_id"] for v in page["verdicts"]} <= {verdict["entities"]["account_id"]}
    assert (problem["reason"], problem["field"]) == ("missing_field", "event_time")
    assert problem["remedy"]


def test_python(live: Live) -> None:
    done = run(live, sys.executable, str(EXAMPLES / "score.py"))
    assert done.returncode in (0, 3), done.stdout + done.stderr
    assert (
        ": allow, score" in done.stdout or ": review, score" in done.stdout or ": block, score" in done.stdout
    )
