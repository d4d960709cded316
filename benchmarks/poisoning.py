"""How far can an attacker teach the online detectors that his fraud is usual, and what do guards change?

Honest traffic is the Fraud Detection Handbook's features in their order. After a warm-up an attacker sends a share of
the events: they begin as usual ones and move step by step to the fraud that he wants to pass (three features beyond the
greatest value seen, as far again as it is from the median), then stay there for as long. Told: the score of that
fraud before and after, and how many of the attacker's events were alerts on the way.

Two ways to play it. ``service`` and ``service_unguarded`` are the ensemble of a pipeline, with ``teach_per_entity`` as
it is by default and off; all events have the accounts they really have, the attacker has five. The others, detectors,
ranks and a budget by hand, led there. ``none``: every event is learned. ``skip_high``: the detectors do not learn what
scores 0.99 or more. ``tenth_of_high``: they learn a tenth of that, at random. ``cap_detectors``: they learn of one
account one event in 2,000; the attacker has five accounts, honest ones are taken not to reach the cap. ``cap_all``: nor
do the ranks, against which others are judged, count what lies above the cap.

A guard must not make the detectors blind for honest change: in ``shift``, a third of the honest traffic moves for good
(one feature by three times the width of its usual range, from all accounts). Told: which share of the alerts fell
on that third, in the first and last 10,000 events of 30,000 (a third would be just).
Run: ``python -m benchmarks.poisoning``.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

import msgspec
import numpy as np
import numpy.typing as npt

from benchmarks.plain import DETECTORS, handbook_cards, plain_pipeline
from detectors.budget import AlertBudgets
from detectors.ensemble import Ensemble
from detectors.kinds import build
from detectors.ranks import RankTable
from domain.batch import Floats, Ints
from domain.pipeline import Guards

RESULTS = Path(__file__).parent / "results" / "poisoning.json"
WARM_UP, ATTACK, BATCH = 30_000, 30_000, 100
SERVICE = ("service_unguarded", "service")
GUARDS = ("none", "skip_high", "tenth_of_high", "cap_detectors", "cap_all", *SERVICE)
SHARES = (0.0, 0.002, 0.01, 0.05)
ACCOUNTS, CAP = 5, 2_000
HIGH = 0.99
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Outcome:
    """Of one guard, one share of the attacker (0: the control) and one seed."""

    guard: str
    share: float
    seed: int
    before: float
    after: float
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


class Player(Protocol):
    """What attacks and shifts are played against."""

    def score(self, x: Floats) -> Floats:
        """The score of each row if it came next."""
        ...

    def step(self, x: Floats, account: Ints) -> Bools:
        """Which of a batch are alerts; ``account``: from 0 on those of the attacker, below the others'."""
        ...


class Service:
    """The ensemble of a pipeline, its guard on or off."""

    def __init__(self, guarded: bool, names: tuple[str, ...], seed: int) -> None:
        pipeline = plain_pipeline(names, seed)
        off = msgspec.structs.replace(pipeline, guards=Guards(teach_per_entity=None))
        self._ensemble = Ensemble(pipeline if guarded else off)

    def score(self, x: Floats) -> Floats:
        """The score of each row if it came next."""
        return self._ensemble.score(x).score

    def step(self, x: Floats, account: Ints) -> Bools:
        """Which of a batch are alerts."""
        guard = self._ensemble.guard
        may = None if guard is None else guard.admit([str(one) for one in account.tolist()])
        alerts: Bools = self._ensemble.step(x, (), may).reached > 0
        return alerts


class Learner:
    """The detectors, ranks and budget of an ensemble, whose detectors do not learn everything."""

    def __init__(self, guard: str, names: tuple[str, ...], seed: int) -> None:
        self._detectors = [build(spec, names, seed) for spec in DETECTORS]
        self._tables = [RankTable() for _ in DETECTORS]
        self._final = RankTable()
        self._budget = AlertBudgets([(1, 0.005)])
        self._guard = guard
        self._rng = np.random.default_rng(seed)
        self._rows = 0
        self._last: dict[int, int] = {}

    def score(self, x: Floats) -> Floats:
        """The score of each row if it came next."""
        ranks = [t.rank(d.score(x)) for d, t in zip(self._detectors, self._tables, strict=True)]
        return self._final.rank(np.mean(ranks, axis=0))

    def step(self, x: Floats, account: Ints) -> Bools:
        """Which of a batch are alerts; honest accounts, below 0, are taken not to reach the cap."""
        high = self.score(x) >= HIGH
        learn = np.ones(len(x), dtype=np.bool_)
        if self._guard == "skip_high":
            learn &= ~high
        elif self._guard == "tenth_of_high":
            learn &= ~high | (self._rng.random(len(x)) < 0.1)
        elif self._guard in ("cap_detectors", "cap_all"):
            for row in np.flatnonzero(account >= 0).tolist():
                now, name = self._rows + row, int(account[row])
                if now - self._last.get(name, -CAP) < CAP:
                    learn[row] = False
                elif learn[row]:
                    self._last[name] = now
        self._rows += len(x)
        count = learn if self._guard == "cap_all" else np.ones(len(x), dtype=np.bool_)
        ranks = []
        for detector, table in zip(self._detectors, self._tables, strict=True):
            raw = detector.score(x)
            ranks.append(_counted(table, raw, count))
            detector.step(x[learn])
        score = _counted(self._final, np.mean(ranks, axis=0), count)
        alerts: Bools = self._budget.step(score) > 0
        return alerts


