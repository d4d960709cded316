"""How long until drift is told, and how often is it told though there is none?

Synthetic traffic with days, weeks and memory (an hour's level follows the hours before it): six columns and about
40 events an hour. Per seed: a reference of four weeks, calibrated to one false alarm in 30 days over all columns and
monitors together; then 60 days without drift (the control), and, from a day in them on, ten days of each kind of
drift:

abrupt      the mean of ``amount`` moves by 0.5 of its standard deviation, at once
small       the same by 0.25
gradual     the same by 0.5, in a week
recurring   by 0.75, two days of seven
missing     one value in ten is missing
rate        twice as many decisions are alerts

Told, for all monitors together (``family``, with cool-down: what the service does) and for each kind alone: false
alarms in 30 days of the control; the share of seeds in which drift was told within the ten days, and the median delay.
Only alarms about the column that moved count as told. Beside each a *dummy* that fires at random as often as it
falsely does (the family's: as often as declared), and is taken to name the right column. ``psi_0.2`` is the rule of
thumb that a PSI above 0.2 is drift. ``river_*`` are River's classes with their defaults on ``amount``, event by event,
in the first ten days of the control (KSWIN: two). A successor of the reference is not gathered here.

Run: ``python -m benchmarks.drift`` (``make bench-drift``); the same seeds give the same file.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from river import drift as river_drift

from domain.batch import Floats
from lifecycle.drift.bank import Bank, Rule
from lifecycle.drift.paths import KINDS
from lifecycle.drift.settings import DAY, HOUR, MONTH, Cadence

RESULTS = Path(__file__).parent / "results" / "drift.json"
COLUMNS = ("amount", "count", "night", "level", "score", "decision")
SCENARIOS = ("abrupt", "small", "gradual", "recurring", "missing", "rate")
CONTROL_DAYS, DRIFT_DAYS, RIVER_DAYS = 60, 10, 10
RULE_OF_THUMB = 0.2
River: Any = river_drift


@dataclass(frozen=True, slots=True)
class Plan:
    """What is simulated; tests use a smaller one."""

    cadence: Cadence = field(default_factory=lambda: Cadence.hourly(warm_up_days=2))
    simulations: int = 200
    control_days: int = CONTROL_DAYS
    drift_days: int = DRIFT_DAYS
    river_days: int = RIVER_DAYS
    scenarios: tuple[str, ...] = SCENARIOS
    per_month: float = 1.0


def hour_of(cell: int, seed: int, level: float, scenario: str | None, since: int) -> Floats:
    """The events of an hour, float64[n, columns]; ``since`` is the cell in which drift began."""
    rng = np.random.default_rng([seed, cell])
    day, week = 2 * np.pi * cell / 24, (cell // 24) % 7
    weekend = week >= 5
    n = rng.poisson(40 * (1.0 + 0.6 * np.sin(day)) * (0.6 if weekend else 1.0))
    amount = rng.normal(0.3 * np.sin(day) + 0.2 * weekend + 0.05 * level, 1.0, n)
    count = rng.poisson(2.0 + np.sin(day + 1.0), n).astype(np.float64)
    night = (rng.random(n) < 0.2 - 0.15 * np.sin(day)).astype(np.float64)
    wander = rng.normal(0.15 * level, 1.0, n)
    score = rng.beta(2.0, 5.0, n)
    decision = (rng.random(n) < 0.02).astype(np.float64)
    passed = cell - since
    if scenario in ("abrupt", "small"):
        amount += 0.5 if scenario == "abrupt" else 0.25
    elif scenario == "gradual":
        amount += 0.5 * min(1.0, passed / (7 * 24))
    elif scenario == "recurring":
        amount += 0.75 * ((passed // 24) % 7 < 2)
    elif scenario == "missing":
        amount[rng.random(n) < 0.1] = np.nan
    elif scenario == "rate":
        decision = np.maximum(decision, rng.random(n) < 0.02)
    with np.errstate(over="raise"):
        return np.column_stack([np.exp(amount), count, night, wander, score, decision])


def levels_of(count: int, seed: int) -> Floats:
    """What the hours remember: an autoregression that forgets half in seven hours."""
    rng = np.random.default_rng([seed, 1_000_003])
    noise = rng.normal(0.0, 1.0, count)
    out = np.empty(count)
    level = 0.0
    for at in range(count):
        level = 0.9 * level + np.sqrt(1.0 - 0.81) * noise[at]
        out[at] = level
    return out


class Traffic:
    """One seed's traffic, hour by hour."""

    def __init__(self, seed: int, cells: int) -> None:
        self._seed = seed
        self._levels = levels_of(cells, seed)

    def play(
        self, bank: Bank, first: int, last: int, scenario: str | None = None, since: int = 0
    ) -> Iterator[tuple[int, list[int]]]:
        """Give ``bank`` the cells ``first`` to ``last`` (exclusive); after each: the cell, columns that alarmed."""
        for cell in range(first, last):
            x = self.hour(cell, scenario, since)
            keys = np.random.default_rng([self._seed, cell, 1]).integers(0, 2**63, len(x)).astype(np.uint64)
            bank.add(np.full(len(x), cell, dtype=np.int64), keys, x)
            moved = bank.close_until(cell + 1)
            if bank.watch is not None:
                bank.gathering = None
            yield cell, [one.column for one in moved]

    def hour(self, cell: int, scenario: str | None = None, since: int = 0) -> Floats:
        """The events of one hour."""
        return hour_of(cell, self._seed, float(self._levels[cell]), scenario, since)


