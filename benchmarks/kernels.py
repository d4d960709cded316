"""Detector kernels against River and scikit-learn, in one run and interleaved.

Two programs on a busy machine are comparable only when they are measured in turns: each repetition times
ours and theirs once, and the ratio is taken per repetition. Run by ``make bench-kernels``.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table
from river import anomaly
from sklearn.ensemble import IsolationForest as Reference

from detectors.forest import PackedForest
from detectors.half_space_trees import HalfSpaceTrees
from domain.batch import Floats

FEATURES = tuple(f"feature_{i:02d}" for i in range(15))
RESULTS = Path(__file__).parent / "results" / "kernels.json"


@dataclass(frozen=True, slots=True)
class Comparison:
    """Microseconds per event of ours and theirs (median over repetitions), and the ratios theirs/ours."""

    name: str
    ours_us: float
    theirs_us: float
    ratio_min: float
    ratio_median: float
    ratio_max: float
    repetitions: int


def compare(name: str, ours: Callable[[], int], theirs: Callable[[], int], repetitions: int) -> Comparison:
    """Time both in turns; each call returns how many events it handled."""
    ours()
    theirs()
    own, other = [], []
    for _ in range(repetitions):
        own.append(_microseconds(ours))
        other.append(_microseconds(theirs))
    ratios = [b / a for a, b in zip(own, other, strict=True)]
    return Comparison(
        name,
        statistics.median(own),
        statistics.median(other),
        min(ratios),
        statistics.median(ratios),
        max(ratios),
        repetitions,
    )


def _microseconds(work: Callable[[], int]) -> float:
    start = time.perf_counter_ns()
    events = work()
    return (time.perf_counter_ns() - start) / 1e3 / events


def half_space_trees(batch: int, events: int, repetitions: int) -> Comparison:
    """Score and learn, 25 trees of height 8, 15 features in [0, 1]; River gets its dicts ready made."""
    x = np.random.default_rng(1).random((events, len(FEATURES)))
    rows = [dict(zip(FEATURES, row, strict=True)) for row in x.tolist()]
    ours = HalfSpaceTrees(FEATURES, seed=1, scale="none")
    theirs = anomaly.HalfSpaceTrees(n_trees=25, height=8, window_size=250, seed=1)

    def run_ours() -> int:
        for at in range(0, events, batch):
            ours.step(x[at : at + batch])
        return events

    def run_theirs() -> int:
        for row in rows:
            theirs.score_one(row)  # type: ignore[no-untyped-call]
            theirs.learn_one(row)  # type: ignore[no-untyped-call]
        return events

    return compare(f"half-space trees, batches of {batch}", run_ours, run_theirs, repetitions)


def isolation_forest(batch: int, batches: int, repetitions: int) -> Comparison:
    """Scores of 100 trees of 256 rows, 15 features; fails when a single bit differs."""
    rng = np.random.default_rng(2)
    fitted = Reference(n_estimators=100, max_samples=256, random_state=1).fit(
        rng.normal(size=(2048, len(FEATURES))).astype(np.float32)
    )
    trees = zip((one.tree_ for one in fitted.estimators_), fitted.estimators_features_, strict=True)
    packed = PackedForest.packed(list(trees), 256, np.zeros(len(FEATURES)))
    parts: list[Floats] = [rng.normal(size=(batch, len(FEATURES))) for _ in range(batches)]
    for part in parts:
        if packed.score(part).tobytes() != (-fitted.score_samples(part)).tobytes():
            raise SystemExit("scores differ from scikit-learn's: the figures would mean nothing")

    def run_ours() -> int:
        for part in parts:
            packed.score(part)
        return batch * batches

    def run_theirs() -> int:
        for part in parts:
            fitted.score_samples(part)
        return batch * batches

    return compare(f"isolation forest, batches of {batch}", run_ours, run_theirs, repetitions)


def machine() -> dict[str, object]:
    """What the figures depend on."""
    names = ("numpy", "numba", "river", "scikit-learn")
    return {
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "load_1min": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "versions": {name: version(name) for name in names},
    }


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or "unknown"


def main(arguments_given: Sequence[str] | None = None) -> None:
    """Measure; the arguments are those of the command line unless given."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--json", action="store_true", help="print the result as JSON instead of a table")
    parser.add_argument("--repetitions", type=int, default=7)
    arguments = parser.parse_args(arguments_given)
    n = arguments.repetitions
    facts = machine()
    found = [
        half_space_trees(1, 2000, n),
        half_space_trees(500, 2000, n),
        isolation_forest(1, 20, n),
        isolation_forest(50, 10, n),
        isolation_forest(500, 4, n),
    ]
    result = {"machine": facts, "comparisons": [asdict(one) for one in found]}
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(result, indent=2) + "\n")
    if arguments.json:
        print(json.dumps(result))
        return
    table = Table(title=f"Microseconds per event, {n} repetitions in turns, {facts['cpu']}")
    for column in ("kernel", "ours", "theirs", "ratio min", "median", "max"):
        table.add_column(column, justify="left" if column == "kernel" else "right")
    for one in found:
        times = (f"{one.ours_us:.2f}", f"{one.theirs_us:.1f}")
        table.add_row(
            one.name, *times, *(f"{r:.1f}" for r in (one.ratio_min, one.ratio_median, one.ratio_max))
        )
    Console().print(table)


if __name__ == "__main__":
    main()
