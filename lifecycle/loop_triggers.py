"""When a training is asked for: by schedule, by drift alarms; cool-down and repeats. People ask the registry itself.

What was asked for stands in the runs of the registry, and alarms are read again after a restart, so nothing else has
to be remembered. Times are stream time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from domain.durations import format_duration
from domain.errors import RegistryConflict
from domain.pipeline_retraining import Retraining
from lifecycle.loop_parts import Outcome, Step
from lifecycle.loop_steps import GUARD_TRIGGER
from lifecycle.registry import ModelRegistry, TrainingRun

__all__ = ["Alarm", "Triggers"]

MAX_ATTEMPTS = 6
"""Runs in a row for one change, as its labels mature: then only the schedule, a person or another alarm asks again."""
_OF_MODELS = ("score", "decision")
_SETTLES = 7 * 86_400_000_000
"""So long after a promotion alarms about scores and decisions tell of the new model, not of the world."""


_AGAIN = (Outcome.REFUSED, Outcome.PROMOTED, Outcome.UNCHANGED)


@dataclass(frozen=True, slots=True)
class Alarm:
    """What matters here of a drift alarm: something changed ``since``, noticed at ``raised_at``."""

    id: str
    column: str
    since: int
    raised_at: int


class Triggers:
    """Asks for runs; ``by`` is who the audit names."""

    def __init__(self, registry: ModelRegistry, rules: Retraining, by: str) -> None:
        self._registry = registry
        self._rules = rules
        self._by = by
        self._alarms: dict[str, Alarm] = {}

    def alarm(self, alarm: Alarm) -> None:
        """Take note of an alarm; the same one may come again."""
        self._alarms[alarm.id] = alarm

    def changed_since(self) -> int | None:
        """Since when things have last changed that no run has learned from yet; None: nothing has.

        Of several alarms the newest change counts: a model has to have seen what came after all of them, and an
        alarm about scores may tell of no more than the last promotion.
        """
        return max((alarm.since for alarm in self._unlearned(self._trainings())), default=None)

    def tick(self, now: int) -> TrainingRun | None:
        """Ask for a run when one is due and none is open."""
        runs = self._registry.runs(limit=100)
        if any(run.finished_at is None for run in runs):
            return None
        trainings = self._trainings()
        asked = max((_asked_at(run) for run in trainings), default=None)
        if asked is not None and now - asked < self._rules.cool_down:
            return None
        due = self._drift(trainings) or self._schedule(asked, now)
        if due is None:
            return None
        trigger, data = due
        try:
            return self._registry.start_run(trigger, by=self._by, data={**data, "at": now})
        except RegistryConflict:
            return None  # another trainer was quicker

    def _trainings(self) -> Sequence[TrainingRun]:
        return [run for run in self._registry.runs(limit=100) if run.trigger != GUARD_TRIGGER]

    def _unlearned(self, trainings: Sequence[TrainingRun]) -> list[Alarm]:
        """Alarms later than what the newest training has read, without those that a promotion explains."""
        learned = max((_as_of(run) for run in trainings), default=0)
        promotions = [int(run.data[Step.PROMOTED]["at"]) for run in trainings if Step.PROMOTED in run.data]
        return [
            alarm
            for alarm in self._alarms.values()
            if alarm.raised_at > learned
            and not (
                alarm.column in _OF_MODELS and any(0 <= alarm.raised_at - at < _SETTLES for at in promotions)
            )
        ]

    def _drift(self, trainings: Sequence[TrainingRun]) -> tuple[str, dict[str, object]] | None:
        if not self._rules.on_drift:
            return None
        alarms = self._unlearned(trainings)
        if alarms:
            newest = max(alarms, key=lambda alarm: (alarm.since, alarm.id))
            return "drift", {
                "since": newest.since,
                "alarms": sorted(alarm.id for alarm in alarms),
                "columns": sorted({alarm.column for alarm in alarms}),
                "attempt": 1,
            }
        last = trainings[0] if trainings else None
        if last is None or last.trigger != "drift" or last.outcome not in _AGAIN:
            return None
        attempt = int(last.data["requested"].get("attempt", 1))
        if attempt >= MAX_ATTEMPTS:
            return None
        # what was refused, or learned, rested on the few labels there were of what is new; now there are more
        return "drift", {**last.data["requested"], "attempt": attempt + 1}

    def _schedule(self, asked: int | None, now: int) -> tuple[str, dict[str, object]] | None:
        every = self._rules.schedule
        if every is None or (asked is not None and now - asked < every):
            return None
        return "schedule", {"every": format_duration(every)}


def _asked_at(run: TrainingRun) -> int:
    """When it was asked for; of a person's run, which knows no stream time, when its rows were chosen."""
    return int(run.data["requested"].get("at") or _as_of(run))


def _as_of(run: TrainingRun) -> int:
    return int(run.data.get(Step.PINNED, {}).get("plan", {}).get("as_of", 0))
