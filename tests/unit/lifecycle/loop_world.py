"""Workers, a stream and a registry for tests of the closed loop; no tests in here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from domain.clock import ManualClock
from domain.pipeline import Pipeline
from domain.pipeline_retraining import Retraining
from lifecycle.live import Seen
from lifecycle.loop_parts import LoopParts
from lifecycle.loop_steps import ClosedLoop
from lifecycle.registry import ModelRegistry, TrainingRun
from tests.unit.lifecycle.loop_stage import (
    FIT,
    HOUR,
    LEARNING,
    RULES,
    START,
    VAULT,
    MemoryLive,
    MemoryRows,
    seen,
)

LEASE = 60.0
NOTHING: Callable[[str], None] = lambda _: None  # noqa: E731


@dataclass
class World:
    """``flow`` is what workers would do: verdicts by the models in force, which here say nothing of interest
    unless ``behave`` is another function of (event number, version).
    """

    registry: ModelRegistry
    rows: MemoryRows
    clock: ManualClock
    rules: Retraining = RULES
    pipeline: Pipeline = LEARNING
    now: int = START
    log: list[Seen] = field(default_factory=list)
    published: list[int] = field(default_factory=list)
    behave: Callable[[int, str], float | None] = lambda i, version: 0.99 if i % 20 == 0 else 0.1
    alerts: Callable[[int, str], bool] = lambda i, decider: i % 20 == 0

    def trainer(self, owner: str = "t-1", at: Callable[[str], None] = NOTHING) -> ClosedLoop:
        """A trainer that starts now."""
        return ClosedLoop(
            LoopParts(
                pipeline=self.pipeline,
                rules=self.rules,
                registry=self.registry,
                rows=self.rows,
                live=MemoryLive(self.log, max(0, len(self.log) - 1)),
                vault=VAULT,
                owner=owner,
                code="test",
                publish=lambda: self.published.append(self.registry.state().epoch),
                lease_seconds=LEASE,
                fit=FIT,
                at=at,
            )
        )

    def flow(self, hours: int = 3, events: int = 150) -> None:
        """Verdicts of so many hours of the stream."""
        state = self.registry.state()
        versions = [version for version in (state.champion, state.challenger) if version is not None]
        for _ in range(events):
            i = len(self.log)
            self.now += hours * HOUR // events
            says = {version: self.behave(i, version) for version in versions}
            alert = self.alerts(i, state.champion or "own")
            self.log.append(
                seen(
                    self.now,
                    champion=state.champion,
                    challenger=state.challenger,
                    own=0.99 if i % 20 == 0 else 0.1,
                    says=says,
                    alert=alert,
                )
            )

    def drive(self, *trainers: ClosedLoop, ticks: int = 60) -> TrainingRun:
        """Let the trainers take turns, with traffic in between, until no run is open; the newest run."""
        for _ in range(ticks):
            for trainer in trainers:
                trainer.tick()
            if not self.registry.runs(only_open=True):
                return self.registry.runs(limit=1)[0]
            self.flow()
        waiting = [trainer.waiting for trainer in trainers]
        raise AssertionError(f"still open: {self.registry.runs(limit=1)[0]}\n{waiting}")

    def actions(self) -> Sequence[str]:
        """What the audit has of changes, in order."""
        return [record.action for record in self.registry.audit()]