class Counter:
    """Who said what when: the family, each kind alone (with the same cool-down), the rule of thumb."""

    def __init__(self, cool_down: int) -> None:
        self.alarms: dict[str, list[tuple[int, int]]] = {name: [] for name in ("family", *KINDS, "psi_0.2")}
        self._last: dict[tuple[str, int], int] = {}
        self._before: dict[tuple[str, int], bool] = {}
        self._cool_down = cool_down

    def look(self, bank: Bank, cell: int, moved: list[int]) -> None:
        """After the cell is closed."""
        self.alarms["family"] += [(cell, column) for column in moved]
        watch = bank.watch
        assert watch is not None
        newest, thresholds = watch.statistics[-1], watch.reference.calibration.thresholds
        for column in range(len(newest)):
            for place, kind in enumerate(KINDS):
                value = newest[column, place]
                # ADWIN only has a value when it fires
                self._note(kind, column, cell, bool(value > thresholds[column, place]))
            self._note("psi_0.2", column, cell, bool(newest[column, 0] > RULE_OF_THUMB))

    def _note(self, name: str, column: int, cell: int, over: bool) -> None:
        key = (name, column)
        news = over and not self._before.get(key, False)
        self._before[key] = over
        if news and cell - self._last.get(key, -self._cool_down) >= self._cool_down:
            self._last[key] = cell
            self.alarms[name].append((cell, column))


def measure(seed: int, plan: Plan) -> dict[str, Any]:
    """One seed: alarms of the control by name, and of each scenario the delay in hours by name (None: not told)."""
    cadence = plan.cadence
    begin = cadence.warm_up + cadence.reference
    change = begin + 24 * (10 + seed % 10) if plan.control_days >= 20 else begin + 24
    traffic = Traffic(seed, begin + 24 * (plan.control_days + plan.drift_days) + 24 * 20)
    rule = Rule(per_month=plan.per_month, simulations=plan.simulations, cool_down=7 * DAY, seed=seed)
    cool_down = rule.cool_down // HOUR

    def fresh() -> Bank:
        return Bank(len(COLUMNS), cadence, rule)

    bank = fresh()
    for _ in traffic.play(bank, 0, begin):
        pass
    saved = _saved(bank)
    control = Counter(cool_down)
    at_change = saved
    for cell, moved in traffic.play(bank, begin, begin + 24 * plan.control_days):
        control.look(bank, cell, moved)
        if cell == change - 1:
            at_change = _saved(bank)
    delays: dict[str, dict[str, int | None]] = {}
    for scenario in plan.scenarios:
        bank = _revived(fresh(), at_change)
        assert bank.watch is not None
        # what was told before the change must not silence what comes after it
        for column in bank.watch.columns:
            column.alarmed = None
        counter = Counter(cool_down)
        for cell, moved in traffic.play(bank, change, change + 24 * plan.drift_days, scenario, change):
            counter.look(bank, cell, moved)
        # an alarm about another column is a false one, and no detection
        column_moved = COLUMNS.index("decision" if scenario == "rate" else "amount")
        delays[scenario] = {
            name: min((cell - change + 1 for cell, column in told if column == column_moved), default=None)
            for name, told in counter.alarms.items()
        }
    return {
        "control": {name: len(told) for name, told in control.alarms.items()} | _river(traffic, begin, plan),
        "delays": delays,
    }


