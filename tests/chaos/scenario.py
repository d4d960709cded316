"""A scenario, what came of it, and playing one."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict, dataclass, field
from typing import Any

from confluent_kafka import KafkaException

from domain.errors import TidegateError
from tests.chaos.findings import Findings
from tests.chaos.judge import judge
from tests.chaos.services import Services
from tests.chaos.stage import Stage, Stuck
from tests.chaos.traffic import records

__all__ = ["Result", "Scenario", "play"]

SEED = 20261121


@dataclass(frozen=True, slots=True)
class Scenario:
    """A play with faults in it.

    ``act`` starts workers, feeds the events and does the damage; bringing everything to rest and judging is
    not its business. ``own``: servers that it breaks, so it gets its own. ``degraded_due``: it destroys data
    that nobody has a copy of, so verdicts must say so. ``short_events``: how many suffice when time is short (0: no
    fewer). ``telling``: whether it belongs to the short form of the suite.
    """

    name: str
    tells: str
    act: Callable[[Stage], None]
    events: int = 6_000
    partitions: int = 4
    own: frozenset[str] = field(default_factory=frozenset)
    degraded_due: bool = False
    short_events: int = 0
    telling: bool = False


@dataclass(frozen=True, slots=True)
class Result:
    """What came of a scenario; it is ``good`` when nothing is wrong and everything was shown."""

    name: str
    tells: str
    faults: int
    findings: Findings
    recovery_seconds: float | None
    recoveries: list[tuple[str, float]]
    rebuilt_events: int
    rebuilt_most: int
    seconds: float
    problems: list[str]

    @property
    def good(self) -> bool:
        """Whether it ended as promised."""
        return not self.problems and not self.findings.faults

    def as_json(self) -> dict[str, Any]:
        """For the report on disk."""
        return {**asdict(self), "good": self.good}


def play(scenario: Scenario, services: Services, *, short: bool = False, sabotage: str = "") -> Result:
    """Play one scenario on ``services`` (or its own) and judge it. Raises nothing that a fault can cause."""
    name = f"c{uuid.uuid4().hex[:8]}"
    began = time.monotonic()
    count = scenario.short_events if short and scenario.short_events else scenario.events
    directory = services.directory / name
    own = {"kafka": "kafka" in scenario.own, "redis": "redis" in scenario.own}
    with closing(services.own(directory, **own)) as used:
        traffic = records(count, SEED)
        with Stage.open(used, name, traffic, scenario.partitions, sabotage) as stage:
            findings = Findings()
            notes: list[str] = []
            try:
                _act(scenario, stage)
                stage.finish()
                findings, notes = judge(
                    stage.scene, stage.evidence(), degraded_due=scenario.degraded_due, seed=SEED
                )
            except (AssertionError, TidegateError, KafkaException) as error:
                stage.problems.append(f"{type(error).__name__}: {error}")
            recovered = stage.recovery_seconds()
            rebuilt = [int(line["rebuilt"]) for line in stage.logged("partition recovered")]
            problems = [*stage.problems, *notes]
            if problems:
                problems.append(f"logs: {directory}")
            return Result(
                name=scenario.name,
                tells=scenario.tells,
                faults=len(stage.faults),
                findings=findings,
                recovery_seconds=max((seconds for _, seconds in recovered), default=None),
                recoveries=recovered,
                rebuilt_events=sum(rebuilt),
                rebuilt_most=max(rebuilt, default=0),
                seconds=round(time.monotonic() - began, 1),
                problems=problems,
            )


def _act(scenario: Scenario, stage: Stage) -> None:
    """A play that does not come to its end is judged too: the numbers tell more than what it waited for."""
    try:
        scenario.act(stage)
    except Stuck as error:
        stage.problems.append(f"{type(error).__name__}: {error}")
        stage.feed()
