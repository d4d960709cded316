"""Is the alert budget held day by day? The account of :mod:`detectors.budget` beside a fixed limit of ``1 - budget``.

``handbook``: the Fraud Detection Handbook's features in their order, about 9,600 events a day. ``drifting``: eight
skewed features that grow by a tenth a day, 20,000 events a day, with day and night. Default detectors behind their
default scaling; a 0.5 % budget; days after the first two (the warm-up). Run: ``python -m benchmarks.budget``.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from benchmarks.plain import handbook, plain_pipeline
from detectors.ensemble import Ensemble
from domain.batch import Floats, Ints

RESULTS = Path(__file__).parent / "results" / "budget.json"
BUDGET = 0.005
DAY = 86_400_000_000


@dataclass(frozen=True, slots=True)
class Outcome:
    """Of one data set and seed: share of days within 10 % of the budget, and the worst days, as shares of it."""

    data: str
    seed: int
    way: str
    days: int
    alerts_a_day: float
    within_a_tenth: float
    least: float
    most: float
    flagged_out_of_range: float


def drifting(seed: int, days: int = 12, per_day: int = 20_000) -> tuple[tuple[str, ...], Floats, Ints]:
    """Names, vectors and day numbers."""
    rng = np.random.default_rng(seed)
    n = days * per_day
    t = np.arange(n) / per_day
    x = np.exp(rng.normal(size=(n, 8))) * (1.0 + 0.1 * t)[:, None]
    x[:, 0] *= 1.5 + np.sin(2.0 * np.pi * t)
    return tuple(f"f{i}" for i in range(8)), x, np.arange(n) // per_day


def measure(data: str, names: tuple[str, ...], x: Floats, days: Ints, seed: int) -> list[Outcome]:
    """Both ways over the same scores."""
    ensemble = Ensemble(plain_pipeline(names, seed, budget=BUDGET))
    said = [ensemble.step(x[at : at + 500]) for at in range(0, len(x), 500)]
    score = np.concatenate([s.score for s in said])
    outside = np.concatenate([s.outside.any(axis=1) for s in said])
    found = []
    for way, alerts in (
        ("account", np.concatenate([s.reached for s in said]) > 0),
        ("fixed", score >= 1.0 - BUDGET),
    ):
        size, hits = (np.bincount(days, weights=w)[2:] for w in (np.ones(len(days)), alerts))
        ratio = hits / (BUDGET * size)
        found.append(
            Outcome(
                data=data,
                seed=seed,
                way=way,
                days=len(ratio),
                alerts_a_day=float(hits.mean()),
                within_a_tenth=float((np.abs(ratio - 1.0) <= 0.1).mean()),
                least=float(ratio.min()),
                most=float(ratio.max()),
                flagged_out_of_range=float(outside[days >= 2].mean()),
            )
        )
    return found


def main() -> None:
    """Measure, print, write benchmarks/results/budget.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    arguments = parser.parse_args()
    names, vectors, times, _ = handbook()
    day = (times - times[0] // DAY * DAY) // DAY
    outcomes: list[Outcome] = []
    for seed in range(1, arguments.seeds + 1):
        outcomes += measure("handbook", names, vectors, day, seed)
        outcomes += measure("drifting", *drifting(seed), seed)
    for data in ("handbook", "drifting"):
        for way in ("account", "fixed"):
            own = [o for o in outcomes if (o.data, o.way) == (data, way)]
            print(
                f"{data:9} {way:8} {np.mean([o.alerts_a_day for o in own]):6.1f} alerts a day, within 10 %: "
                f"{np.mean([o.within_a_tenth for o in own]):.3f} ± {np.std([o.within_a_tenth for o in own]):.3f}, "
                f"{min(o.least for o in own):.2f} to {max(o.most for o in own):.2f}; "
                f"out of range {np.mean([o.flagged_out_of_range for o in own]):.2%}"
            )
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps([asdict(o) for o in outcomes], indent=2) + "\n")


if __name__ == "__main__":
    main()
