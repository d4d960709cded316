"""The threat model names tests that exist."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_every_test_of_the_threat_model_exists() -> None:
    page = (ROOT / "docs" / "security.md").read_text()
    rows = [
        line
        for line in page.splitlines()
        if line.startswith("| ") and not line.startswith(("| attack", "| ---"))
    ]
    code = "\n".join(path.read_text() for path in sorted((ROOT / "tests").rglob("test_*.py")))
    there = set(re.findall(r"def (test_\w+)\(", code))
    for row in rows:
        named = re.findall(r"`(test_\w+)`", row.rsplit("|", 2)[1])
        assert named or "benchmarks/" in row, f"no test: {row}"
        assert set(named) <= there, f"gone: {set(named) - there}"
