"""The closed loop proven by simulation: ``python -m benchmarks.loop`` (``make loop``).

A stream whose fraud changes its habits on one day goes through real workers, archiver, monitor and trainer, on a real
Kafka and Redis; days are compressed, nothing else is. The first model comes by the schedule, the second because of the
change. Told: the time line, and how well frauds were ranked before, during and after, by what decided (*loop*), by the
first model kept for ever (*frozen*) and by the pipeline's own detectors (*own*), all on the same events.

Then what must not take over: trainings on shuffled and on poisoned labels, and a model that ranks well but gives every
event a low score: it passes the gate, a person promotes it, and the guard undoes that. A control run, the same stream
without a change, counts alarms that are false.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.loop_stage import LoopStage
from benchmarks.loop_stream import DAY, LoopStream
from benchmarks.loop_trials import misbehaving, trials
from domain.batch import Floats
from domain.clock import from_micros
from lifecycle.evaluation import ranking
from tests.services import choose, running_kafka, running_redis

__all__ = ["Plan", "main", "run_changed", "run_control"]

RESULTS = Path(__file__).parent / "results" / "loop.json"
PIPELINE = Path(__file__).with_name("loop_pipeline.yaml")
START = 1_700_006_400_000_000
"""2023-11-15 00:00 UTC: long past, as events from the future are refused."""
RECOVERED = 0.95
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Plan:
    """Days of the simulation. ``chunks`` a day; monitors gather their reference in ``warm_up`` + ``reference``."""

    days: int = 38
    turn: float = 27.0
    chunks: int = 3
    per_day: int = 2_000
    warm_up: int = 8
    reference: int = 14
    seed: int = 0

    @property
    def watched_from(self) -> int:
        """The first day on which monitors compare: labels' reference is complete when its last day has matured."""
        return self.warm_up + self.reference + 4

    def settings(self) -> dict[str, str]:
        """Of the monitor."""
        return {
            "TIDEGATE_DRIFT_WARM_UP_DAYS": str(self.warm_up),
            "TIDEGATE_DRIFT_REFERENCE_DAYS": str(self.reference),
            "TIDEGATE_DRIFT_LABEL_MATURITY_DAYS": "2",
            "TIDEGATE_DRIFT_SIMULATIONS": "100",
        }


class _Chronicle:
    """Tells once what happened: runs, steps, states in force, alarms."""

    def __init__(self, stage: LoopStage, say: Say) -> None:
        self._stage, self._say = stage, say
        self._told: set[str] = set()
        self.lines: list[dict[str, Any]] = []

    def look(self) -> None:
        """Tell what is new; times are those of the stream."""
        for run in reversed(self._stage.registry.runs(limit=50)):
            for step in run.data:
                self._tell(f"{run.id} {step}", f"run {run.id} ({run.trigger}): {step}")
            if run.outcome is not None:
                why = f" ({run.error[:160]})" if run.error else ""
                self._tell(f"{run.id} ended", f"run {run.id} ended: {run.outcome}{why}")
        for state in reversed(self._stage.registry.history(limit=50)):
            text = f"champion {state.champion or 'own'}, challenger {state.challenger or 'none'}"
            self._tell(f"epoch {state.epoch}", f"epoch {state.epoch}: {text}")
        for alarm in self._stage.alarms():
            self._tell(alarm.id, f"drift alarm: {alarm.column}, since {from_micros(alarm.since):%m-%d %H:%M}")

    def _tell(self, key: str, text: str) -> None:
        if key in self._told:
            return
        self._told.add(key)
        day = (self._stage.now - START) / DAY
        self.lines.append({"day": round(day, 2), "what": text})
        self._say(f"day {day:5.2f}  {text}")


