"""The closed loop as a state machine over the registry: each tick does at most one step of the open run.

requested -> pinned -> trained -> gated -> shadowing -> promoted, and then the run ends (:class:`Outcome`). A step
first changes the registry in a way that may be repeated, then notes in the run that it is done; so whoever dies
between the two, or after either, is followed by somebody who does the same once more. Two trainers exclude each other
by the run's lease, and where a lease was lost in the middle of a step by the registry's epoch and the run's revision.
Times are stream time, that is, the newest event time among live verdicts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import msgspec
import structlog

from detectors.trained_model import TrainedModel
from domain.errors import ArtefactRefused, Fatal, RegistryConflict, TooFewLabels
from domain.examples import Examples
from lifecycle.examination import examine, model_card
from lifecycle.guard import guard_finding
from lifecycle.lineage import manifest_of
from lifecycle.live import OWN, LiveTally, Side, alert_share
from lifecycle.loop_parts import LoopParts, Outcome, Step
from lifecycle.registry import ModelCard, RegistryState, Stage, TrainingRun
from lifecycle.shadow import shadow_finding
from lifecycle.training import TrainingPlan, enough, plan_training, read_rows, train

__all__ = ["GUARD_TRIGGER", "ClosedLoop"]

_LOG = structlog.get_logger(__name__)
GUARD_TRIGGER = "promotion"
"""The trigger of a run that trains nothing, but guards what a person has promoted."""


class ClosedLoop:
    """Carries the open run on. Not safe to share between threads; several processes may each have one."""

    def __init__(self, parts: LoopParts) -> None:
        self._parts = parts
        self._registry = parts.registry
        self._rules = parts.rules
        self._rows: tuple[TrainingPlan, Examples] | None = None
        self._following: tuple[str, str] | None = None
        self._published = -1
        self._guarded = -1
        self.changed_since: int | None = None
        """Since when things have changed, as alarms say that no run has learned from; its driver sets it."""
        self.waiting = ""
        """Why the open run does not go on; empty when it does, or there is none."""
        self.tally = LiveTally(alert_share(parts.pipeline))
        self._steps: dict[str, Callable[[TrainingRun], None]] = {
            Step.REQUESTED: self._pin,
            Step.PINNED: self._train,
            Step.TRAINED: self._gate,
            Step.GATED: self._challenge,
            Step.SHADOWING: self._shadow,
            Step.PROMOTED: self._guard,
        }

    @property
    def now(self) -> int | None:
        """Stream time, None before the first verdict."""
        return self.tally.now

    def tick(self) -> bool:
        """Read live verdicts, publish what changed, do one step. Whether the run went on.

        Raises RegistryUnavailable, OfflineUnavailable and whatever ``publish`` raises: call again.
        """
        self.tally.add(self._parts.live.read())
        self._publish()
        run = next(iter(self._registry.runs(only_open=True, limit=1)), None)
        if self.now is None:
            self.waiting = "" if run is None else "no verdict came yet"
            return False
        try:
            if run is None:
                return self._guard_unguarded()
            held = self._registry.claim_run(run.id, self._parts.owner, self._parts.lease_seconds)
            if held is None:
                self.waiting = "another trainer holds the run"
                return False
            self._follow(held)
            self.waiting = ""
            self._step(held)
        except RegistryConflict as conflict:
            # somebody else was first: what is true now shows at the next tick
            _LOG.info("the registry changed meanwhile", conflict=conflict.message)
            return False
        finally:
            self._publish()
        return not self.waiting

    def _step(self, run: TrainingRun) -> None:
        try:
            self._steps[run.step](run)
        except (ValueError, Fatal) as error:
            if run.step in (Step.GATED, Step.SHADOWING, Step.PROMOTED):
                raise
            # the next try would end the same way; people read why in the run
            self._finish(run, Outcome.FAILED, str(error))

    def _publish(self) -> None:
        epoch = self._registry.state().epoch
        if epoch != self._published:
            self._parts.at("before publish")
            self._parts.publish()
            self._published = epoch

    def _guard_unguarded(self) -> bool:
        """Open a run for a promotion that no run has made: a person's is guarded too."""
        state = self._registry.state()
        if state.champion is None or state.epoch == self._guarded:
            return False
        put, undone = self._put_in_force(state)
        watched = {run.data.get(Step.PROMOTED, {}).get("epoch") for run in self._registry.runs(limit=100)}
        if undone or put.epoch in watched:
            self._guarded = state.epoch
            return False
        self._registry.start_run(
            GUARD_TRIGGER, by=self._by, data={"at": self._stream_time(), "version": state.champion}
        )
        self._parts.at("guard run started")
        return True

    def _put_in_force(self, state: RegistryState) -> tuple[RegistryState, bool]:
        """The change that made the present champion one, and whether it was a rollback."""
        put = state
        for earlier in self._registry.history(limit=1000):
            if earlier.epoch >= put.epoch:
                continue
            if earlier.champion != state.champion:
                return put, len(put.below) < len(earlier.below)
            put = earlier
        return put, False

    def _follow(self, run: TrainingRun) -> None:
        """Read live verdicts from where the run's present step began, when this process did not begin it."""
        if run.step not in (Step.SHADOWING, Step.PROMOTED) or self._following == (run.id, run.step):
            return
        self._following = (run.id, run.step)
        self._parts.live.rewind(run.data[run.step]["position"])
        self._start_tally()
        self.tally.add(self._parts.live.read())

    def _start_tally(self) -> None:
        now, self.tally = self.now, LiveTally(alert_share(self._parts.pipeline))
        self.tally.now = now

    def _pin(self, run: TrainingRun) -> None:
        """Choose the rows, once there are labels enough."""
        now = self._stream_time()
        if run.trigger == GUARD_TRIGGER:
            state = self._registry.state()
            former = state.below[-1] if state.below else None
            self._promoted(run, state, former)
            return
        alarms = (run.data["requested"].get("since"), self.changed_since)
        since = max((moment for moment in alarms if moment is not None), default=None)
        pin = self._parts.rows.pin()
        ready, why = enough(self._parts.rows, pin, self._rules, now=now, since=since)
        if not ready and run.trigger == "person":
            # a person who asks wants an answer; what could be trained in a week is asked for in a week
            self._finish(run, Outcome.FAILED, f"too few labels: {why}")
            return
        if not ready:
            self.waiting = why
            return
        plan = plan_training(
            self._parts.rows, pin, self._rules, now=now, seed=self._parts.pipeline.seed, since=since
        )
        parent = self._registry.state().champion
        self._advance(run, Step.PINNED, {"plan": msgspec.to_builtins(plan), "parent": parent})

    def _train(self, run: TrainingRun) -> None:
        """Fit, seal, register. Repeated, it gives the same bytes, and the registry knows them."""
        parts, plan = self._parts, _plan(run)
        examples = self._examples(plan)
        try:
            trained = train(parts.pipeline, examples, plan, self._rules, parts.fit, parts.run)
        except TooFewLabels as error:
            self._finish(run, Outcome.FAILED, str(error))
            return
        parts.at("fitted")
        manifest = manifest_of(
            parts.pipeline,
            self._rules,
            plan,
            trained,
            run,
            code=parts.code,
            parent=run.data["pinned"]["parent"],
        )
        record = self._registry.register(
            parts.vault.seal(trained.packed, manifest),
            manifest,
            by=self._by,
            reason=f"trained in run {run.id} ({run.trigger})",
            metrics={"training": trained.metrics()},
        )
        parts.at("registered")
        if record.manifest.lineage.run != run.id:
            self._finish(run, Outcome.UNCHANGED, f"model {record.version} is known: {record.reason}")
            return
        self._advance(run, Step.TRAINED, {"version": record.version, "split": trained.split})

    def _gate(self, run: TrainingRun) -> None:
        """Compare with what is in force now, write the card, refuse or go on."""
        parts, plan = self._parts, _plan(run)
        version = run.data["trained"]["version"]
        state = self._registry.state()
        model = parts.vault.open(self._registry.artefact(version), parts.pipeline.name)
        record = self._registry.model(version)
        examined = examine(
            parts.pipeline,
            self._rules,
            plan,
            run.data["trained"]["split"],
            self._examples(plan),
            parts.rows,
            model,
            self._champion(state),
            parts.run,
        )
        made = model_card(parts.pipeline, self._rules, record.manifest, model, examined)
        found = examined.report.to_json()
        self._registry.annotate(
            version, metrics={"gate": found}, card=ModelCard(markdown=made.markdown, plots=made.plots)
        )
        parts.at("annotated")
        if not examined.report.passed:
            self._refuse(run, version, "gate: " + " ".join(examined.report.reasons))
            return
        self._advance(run, Step.GATED, {"version": version, "champion": state.champion, "gate": found})

    def _challenge(self, run: TrainingRun) -> None:
        """Let it score beside the champion."""
        version, state = run.data["gated"]["version"], self._registry.state()
        if state.champion != run.data["gated"]["champion"]:
            self._superseded(run, f"the gate compared with {run.data['gated']['champion'] or OWN}")
            return
        position = self._parts.live.position()
        after = self._registry.set_challenger(
            version,
            epoch=state.epoch,
            reason=f"run {run.id}: passed the gate",
            by=self._by,
            split=self._rules.split,
        )
        self._parts.at("challenger set")
        data = {"position": position, "began": self._stream_time(), "champion": after.champion}
        self._advance(run, Step.SHADOWING, data)

    def _shadow(self, run: TrainingRun) -> None:
        """Wait for enough live verdicts; promote, refuse, or leave it to a person."""
        version, state = run.data["gated"]["version"], self._registry.state()
        began = run.data["shadowing"]["began"]
        former = run.data["shadowing"]["champion"]
        if state.champion == version:
            # a person was quicker, or this trainer died before it could note its own promotion
            self._promoted(run, state, former)
            return
        if state.champion != former or state.challenger != version:
            if state.challenger == version:
                # what it was compared with is gone, and nobody would end its shadow
                self._registry.set_challenger(
                    None, epoch=state.epoch, reason=f"run {run.id}: superseded", by=self._by
                )
            self._superseded(run, f"{version} is no longer challenger of {former or OWN}")
            return
        finding = shadow_finding(self.tally, version, self._rules.shadow, began=began)
        if not finding.decided:
            self.waiting = finding.text
            return
        self._registry.annotate(version, metrics={"shadow": {"text": finding.text, **finding.evidence}})
        if not finding.passed:
            self._registry.set_challenger(
                None, epoch=state.epoch, reason=f"shadow: {finding.text}", by=self._by
            )
            self._parts.at("challenger dropped")
            self._finish(run, Outcome.REFUSED, f"shadow: {finding.text}")
            return
        if self._rules.promote == "person":
            self.waiting = f"a person has to say `tidegate models promote {version}`: {finding.text}"
            return
        after = self._registry.promote(
            version, epoch=state.epoch, reason=f"shadow: {finding.text}", by=self._by
        )
        self._parts.at("champion set")
        self._promoted(run, after, former)

    def _promoted(self, run: TrainingRun, state: RegistryState, former: str | None) -> None:
        if state.champion is None:
            self._superseded(run, "the pipeline's own ensemble is in force again")
            return
        before = self.tally.deciders.get(former or OWN, Side()).summary()
        data = {
            "version": state.champion,
            "epoch": self._put_in_force(state)[0].epoch,
            "at": self._stream_time(),
            "position": self._parts.live.position(),
            "before": before,
        }
        self._advance(run, Step.PROMOTED, data)

    def _guard(self, run: TrainingRun) -> None:
        """Watch the new champion; undo the promotion on evidence."""
        told, state = run.data["promoted"], self._registry.state()
        version = told["version"]
        if state.champion != version:
            if self._registry.model(version).stage is Stage.ROLLED_BACK:
                self._finish(run, Outcome.ROLLED_BACK, self._registry.model(version).reason)
            else:
                self._superseded(run, f"{version} is no longer champion")
            return
        side = self.tally.deciders.get(version, Side())
        finding = guard_finding(
            side, told["before"], self._rules.guards, promoted=told["at"], now=self._stream_time()
        )
        if not finding.decided:
            self.waiting = finding.text
            return
        self._registry.annotate(version, metrics={"guard": {"text": finding.text, **finding.evidence}})
        if finding.passed:
            self._finish(run, Outcome.PROMOTED, None)
            return
        self._registry.rollback(epoch=state.epoch, reason=f"guard: {finding.text}", by=self._by)
        self._parts.at("rolled back")
        self._finish(run, Outcome.ROLLED_BACK, f"guard: {finding.text}")

    @property
    def _by(self) -> str:
        return f"trainer {self._parts.owner}"

    def _stream_time(self) -> int:
        if self.now is None:
            raise RuntimeError("no step is done before the first verdict")
        return self.now

    def _examples(self, plan: TrainingPlan) -> Examples:
        """The plan's rows; kept from the training for the gate."""
        if self._rows is None or self._rows[0] != plan:
            self._rows = (plan, read_rows(self._parts.rows, plan))
        return self._rows[1]

    def _champion(self, state: RegistryState) -> TrainedModel | None:
        if state.champion is None:
            return None
        try:
            return self._parts.vault.open(self._registry.artefact(state.champion), self._parts.pipeline.name)
        except (ArtefactRefused, ValueError) as error:
            raise Fatal(
                f"the champion {state.champion} can not be opened for a comparison: {error}",
                remedy="add the key it was sealed with to TIDEGATE_MODEL_TRUSTED, or roll it back",
            ) from error

    def _refuse(self, run: TrainingRun, version: str, why: str) -> None:
        state = self._registry.state()
        if version not in (state.champion, state.challenger):
            self._registry.set_stage(version, Stage.REFUSED, reason=why, by=self._by)
        self._parts.at("refused")
        self._finish(run, Outcome.REFUSED, why)

    def _superseded(self, run: TrainingRun, why: str) -> None:
        state = self._registry.state()
        self._finish(
            run, Outcome.SUPERSEDED, f"{why}: {state.changed_by} changed what is in force ({state.reason})"
        )

    def _advance(self, run: TrainingRun, step: Step, data: Mapping[str, Any]) -> None:
        self._registry.advance_run(run, step, data, seconds=self._parts.lease_seconds)
        if step in (Step.SHADOWING, Step.PROMOTED):
            # what another process would have that takes over here: nothing but what comes from this position on
            self._following = (run.id, step)
            self._start_tally()
        _LOG.info("step done", run=run.id, step=str(step))
        self._parts.at(str(step))

    def _finish(self, run: TrainingRun, outcome: Outcome, error: str | None) -> None:
        self._rows = None
        self._registry.finish_run(run, outcome, error=error)
        _LOG.info("run ended", run=run.id, outcome=str(outcome), why=error)
        self._parts.at(f"ended {outcome}")


def _plan(run: TrainingRun) -> TrainingPlan:
    return msgspec.convert(run.data["pinned"]["plan"], TrainingPlan)
