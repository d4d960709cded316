"""What one row costs the online detectors that have no counterpart to be compared with, default parameters.

Run by ``python -m benchmarks.online_detectors [--json]``.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

import numpy as np

from benchmarks.kernels import FEATURES, machine
from detectors.entity_profile import EntityProfile, Profile
from detectors.one_class_svm import OneClassSVM
from detectors.online import OnlineDetector
from detectors.online_isolation_forest import OnlineIsolationForest

PROFILES = [
    Profile(value=FEATURES[3 * i], mean=FEATURES[3 * i + 1], std=FEATURES[3 * i + 2]) for i in range(4)
]
DETECTORS: dict[str, Callable[[], OnlineDetector]] = {
    "online_isolation_forest": lambda: OnlineIsolationForest(FEATURES, seed=1),
    "one_class_svm": lambda: OneClassSVM(FEATURES, seed=1),
    "entity_profile (4 profiles)": lambda: EntityProfile(FEATURES, seed=1, profiles=PROFILES),
}


@dataclass(frozen=True, slots=True)
class Cost:
    """Microseconds per row to score and learn, in batches of ``batch`` rows; over repetitions."""

    detector: str
    batch: int
    least_us: float
    median_us: float
    most_us: float


def cost(name: str, batch: int, rows: int, repetitions: int) -> Cost:
    """Step ``rows`` rows of 15 features after 5,000 others, so that windows are full; each repetition goes on."""
    rng = np.random.default_rng(1)
    detector = DETECTORS[name]()
    detector.step(rng.normal(size=(5000, len(FEATURES))))
    x = rng.normal(size=(rows, len(FEATURES)))
    times = []
    for _ in range(repetitions):
        start = time.perf_counter_ns()
        for at in range(0, rows, batch):
            detector.step(x[at : at + batch])
        times.append((time.perf_counter_ns() - start) / 1e3 / rows)
    return Cost(name, batch, min(times), statistics.median(times), max(times))


def main(arguments_given: Sequence[str] | None = None) -> None:
    """Measure and print; the arguments are those of the command line unless given."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--json", action="store_true", help="print the result as JSON instead of lines")
    parser.add_argument("--repetitions", type=int, default=9)
    arguments = parser.parse_args(arguments_given)
    found = [cost(name, batch, 4000, arguments.repetitions) for name in DETECTORS for batch in (1, 500)]
    if arguments.json:
        print(json.dumps({"machine": machine(), "costs": [asdict(one) for one in found]}))
        return
    print(machine())
    for one in found:
        print(
            f"{one.detector:28} batches of {one.batch:3}: {one.median_us:6.2f} us a row "
            f"({one.least_us:.2f} to {one.most_us:.2f})"
        )


if __name__ == "__main__":
    main()