def feed(stage: LoopStage, stream: LoopStream, plan: Plan, days: range, chronicle: _Chronicle) -> None:
    """Feed whole days, looking around after every chunk."""
    for number in days:
        if number == plan.watched_from and "monitor" in stage.running:
            stage.until("the monitors watch", stage.watching)
        events = list(stream.day(number))
        size = -(-len(events) // plan.chunks)
        for first in range(0, len(events), size):
            stage.feed(events[first : first + size])
            chronicle.look()


def daily(stage: LoopStage, score: Floats, days: int) -> list[float]:
    """Average precision of each day."""
    times, fraud, _, _ = stage.collected.arrays()
    day = (times - START) // DAY
    return [ranking(score[day == d], fraud[day == d]).average_precision for d in range(days)]


def span(stage: LoopStage, score: Floats, first: float, last: float) -> float:
    """Average precision of the days from ``first`` until before ``last``."""
    times, fraud, _, _ = stage.collected.arrays()
    which = (times >= START + first * DAY) & (times < START + last * DAY)
    return float(ranking(score[which], fraud[which]).average_precision)


def first_model(stage: LoopStage) -> str | None:
    """The first champion that there was."""
    for state in reversed(stage.registry.history(limit=1000)):
        if state.champion is not None:
            return state.champion
    return None


def frozen(stage: LoopStage, version: str | None) -> Floats:
    """What would have decided had the first model been the last: its scores from its promotion on."""
    _, _, score, own = stage.collected.arrays()
    if version is None:
        return own
    model = stage.vault.open(stage.registry.artefact(version), stage.pipeline.name)
    said = model.score(np.array(stage.collected.x), np.array(stage.collected.ranks)).score
    began = next(i for i, champion in enumerate(stage.collected.champion) if champion == version)
    return np.where(np.arange(len(score)) >= began, said, own)


def run_changed(stage: LoopStage, plan: Plan, say: Say) -> dict[str, Any]:
    """The stream with the change, then the trials."""
    stream = LoopStream(START, plan.per_day, turn=plan.turn, seed=plan.seed)
    chronicle = _Chronicle(stage, say)
    feed(stage, stream, plan, range(plan.days), chronicle)
    _, _, score, own = stage.collected.arrays()
    first = first_model(stage)
    contestants = {"loop": score, "frozen": frozen(stage, first), "own": own}
    change = START + round(plan.turn * DAY)
    # an alarm that dates its change a day or more before the change has seen something else
    alarms = [a for a in stage.alarms() if a.raised_at >= change and a.since >= change - DAY]
    before_alarm = [alarm for alarm in stage.alarms() if alarm.raised_at < change]
    settled = plan.turn - 6
    before = {name: span(stage, s, settled, plan.turn) for name, s in contestants.items()}
    days = {name: daily(stage, s, plan.days) for name, s in contestants.items()}
    recovered = recovery(days["loop"], before["loop"], plan)
    until = plan.turn + recovered if recovered is not None else plan.days
    windows = {"before": (settled, plan.turn), "during": (plan.turn, until), "after": (until, plan.days)}
    precision = {
        name: {
            when: span(stage, s, *window) if window[0] < window[1] else None
            for when, window in windows.items()
        }
        for name, s in contestants.items()
    }
    raised = min((alarm.raised_at for alarm in alarms), default=None)
    refused = trials(stage, say)
    bad = misbehave(stage, stream, plan, chronicle, say)
    times = stage.collected.arrays()[0]
    return {
        "alarms": [
            {
                "column": a.column,
                "raised_day": (a.raised_at - START) / DAY,
                "since_day": (a.since - START) / DAY,
            }
            for a in stage.alarms()
        ],
        "alarms_before_the_change": len(before_alarm),
        "alarms_of_something_else": sum(
            1 for a in stage.alarms() if a.raised_at >= change and a.since < change - DAY
        ),
        "delay_events": None if raised is None else int(((times >= change) & (times < raised)).sum()),
        "delay_days": None if raised is None else (raised - change) / DAY,
        "recovered_after_days": recovered,
        "average_precision": precision,
        "daily_average_precision": days,
        "refused": refused,
        "misbehaving": bad,
        "runs": [
            {"id": r.id, "trigger": r.trigger, "outcome": r.outcome, "error": r.error}
            for r in reversed(stage.registry.runs(limit=50))
        ],
        "audit_broken": stage.registry.verify_audit() is not None,
        "time_line": chronicle.lines,
    }


def recovery(days: Sequence[float], before: float, plan: Plan) -> float | None:
    """Days from the change until the first of two days in a row on which ranking was nearly as good as before."""
    first = int(plan.turn) + 1
    for day in range(first, plan.days - 1):
        if min(days[day], days[day + 1]) >= RECOVERED * before:
            return day - plan.turn
    return None


def misbehave(
    stage: LoopStage, stream: LoopStream, plan: Plan, chronicle: _Chronicle, say: Say
) -> dict[str, Any]:
    """Promote a model that passes the gate and gives every event a low score; feed on until it is undone."""
    version, passed = misbehaving(stage)
    state = stage.registry.state()
    stage.registry.promote(version, epoch=state.epoch, reason="looks good", by="a person", force=True)
    promoted, began = stage.now, time.monotonic()
    number = plan.days
    feed_until = number + 4
    while number < feed_until:
        feed(stage, stream, plan, range(number, number + 1), chronicle)
        number += 1
        if stage.registry.model(version).stage == "rolled_back":
            break
    chronicle.look()
    rolled_back = stage.registry.model(version).stage == "rolled_back"
    say(
        f"the misbehaving model {version}: gate {'passed' if passed else 'refused'}, rolled back: {rolled_back}"
    )
    decided = sum(1 for v in stage.collected.champion if v == version)
    return {
        "passed_the_gate": passed,
        "rolled_back": rolled_back,
        "reason": stage.registry.model(version).reason,
        "events_it_decided": decided,
        "stream_days": (stage.now - promoted) / DAY,
        "seconds": round(time.monotonic() - began, 1),
    }


def run_control(stage: LoopStage, plan: Plan, say: Say) -> dict[str, Any]:
    """The same stream without a change: alarms are false."""
    chronicle = _Chronicle(stage, say)
    feed(stage, LoopStream(START, plan.per_day, seed=plan.seed), plan, range(plan.days), chronicle)
    watched = plan.days - plan.watched_from
    alarms = stage.alarms()
    return {
        "false_alarms": len(alarms),
        "columns": [alarm.column for alarm in alarms],
        "watched_days": watched,
        "declared_per_30_days": stage.settings.drift_false_alarms,
        "runs": [
            {"id": r.id, "trigger": r.trigger, "outcome": r.outcome}
            for r in reversed(stage.registry.runs(limit=50))
        ],
    }


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Run, print the time line, write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--days", type=int, default=Plan().days)
    parser.add_argument(
        "--seed", type=int, default=Plan().seed, help="of the stream: other customers, other frauds"
    )
    parser.add_argument("--no-control", action="store_true", help="leave the stationary stream out")
    parser.add_argument("--json", type=Path, default=RESULTS, help="where the results go")
    given = parser.parse_args(arguments)
    plan = replace(Plan(), days=given.days, seed=given.seed)

    def say(text: str) -> None:
        print(text, flush=True)

    began = time.monotonic()
    kind = choose()
    results: dict[str, Any] = {
        "plan": plan.settings() | {"days": plan.days, "turn": plan.turn, "seed": plan.seed},
        "services": kind,
    }
    with (
        tempfile.TemporaryDirectory(prefix="tidegate-loop-") as folder,
        running_kafka(kind, Path(folder) / "kafka") as kafka,
        running_redis(kind, Path(folder) / "redis") as redis,
    ):
        stages: Mapping[str, Callable[[LoopStage, Plan, Say], dict[str, Any]]] = {
            "changed": run_changed,
            **({} if given.no_control else {"control": run_control}),
        }
        for name, run in stages.items():
            say(f"== the {name} stream: {plan.days} days of {plan.per_day:,} events")
            directory = Path(folder) / name
            with LoopStage(
                directory, kafka, redis, f"loop-{name}", PIPELINE, threads=False, settings=plan.settings()
            ) as stage:
                results[name] = run(stage, plan, say)
    results["seconds"] = round(time.monotonic() - began)
    given.json.parent.mkdir(parents=True, exist_ok=True)
    given.json.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    shown = {
        name: {k: v for k, v in part.items() if k not in ("time_line", "daily_average_precision")}
        if isinstance(part, dict)
        else part
        for name, part in results.items()
    }
    print(json.dumps(shown, indent=1))
    return results


if __name__ == "__main__":
    main()
