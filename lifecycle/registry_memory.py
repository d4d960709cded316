"""The model registry in memory, for tests and simulations of one process; the same contract as in a database."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import msgspec

from domain.clock import Clock
from lifecycle import registry_rules as rules
from lifecycle.audit import GENESIS, AuditRecord, Broken, chained, verify
from lifecycle.manifest import Manifest
from lifecycle.registry import ModelCard, ModelRecord, RegistryState, Stage, TrainingRun

__all__ = ["MemoryModelRegistry"]

T = TypeVar("T")


class MemoryModelRegistry:
    """:class:`lifecycle.registry.ModelRegistry` that ends with the process; safe between threads."""

    def __init__(self, pipeline: str, clock: Clock) -> None:
        self._pipeline = pipeline
        self._clock = clock
        self._lock = threading.RLock()
        self._models: dict[str, ModelRecord] = {}
        self._sealed: dict[str, bytes] = {}
        self._cards: dict[str, ModelCard] = {}
        self._states: list[RegistryState] = []
        self._runs: dict[str, TrainingRun] = {}
        self._audit: list[AuditRecord] = []

    @property
    def pipeline(self) -> str:
        """Whose models these are."""
        return self._pipeline

    def register(
        self,
        sealed: bytes,
        manifest: Manifest,
        *,
        by: str,
        reason: str,
        metrics: Mapping[str, Any] | None = None,
        card: ModelCard | None = None,
    ) -> ModelRecord:
        """See the port."""
        rules.check_pipeline(manifest, self._pipeline)
        with self._lock:
            if (there := self._models.get(manifest.version)) is not None:
                return there
            now = self._clock.now()
            record = rules.candidate(
                sealed, manifest, metrics, pipeline=self._pipeline, now=now, by=by, reason=reason
            )
            self._models[record.version] = record
            self._sealed[record.version] = sealed
            self._cards[record.version] = card or ModelCard()
            self._note(
                "register", record.version, by=by, reason=reason, before=None, after=Stage.CANDIDATE.value
            )
            return record

    def models(self, *, stage: Stage | None = None, limit: int = 100) -> Sequence[ModelRecord]:
        """See the port."""
        with self._lock:
            found = [m for m in reversed(self._models.values()) if stage is None or m.stage is stage]
        return found[:limit]

    def model(self, version: str) -> ModelRecord:
        """See the port."""
        return self._known(self._models, version)

    def card(self, version: str) -> ModelCard:
        """See the port."""
        return self._known(self._cards, version)

    def artefact(self, version: str) -> bytes:
        """See the port."""
        return self._known(self._sealed, version)

    def annotate(
        self, version: str, *, metrics: Mapping[str, Any] | None = None, card: ModelCard | None = None
    ) -> ModelRecord:
        """See the port."""
        with self._lock:
            model = self.model(version)
            model = msgspec.structs.replace(model, metrics={**model.metrics, **rules.plain(metrics)})
            self._models[version] = model
            if card is not None:
                self._cards[version] = card
            return model

    def set_stage(self, version: str, stage: Stage, *, reason: str, by: str) -> ModelRecord:
        """See the port."""
        with self._lock:
            model = self.model(version)
            rules.check_movable(self.state(), model, stage)
            if model.stage is stage:
                return model
            self._note("stage", version, by=by, reason=reason, before=model.stage.value, after=stage.value)
            return self._staged(version, stage, reason, self._clock.now())

    def state(self) -> RegistryState:
        """See the port."""
        with self._lock:
            return self._states[-1] if self._states else RegistryState()

    def history(self, *, limit: int = 100) -> Sequence[RegistryState]:
        """See the port."""
        with self._lock:
            return self._states[::-1][:limit]

    def promote(
        self, version: str, *, epoch: int, reason: str, by: str, force: bool = False
    ) -> RegistryState:
        """See the port."""
        with self._lock:
            model, now = self.model(version), self._clock.now()
            return self._changed(
                rules.promoted(self.state(), model, epoch=epoch, reason=reason, by=by, now=now, force=force)
            )

    def set_challenger(
        self, version: str | None, *, epoch: int, reason: str, by: str, split: float = 0.0
    ) -> RegistryState:
        """See the port."""
        with self._lock:
            model = None if version is None else self.model(version)
            now = self._clock.now()
            return self._changed(
                rules.challenged(self.state(), model, epoch=epoch, reason=reason, by=by, now=now, split=split)
            )

    def rollback(self, *, epoch: int, reason: str, by: str) -> RegistryState:
        """See the port."""
        with self._lock:
            now = self._clock.now()
            return self._changed(rules.rolled_back(self.state(), epoch=epoch, reason=reason, by=by, now=now))

    def start_run(self, trigger: str, *, by: str, data: Mapping[str, Any] | None = None) -> TrainingRun:
        """See the port."""
        with self._lock:
            rules.check_none_open(next((r for r in self._runs.values() if r.finished_at is None), None))
            run = rules.requested(
                self._pipeline, len(self._runs) + 1, trigger, by=by, data=data, now=self._clock.now()
            )
            self._runs[run.id] = run
            self._note("run", run.id, by=by, reason=trigger, before=None, after=run.step)
            return run

    def runs(self, *, only_open: bool = False, limit: int = 100) -> Sequence[TrainingRun]:
        """See the port."""
        with self._lock:
            found = [r for r in reversed(self._runs.values()) if not only_open or r.finished_at is None]
        return found[:limit]

    def run(self, run_id: str) -> TrainingRun:
        """See the port."""
        return self._known(self._runs, run_id)

    def claim_run(self, run_id: str, owner: str, seconds: float) -> TrainingRun | None:
        """See the port."""
        with self._lock:
            run = rules.claimed(self.run(run_id), owner, now=self._clock.now(), seconds=seconds)
            if run is not None:
                self._runs[run_id] = run
            return run

    def advance_run(
        self, run: TrainingRun, step: str, data: Mapping[str, Any], *, seconds: float
    ) -> TrainingRun:
        """See the port."""
        with self._lock:
            held = self.run(run.id)
            after = rules.advanced(held, run, step, data, now=self._clock.now(), seconds=seconds)
            self._runs[run.id] = after
            self._note("run", run.id, by=run.owner or "-", reason=step, before=held.step, after=step)
            return after

    def finish_run(self, run: TrainingRun, outcome: str, *, error: str | None = None) -> TrainingRun:
        """See the port."""
        with self._lock:
            held = self.run(run.id)
            after = rules.finished(held, run, outcome, now=self._clock.now(), error=error)
            self._runs[run.id] = after
            self._note(
                "run",
                run.id,
                by=run.owner or "-",
                reason=after.error or outcome,
                before=held.step,
                after=outcome,
            )
            return after

    def note(
        self,
        action: str,
        subject: str,
        *,
        by: str,
        reason: str,
        before: str | None = None,
        after: str | None = None,
    ) -> AuditRecord:
        """See the port."""
        with self._lock:
            return self._note(action, subject, by=by, reason=reason, before=before, after=after)

    def audit(self, *, after: int = 0, limit: int = 1000) -> Sequence[AuditRecord]:
        """See the port."""
        with self._lock:
            return self._audit[after : after + limit]

    def newest_audit(self, *, before: int | None = None, limit: int = 100) -> Sequence[AuditRecord]:
        """See the port."""
        with self._lock:
            end = len(self._audit) if before is None else max(before - 1, 0)
            return self._audit[:end][::-1][:limit]

    def verify_audit(self) -> Broken | None:
        """See the port."""
        with self._lock:
            return verify(self._audit, (len(self._audit), self._audit[-1].hash if self._audit else GENESIS))

    def close(self) -> None:
        """Nothing to give up."""

    def _known(self, table: Mapping[str, T], key: str) -> T:
        with self._lock:
            if key not in table:
                raise rules.unknown(key, self._pipeline)
            return table[key]

    def _changed(self, change: rules.Change | None) -> RegistryState:
        if change is None:
            return self.state()
        state = change.state
        self._states.append(state)
        for version, stage in change.stages.items():
            self._staged(version, stage, state.reason, state.changed_at)
        self._note(
            change.action,
            change.subject,
            by=state.changed_by,
            reason=state.reason,
            before=change.before,
            after=change.after,
        )
        return state

    def _staged(self, version: str, stage: Stage, reason: str, now: int) -> ModelRecord:
        record = msgspec.structs.replace(self._models[version], stage=stage, reason=reason, changed_at=now)
        self._models[version] = record
        return record

    def _note(
        self, action: str, subject: str, *, by: str, reason: str, before: str | None, after: str | None
    ) -> AuditRecord:
        record = AuditRecord(
            pipeline=self._pipeline,
            number=len(self._audit) + 1,
            at=self._clock.now(),
            by=by,
            action=action,
            subject=subject,
            before=before,
            after=after,
            reason=reason,
        )
        record = chained(record, self._audit[-1].hash if self._audit else GENESIS)
        self._audit.append(record)
        return record