def _counted(table: RankTable, values: Floats, count: Bools) -> Floats:
    """Ranks of all values, of which only some are remembered."""
    ranks = table.rank(values)
    ranks[count] = table.step(values[count])
    return ranks


def target_of(x: Floats) -> Floats:
    """The fraud: usual but for three features far beyond everything."""
    fraud: Floats = np.median(x, axis=0)
    spread = np.ptp(x, axis=0) > 2.0
    chosen = np.flatnonzero(spread)[[0, 1, 3]]
    fraud[chosen] = 2.0 * x[:, chosen].max(axis=0) - fraud[chosen]
    return fraud


def player(guard: str, names: tuple[str, ...], seed: int) -> Player:
    """What is called ``guard``."""
    return Service(guard == "service", names, seed) if guard in SERVICE else Learner(guard, names, seed)


def attack(x: Floats, cards: Ints, names: tuple[str, ...], guard: str, share: float, seed: int) -> Outcome:
    """Play warm-up and attack; ``cards``: below 0, the accounts of the honest rows."""
    rng = np.random.default_rng(seed)
    learner = player(guard, names, seed)
    honest = x[:WARM_UP]
    for at in range(0, WARM_UP, BATCH):
        learner.step(honest[at : at + BATCH], cards[at : at + BATCH])
    fraud = target_of(honest)
    before = float(learner.score(fraud[None])[0])
    sent = alerts = 0
    for at in range(WARM_UP, WARM_UP + ATTACK, BATCH):
        part = x[at : at + BATCH].copy()
        mine = rng.random(BATCH) < share
        progress = min(1.0, 2.0 * (at - WARM_UP) / ATTACK)
        start = honest[rng.integers(0, WARM_UP, int(mine.sum()))]
        part[mine] = (1.0 - progress) * start + progress * fraud * rng.normal(1.0, 0.01, (len(start), 1))
        reached = learner.step(part, np.where(mine, rng.integers(0, ACCOUNTS, BATCH), cards[at : at + BATCH]))
        sent += int(mine.sum())
        alerts += int(reached[mine].sum())
    return Outcome(guard, share, seed, before, float(learner.score(fraud[None])[0]), sent, alerts)


def shift(x: Floats, cards: Ints, names: tuple[str, ...], guard: str, seed: int) -> Shift:
    """Play honest traffic of which a third changes for good."""
    rng = np.random.default_rng(seed)
    learner = player(guard, names, seed)
    low, high = np.quantile(x[:WARM_UP, 0], (0.05, 0.95))
    told: list[tuple[bool, bool]] = []
    for at in range(0, WARM_UP + ATTACK, BATCH):
        part = x[at : at + BATCH].copy()
        moved = (rng.random(BATCH) < 1 / 3) & (at >= WARM_UP)
        part[moved, 0] += 3.0 * (high - low)
        reached = learner.step(part, cards[at : at + BATCH])
        if at >= WARM_UP:
            told += zip(moved.tolist(), reached.tolist(), strict=True)
    both = np.array(told)
    first, last = both[:10_000], both[-10_000:]
    alerts = int(last[:, 1].sum())
    on_moved = float(last[last[:, 1], 0].mean()) if alerts else float("nan")
    return Shift(guard, seed, alerts, on_moved, float(first[first[:, 1], 0].mean()))


def main() -> None:
    """Measure, print, write benchmarks/results/poisoning.json (what is not measured stays as it was)."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--guards", nargs="+", choices=GUARDS, default=GUARDS)
    arguments = parser.parse_args()
    (names, vectors, _, _), owners = handbook_cards()
    outcomes, shifts = [], []
    for seed in range(1, arguments.seeds + 1):
        first = (seed - 1) * (len(vectors) - WARM_UP - ATTACK) // max(arguments.seeds - 1, 1)
        part = slice(first, first + WARM_UP + ATTACK)
        x, cards = vectors[part], -1 - owners[part]
        for guard in arguments.guards:
            outcomes += [attack(x, cards, names, guard, share, seed) for share in SHARES]
            shifts.append(shift(x, cards, names, guard, seed))
    for guard in arguments.guards:
        tell(guard, outcomes, shifts)
    stored = json.loads(RESULTS.read_text()) if RESULTS.exists() else {"attack": [], "shift": []}
    result = {
        kind: [one for one in stored[kind] if one["guard"] not in arguments.guards]
        + [asdict(o) for o in found]
        for kind, found in (("attack", outcomes), ("shift", shifts))
    }
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(result, indent=2) + "\n")


def tell(guard: str, outcomes: Sequence[Outcome], shifts: Sequence[Shift]) -> None:
    """Print what was measured of a guard."""
    for share in SHARES:
        own = [o for o in outcomes if (o.guard, o.share) == (guard, share)]
        before, after = (np.array([getattr(o, key) for o in own]) for key in ("before", "after"))
        caught = sum(o.attacker_alerts for o in own) / max(sum(o.attacker_events for o in own), 1)
        print(
            f"{guard:17} {share:.1%} before {before.mean():.4f} ± {before.std():.4f} "
            f"after {after.mean():.4f} ± {after.std():.4f} alerted {caught:.1%}"
        )
    moved = [s for s in shifts if s.guard == guard]
    print(
        f"{guard:17} shift: alerts on the third {np.mean([s.first_on_moved for s in moved]):.2f} at first, "
        f"{np.mean([s.on_moved for s in moved]):.2f} in the end ({np.mean([s.alerts for s in moved]):.0f} alerts)"
    )


if __name__ == "__main__":
    main()