def _saved(bank: Bank) -> bytes:
    from detectors.arrays import pack
    from lifecycle.drift.state import snapshot_bank

    return pack(snapshot_bank(bank))


def _revived(bank: Bank, state: bytes) -> Bank:
    from detectors.arrays import unpack
    from lifecycle.drift.state import restore_bank

    restore_bank(bank, unpack(state))
    return bank


def _river(traffic: Traffic, begin: int, plan: Plan) -> dict[str, int]:
    monitors = {
        "river_adwin": River.ADWIN(),
        "river_page_hinkley": River.PageHinkley(),
        "river_kswin": River.KSWIN(seed=1),
    }
    fired = dict.fromkeys(monitors, 0)
    for cell in range(begin, begin + 24 * plan.river_days):
        for value in traffic.hour(cell)[:, 0].tolist():
            for name, monitor in monitors.items():
                # a KSWIN test takes a millisecond: the first two days only
                if name == "river_kswin" and cell >= begin + 48:
                    continue
                monitor.update(value)
                fired[name] += bool(monitor.drift_detected)
    return fired


def summary(runs: list[dict[str, Any]], plan: Plan) -> dict[str, Any]:
    """Rates and delays over all seeds, with the dummies."""
    months = len(runs) * plan.control_days * DAY / MONTH
    rows: dict[str, Any] = {}
    rng = np.random.default_rng(17)
    for name in runs[0]["delays"][plan.scenarios[0]]:
        false = sum(run["control"][name] for run in runs)
        rate = plan.per_month if name == "family" else false / months
        # in each of as many seeds, the hour in which something that fires at that rate does so first
        first = rng.exponential(30 * 24 / rate, 2_000) if rate else np.full(2_000, np.inf)
        window = 24 * plan.drift_days
        rows[name] = {
            "false_alarms": false,
            "false_per_30_days": round(false / months, 3),
            "delays": {
                scenario: _told([run["delays"][scenario][name] for run in runs])
                for scenario in plan.scenarios
            },
            "dummy": {
                "rate_per_30_days": round(rate, 3),
                "told": round(float((first <= window).mean()), 3),
                "median_hours": round(float(np.median(first[first <= window])), 1)
                if (first <= window).any()
                else None,
            },
        }
    rivers = {
        name: {
            "false_per_30_days": round(
                sum(run["control"][name] for run in runs) / len(runs) * 30 / max(days, 1), 1
            )
        }
        for name, days in (
            ("river_adwin", plan.river_days),
            ("river_page_hinkley", plan.river_days),
            ("river_kswin", min(2, plan.river_days)),
        )
    }
    return {"monitors": rows, "river_defaults_event_by_event": rivers, "control_months": months}


def _told(delays: list[int | None]) -> dict[str, Any]:
    known = [delay for delay in delays if delay is not None]
    # hours; a seed in which it was not told counts as later than all others
    ordered = sorted([*known, *([10**9] * (len(delays) - len(known)))])
    median = ordered[(len(ordered) - 1) // 2]
    return {"told": round(len(known) / len(delays), 3), "median_hours": None if median == 10**9 else median}


def main() -> None:
    """Measure, print, write benchmarks/results/drift.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first-seed", type=int, default=1)
    parser.add_argument("--json", type=Path, default=RESULTS, help="where the results go")
    arguments = parser.parse_args()
    plan = Plan()
    runs = []
    for seed in range(arguments.first_seed, arguments.first_seed + arguments.seeds):
        runs.append(measure(seed, plan))
        print(f"seed {seed}: control {runs[-1]['control']}", flush=True)
    result = {
        "seeds": arguments.seeds,
        "first_seed": arguments.first_seed,
        "declared_per_30_days": plan.per_month,
        "columns": COLUMNS,
        **summary(runs, plan),
        "runs": runs,
    }
    for name, row in result["monitors"].items():
        told = " ".join(f"{s} {d['told']:.0%}/{d['median_hours']}h" for s, d in row["delays"].items())
        print(f"{name:13} false {row['false_per_30_days']:.2f}  {told}  dummy {row['dummy']}")
    arguments.json.parent.mkdir(exist_ok=True)
    arguments.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
