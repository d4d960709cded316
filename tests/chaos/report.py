"""Results for people (a line each) and for machines (JSON)."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.chaos.scenario import SEED, Result
from tidegate.embedded.kafka_jars import KAFKA_VERSION

__all__ = ["show", "write_json"]


def show(console: Console, results: Sequence[Result]) -> None:
    """One line per scenario; what is wrong follows below."""
    table = Table(title="Faults, and what came out", title_justify="left")
    table.add_column("scenario")
    columns = ("faults", "events", "dead", "lost", "doubled", "wrong features", "wrong scores", "wrong state")
    for name in (*columns, "degraded", "recovery s", "rebuilt", "s"):
        table.add_column(name, justify="right")
    table.add_column("")
    for result in results:
        found = result.findings
        recovery = "" if result.recovery_seconds is None else f"{result.recovery_seconds:.1f}"
        table.add_row(
            result.name,
            str(result.faults),
            f"{found.inputs:,}",
            f"{found.dead_letters:,}",
            str(found.lost),
            str(found.doubled + found.disordered + found.unlike),
            str(found.wrong_features + found.wrong_reference + found.undue_degraded),
            str(found.wrong_scores),
            str(found.wrong_state),
            f"{found.degraded:,}",
            recovery,
            f"{result.rebuilt_events:,}",
            f"{result.seconds:.0f}",
            "[green]good[/]" if result.good else "[red]BAD[/]",
        )
    console.print(table)
    for result in results:
        for problem in result.problems:
            console.print(f"[red]{result.name}[/]: {problem}", markup=True, highlight=False)


def write_json(path: Path, results: Sequence[Result]) -> None:
    """The whole report."""
    report = {
        "kafka": KAFKA_VERSION,
        "python": platform.python_version(),
        "processors": os.cpu_count(),
        "commit": _commit(),
        "seed": SEED,
        "good": all(result.good for result in results),
        "scenarios": [result.as_json() for result in results],
    }
    path.write_text(json.dumps(report, indent=1) + "\n")


def _commit() -> str:
    run = subprocess.run(
        ["git", "describe", "--always", "--dirty"],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parent,
    )
    return run.stdout.strip()
