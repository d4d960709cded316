"""How far can an attacker teach the online detectors that his fraud is usual, and what do guards change?

Honest traffic is the Fraud Detection Handbook's features in their order. After a warm-up an attacker adds a share of the
events: they begin as usual ones and move step by step to the fraud that he wants to pass (three features beyond the
greatest value seen, as far again as it is from the median), then stay there for as long. Told: the score of that
fraud before and after, and how many of the attacker's events were alerts on the way.

Guards: ``none``: every event is learned. ``skip_high``: what scores 0.99 or more is not learned. ``tenth_of_high``: a
tenth of that is learned, drawn by its number. ``entity_cap``: of one account one event in 2,000 is learned; the attacker
has five accounts, honest accounts are taken not to reach the cap. ``both``: the last two.

A guard must not make the detectors blind for honest change: in ``shift``, a third of the honest traffic moves for good (one
feature by three times the width of its usual range, from all accounts). Told: the share of alerts spent on that third
in the last 10,000 events (a third would be just; without a guard and with). Run: ``python -m benchmarks.poisoning``.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from benchmarks.plain import handbook, plain_pipeline
from detectors.ensemble import Ensemble
from domain.batch import Floats

RESULTS = Path(__file__).parent / "results" / "poisoning.json"
WARM_UP, ATTACK, BATCH = 30_000, 30_000, 100
GUARDS = ("none", "skip_high", "tenth_of_high", "entity_cap", "both")
SHARES = (0.002, 0.01, 0.05)
ACCOUNTS, CAP = 5, 2_000
HIGH = 0.99
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Outcome:
    """Of one guard, one share of the attacker and one seed; ``control`` is the same without his events learned."""

    guard: str
    share: float
    seed: int
    before: float
    after: float
    control: float
    attacker_events: int
    attacker_alerts: int


@dataclass(frozen=True, slots=True)
class Shift:
    """Of one guard and one seed: alerts of the end, and how many of them fell on the third that moved."""

    guard: str
    seed: int
    alerts: int
    on_moved: float
    first_on_moved: float


class Learner:
    """An ensemble that does not learn everything."""

    def __init__(self, guard: str, names: tuple[str, ...], seed: int) -> None:
        self.ensemble = Ensemble(plain_pipeline(names, seed))
        self._guard = guard
        self._rng = np.random.default_rng(seed)
        self._rows = 0
        self._last: dict[int, int] = {}

    def step(self, x: Floats, account: npt.NDArray[np.int64]) -> tuple[Floats, Bools]:
        """Scores and alerts of a batch; ``account`` -1: one that does not reach the cap."""
        said = self.ensemble.score(x)
        learn = np.ones(len(x), dtype=np.bool_)
        high = said.score >= HIGH
        if self._guard == "skip_high":
            learn &= ~high
        elif self._guard in ("tenth_of_high", "both"):
            learn &= ~high | (self._rng.random(len(x)) < 0.1)
        if self._guard in ("entity_cap", "both"):
            for row in np.flatnonzero(account >= 0).tolist():
                now, name = self._rows + row, int(account[row])
                if now - self._last.get(name, -CAP) < CAP:
                    learn[row] = False
                elif learn[row]:
                    self._last[name] = now
        self._rows += len(x)
        alerts = said.score >= 1.0 - 0.005
        self.ensemble.step(x[learn])
        return said.score, alerts


def target_of(x: Floats) -> Floats:
    """The fraud: usual but for three features far beyond everything."""
    fraud: Floats = np.median(x, axis=0)
    spread = np.ptp(x, axis=0) > 2.0
    chosen = np.flatnonzero(spread)[[0, 1, 3]]
    fraud[chosen] = 2.0 * x[:, chosen].max(axis=0) - fraud[chosen]
    return fraud


def attack(x: Floats, names: tuple[str, ...], guard: str, share: float, seed: int) -> Outcome:
    """Play warm-up and attack."""
    rng = np.random.default_rng(seed)
    learner = Learner(guard, names, seed)
    honest, nobody = x[:WARM_UP], np.full(BATCH, -1, dtype=np.int64)
    for at in range(0, WARM_UP, BATCH):
        learner.step(honest[at : at + BATCH], nobody)
    fraud = target_of(honest)
    before = float(learner.ensemble.score(fraud[None]).score[0])
    control = Learner(guard, names, seed)
    control.ensemble.restore(learner.ensemble.snapshot())
    sent = alerts = 0
    for at in range(WARM_UP, WARM_UP + ATTACK, BATCH):
        part = x[at : at + BATCH].copy()
        control.step(part, nobody)
        mine = rng.random(BATCH) < share
        progress = min(1.0, 2.0 * (at - WARM_UP) / ATTACK)
        start = honest[rng.integers(0, WARM_UP, int(mine.sum()))]
        part[mine] = (1.0 - progress) * start + progress * fraud * rng.normal(1.0, 0.01, (len(start), 1))
        account = np.where(mine, rng.integers(0, ACCOUNTS, BATCH), -1)
        _, reached = learner.step(part, account)
        sent += int(mine.sum())
        alerts += int(reached[mine].sum())
    after, unspoilt = (float(one.ensemble.score(fraud[None]).score[0]) for one in (learner, control))
    return Outcome(guard, share, seed, before, after, unspoilt, sent, alerts)


def shift(x: Floats, names: tuple[str, ...], guard: str, seed: int) -> Shift:
    """Play honest traffic of which a third changes for good."""
    rng = np.random.default_rng(seed)
    learner = Learner(guard, names, seed)
    nobody = np.full(BATCH, -1, dtype=np.int64)
    low, high = np.quantile(x[:WARM_UP, 0], (0.05, 0.95))
    told: list[tuple[bool, bool]] = []
    for at in range(0, WARM_UP + ATTACK, BATCH):
        part = x[at : at + BATCH].copy()
        moved = (rng.random(BATCH) < 1 / 3) & (at >= WARM_UP)
        part[moved, 0] += 3.0 * (high - low)
        _, reached = learner.step(part, nobody)
        if at >= WARM_UP:
            told += zip(moved.tolist(), reached.tolist(), strict=True)
    both = np.array(told)
    first, last = both[:10_000], both[-10_000:]
    alerts = int(last[:, 1].sum())
    on_moved = float(last[last[:, 1], 0].mean()) if alerts else float("nan")
    return Shift(guard, seed, alerts, on_moved, float(first[first[:, 1], 0].mean()))


def main() -> None:
    """Measure, print, write benchmarks/results/poisoning.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    arguments = parser.parse_args()
    names, vectors, _, _ = handbook()
    outcomes, shifts = [], []
    for seed in range(1, arguments.seeds + 1):
        first = (seed - 1) * (len(vectors) - WARM_UP - ATTACK) // max(arguments.seeds - 1, 1)
        x = vectors[first : first + WARM_UP + ATTACK]
        for guard in GUARDS:
            outcomes += [attack(x, names, guard, share, seed) for share in SHARES]
            shifts.append(shift(x, names, guard, seed))
    for guard in GUARDS:
        for share in SHARES:
            own = [o for o in outcomes if (o.guard, o.share) == (guard, share)]
            before, after, control = (
                np.array([getattr(o, key) for o in own]) for key in ("before", "after", "control")
            )
            caught = sum(o.attacker_alerts for o in own) / max(sum(o.attacker_events for o in own), 1)
            print(
                f"{guard:14} {share:.1%} before {before.mean():.4f} after {after.mean():.4f} ± {after.std():.4f} "
                f"control {control.mean():.4f} alerted {caught:.1%}"
            )
        moved = [s for s in shifts if s.guard == guard]
        print(
            f"{guard:14} shift: alerts on the third {np.mean([s.first_on_moved for s in moved]):.2f} at first, "
            f"{np.mean([s.on_moved for s in moved]):.2f} in the end ({np.mean([s.alerts for s in moved]):.0f} alerts)"
        )
    result = {"attack": [asdict(o) for o in outcomes], "shift": [asdict(s) for s in shifts]}
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
