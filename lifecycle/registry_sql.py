"""The model registry in a database (SQLite or PostgreSQL)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from sqlalchemy import Connection, Row, Table, func, insert, select, update

from domain.clock import Clock
from lifecycle import registry_rules as rules
from lifecycle.audit import AuditRecord, Broken
from lifecycle.audit_trail import AuditTrail
from lifecycle.database import Database
from lifecycle.manifest import Manifest
from lifecycle.registry import ModelCard, ModelRecord, RegistryState, Stage, TrainingRun
from lifecycle.registry_sql_parts import RunRows, encoded
from lifecycle.registry_tables import artefacts, models, states

__all__ = ["SqlModelRegistry"]

_MODEL_COLUMNS = [column for column in models.c if column.name not in ("number", "card")]


class SqlModelRegistry:
    """:class:`lifecycle.registry.ModelRegistry` of ``pipeline`` in ``database``; safe between threads and processes."""

    def __init__(self, database: Database, pipeline: str, clock: Clock) -> None:
        self._database = database
        self._pipeline = pipeline
        self._clock = clock
        self._audit = AuditTrail(pipeline)
        self._runs = RunRows(pipeline)

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
        version = manifest.version
        with self._audit.changing(self._database) as connection:
            if (there := self._find_model(connection, version)) is not None:
                return there
            now = self._clock.now()
            record = rules.candidate(
                sealed, manifest, metrics, pipeline=self._pipeline, now=now, by=by, reason=reason
            )
            values = msgspec.structs.asdict(record) | {
                "number": self._count_models(connection) + 1,
                "stage": record.stage.value,
                "manifest": encoded(manifest),
                "metrics": encoded(record.metrics),
                "card": encoded(card or ModelCard()),
            }
            connection.execute(insert(models).values(**values))
            connection.execute(
                insert(artefacts).values(pipeline=self._pipeline, version=version, sealed=sealed)
            )
            self._audit.note(
                connection, "register", version, by=by, reason=reason, after=Stage.CANDIDATE.value, now=now
            )
            return record

    def models(self, *, stage: Stage | None = None, limit: int = 100) -> Sequence[ModelRecord]:
        """See the port."""
        query = select(*_MODEL_COLUMNS).where(models.c.pipeline == self._pipeline)
        if stage is not None:
            query = query.where(models.c.stage == stage.value)
        with self._database.reading() as connection:
            rows = connection.execute(query.order_by(models.c.number.desc()).limit(limit)).all()
        return [_model(row) for row in rows]

    def model(self, version: str) -> ModelRecord:
        """See the port."""
        with self._database.reading() as connection:
            return self._model(connection, version)

    def card(self, version: str) -> ModelCard:
        """See the port."""
        query = select(models.c.card).where(*self._of(models, version=version))
        with self._database.reading() as connection:
            found = connection.execute(query).scalar_one_or_none()
        if found is None:
            raise rules.unknown(version, self._pipeline)
        return msgspec.json.decode(found, type=ModelCard)

    def artefact(self, version: str) -> bytes:
        """See the port."""
        query = select(artefacts.c.sealed).where(*self._of(artefacts, version=version))
        with self._database.reading() as connection:
            found = connection.execute(query).scalar_one_or_none()
        if found is None:
            raise rules.unknown(version, self._pipeline)
        return bytes(found)

    def annotate(
        self, version: str, *, metrics: Mapping[str, Any] | None = None, card: ModelCard | None = None
    ) -> ModelRecord:
        """See the port."""
        with self._audit.changing(self._database) as connection:
            model = self._model(connection, version)
            model = msgspec.structs.replace(model, metrics={**model.metrics, **rules.plain(metrics)})
            values = {"metrics": encoded(model.metrics)} | ({} if card is None else {"card": encoded(card)})
            connection.execute(update(models).where(*self._of(models, version=version)).values(**values))
            return model

    def set_stage(self, version: str, stage: Stage, *, reason: str, by: str) -> ModelRecord:
        """See the port."""
        with self._audit.changing(self._database) as connection:
            model = self._model(connection, version)
            rules.check_movable(self._state(connection), model, stage)
            if model.stage is stage:
                return model
            now = self._clock.now()
            self._set_stage(connection, version, stage, reason, now)
            self._audit.note(
                connection,
                "stage",
                version,
                by=by,
                reason=reason,
                before=model.stage.value,
                after=stage.value,
                now=now,
            )
            return self._model(connection, version)

    def state(self) -> RegistryState:
        """See the port."""
        with self._database.reading() as connection:
            return self._state(connection)

    def history(self, *, limit: int = 100) -> Sequence[RegistryState]:
        """See the port."""
        query = select(states).where(states.c.pipeline == self._pipeline)
        with self._database.reading() as connection:
            rows = connection.execute(query.order_by(states.c.epoch.desc()).limit(limit)).all()
        return [_state(row) for row in rows]

    def promote(
        self, version: str, *, epoch: int, reason: str, by: str, force: bool = False
    ) -> RegistryState:
        """See the port."""
        with self._audit.changing(self._database) as connection:
            state, model = self._state(connection), self._model(connection, version)
            now = self._clock.now()
            change = rules.promoted(state, model, epoch=epoch, reason=reason, by=by, now=now, force=force)
            return self._changed(connection, state, change)

    def set_challenger(
        self, version: str | None, *, epoch: int, reason: str, by: str, split: float = 0.0
    ) -> RegistryState:
        """See the port."""
        with self._audit.changing(self._database) as connection:
            state = self._state(connection)
            model = None if version is None else self._model(connection, version)
            now = self._clock.now()
            change = rules.challenged(state, model, epoch=epoch, reason=reason, by=by, now=now, split=split)
            return self._changed(connection, state, change)

    def rollback(self, *, epoch: int, reason: str, by: str) -> RegistryState:
        """See the port."""
        with self._audit.changing(self._database) as connection:
            state = self._state(connection)
            change = rules.rolled_back(state, epoch=epoch, reason=reason, by=by, now=self._clock.now())
            return self._changed(connection, state, change)

    def start_run(self, trigger: str, *, by: str, data: Mapping[str, Any] | None = None) -> TrainingRun:
        """See the port."""
        with self._audit.changing(self._database) as connection:
            rules.check_none_open(next(iter(self._runs.newest(connection, only_open=True, limit=1)), None))
            number, now = self._runs.count(connection) + 1, self._clock.now()
            run = rules.requested(self._pipeline, number, trigger, by=by, data=data, now=now)
            self._runs.add(connection, number, run)
            self._audit.note(connection, "run", run.id, by=by, reason=trigger, after=run.step, now=now)
            return run

    def runs(self, *, only_open: bool = False, limit: int = 100) -> Sequence[TrainingRun]:
        """See the port."""
        with self._database.reading() as connection:
            return self._runs.newest(connection, only_open=only_open, limit=limit)

    def run(self, run_id: str) -> TrainingRun:
        """See the port."""
        with self._database.reading() as connection:
            return self._runs.find(connection, run_id)

    def claim_run(self, run_id: str, owner: str, seconds: float) -> TrainingRun | None:
        """See the port."""
        with self._audit.changing(self._database) as connection:
            held = self._runs.find(connection, run_id)
            run = rules.claimed(held, owner, now=self._clock.now(), seconds=seconds)
            if run is not None:
                self._runs.keep(connection, run)
            return run

    def advance_run(
        self, run: TrainingRun, step: str, data: Mapping[str, Any], *, seconds: float
    ) -> TrainingRun:
        """See the port."""
        with self._audit.changing(self._database) as connection:
            held, now = self._runs.find(connection, run.id), self._clock.now()
            after = rules.advanced(held, run, step, data, now=now, seconds=seconds)
            self._runs.keep(connection, after)
            self._audit.note(
                connection,
                "run",
                run.id,
                by=run.owner or "-",
                reason=step,
                before=held.step,
                after=step,
                now=now,
            )
            return after

    def finish_run(self, run: TrainingRun, outcome: str, *, error: str | None = None) -> TrainingRun:
        """See the port."""
        with self._audit.changing(self._database) as connection:
            held, now = self._runs.find(connection, run.id), self._clock.now()
            after = rules.finished(held, run, outcome, now=now, error=error)
            self._runs.keep(connection, after)
            self._audit.note(
                connection,
                "run",
                run.id,
                by=run.owner or "-",
                reason=after.error or outcome,
                before=held.step,
                after=outcome,
                now=now,
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
        with self._audit.changing(self._database) as connection:
            return self._audit.note(
                connection,
                action,
                subject,
                by=by,
                reason=reason,
                before=before,
                after=after,
                now=self._clock.now(),
            )

    def audit(self, *, after: int = 0, limit: int = 1000) -> Sequence[AuditRecord]:
        """See the port."""
        with self._database.reading() as connection:
            return self._audit.after(connection, after, limit)

    def newest_audit(self, *, before: int | None = None, limit: int = 100) -> Sequence[AuditRecord]:
        """See the port."""
        with self._database.reading() as connection:
            return self._audit.newest(connection, before, limit)

    def verify_audit(self) -> Broken | None:
        """See the port."""
        with self._database.reading() as connection:
            return self._audit.verify(connection)

    def close(self) -> None:
        """Close idle connections."""
        self._database.close()

    def _of(self, table: Table, **keys: Any) -> list[Any]:
        return [table.c.pipeline == self._pipeline, *(table.c[name] == value for name, value in keys.items())]

    def _count_models(self, connection: Connection) -> int:
        return connection.execute(
            select(func.count()).select_from(models).where(*self._of(models))
        ).scalar_one()

    def _find_model(self, connection: Connection, version: str) -> ModelRecord | None:
        row = connection.execute(
            select(*_MODEL_COLUMNS).where(*self._of(models, version=version))
        ).one_or_none()
        return None if row is None else _model(row)

    def _model(self, connection: Connection, version: str) -> ModelRecord:
        found = self._find_model(connection, version)
        if found is None:
            raise rules.unknown(version, self._pipeline)
        return found

    def _state(self, connection: Connection) -> RegistryState:
        query = select(states).where(*self._of(states)).order_by(states.c.epoch.desc()).limit(1)
        row = connection.execute(query).one_or_none()
        return RegistryState() if row is None else _state(row)

    def _changed(
        self, connection: Connection, before: RegistryState, change: rules.Change | None
    ) -> RegistryState:
        if change is None:
            return before
        state = change.state
        values = msgspec.structs.asdict(state) | {"below": encoded(state.below)}
        # two of one epoch would break the primary key, should our lock ever fail
        connection.execute(insert(states).values(pipeline=self._pipeline, **values))
        for version, stage in change.stages.items():
            self._set_stage(connection, version, stage, state.reason, state.changed_at)
        self._audit.note(
            connection,
            change.action,
            change.subject,
            by=state.changed_by,
            reason=state.reason,
            before=change.before,
            after=change.after,
            now=state.changed_at,
        )
        return state

    def _set_stage(self, connection: Connection, version: str, stage: Stage, reason: str, now: int) -> None:
        connection.execute(
            update(models)
            .where(*self._of(models, version=version))
            .values(stage=stage.value, reason=reason, changed_at=now)
        )


def _model(row: Row[Any]) -> ModelRecord:
    values = row._asdict()
    values["stage"] = Stage(values["stage"])
    values["manifest"] = msgspec.json.decode(values["manifest"], type=Manifest)
    values["metrics"] = msgspec.json.decode(values["metrics"])
    return ModelRecord(**values)


def _state(row: Row[Any]) -> RegistryState:
    values = row._asdict()
    del values["pipeline"]
    values["below"] = msgspec.json.decode(values["below"], type=tuple[str | None, ...])
    return RegistryState(**values)
