"""The audit and the training runs of one pipeline in the database, within somebody else's transaction."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
from sqlalchemy import Connection, Row, func, insert, select, update

from lifecycle import registry_rules as rules
from lifecycle.audit import GENESIS, AuditRecord, Broken, chained, verify
from lifecycle.registry import TrainingRun
from lifecycle.registry_tables import audit, registries, runs

__all__ = ["AuditRows", "RunRows", "encoded"]

_PAGE = 1000
"""Audit records verified at once."""
_RUN_COLUMNS = [column for column in runs.c if column.name != "number"]


def encoded(value: object) -> str:
    """``value`` as JSON text."""
    return msgspec.json.encode(value).decode()


class AuditRows:
    """The chain of ``pipeline``. Writing needs the lock on the pipeline's row of ``registries``."""

    def __init__(self, pipeline: str) -> None:
        self._pipeline = pipeline
        self._mine = audit.c.pipeline == pipeline
        self._my_head = registries.c.pipeline == pipeline

    def note(
        self,
        connection: Connection,
        action: str,
        subject: str,
        *,
        by: str,
        reason: str,
        now: int,
        before: str | None = None,
        after: str | None = None,
    ) -> AuditRecord:
        """Append a record."""
        number, previous = self._head(connection)
        record = chained(
            AuditRecord(
                pipeline=self._pipeline,
                number=number + 1,
                at=now,
                by=by,
                action=action,
                subject=subject,
                before=before,
                after=after,
                reason=reason,
            ),
            previous,
        )
        connection.execute(insert(audit).values(**msgspec.structs.asdict(record)))
        head = {"audit_number": record.number, "audit_hash": record.hash}
        connection.execute(update(registries).where(self._my_head).values(**head))
        return record

    def after(self, connection: Connection, number: int, limit: int) -> list[AuditRecord]:
        """Records above ``number``, oldest first."""
        query = select(audit).where(self._mine, audit.c.number > number).order_by(audit.c.number).limit(limit)
        return [_record(row) for row in connection.execute(query)]

    def newest(self, connection: Connection, before: int | None, limit: int) -> list[AuditRecord]:
        """Records below ``before``, newest first."""
        query = select(audit).where(self._mine).order_by(audit.c.number.desc()).limit(limit)
        if before is not None:
            query = query.where(audit.c.number < before)
        return [_record(row) for row in connection.execute(query)]

    def verify(self, connection: Connection) -> Broken | None:
        """The first record that is not what it should be."""
        return verify(self._all(connection), self._head(connection))

    def _head(self, connection: Connection) -> tuple[int, str]:
        row = connection.execute(select(registries).where(self._my_head)).one_or_none()
        return (0, GENESIS) if row is None else (row.audit_number, row.audit_hash)

    def _all(self, connection: Connection) -> Iterator[AuditRecord]:
        page = self.after(connection, 0, _PAGE)
        while page:
            yield from page
            page = self.after(connection, page[-1].number, _PAGE)


class RunRows:
    """The training runs of ``pipeline``."""

    def __init__(self, pipeline: str) -> None:
        self._pipeline = pipeline
        self._mine = runs.c.pipeline == pipeline

    def count(self, connection: Connection) -> int:
        """How many there are."""
        return connection.execute(select(func.count()).select_from(runs).where(self._mine)).scalar_one()

    def newest(self, connection: Connection, *, only_open: bool, limit: int) -> list[TrainingRun]:
        """Runs, newest first."""
        query = select(*_RUN_COLUMNS).where(self._mine).order_by(runs.c.number.desc()).limit(limit)
        if only_open:
            query = query.where(runs.c.finished_at.is_(None))
        return [_run(row) for row in connection.execute(query)]

    def find(self, connection: Connection, run_id: str) -> TrainingRun:
        """One of them. Raises UnknownModel."""
        row = connection.execute(select(*_RUN_COLUMNS).where(self._mine, runs.c.id == run_id)).one_or_none()
        if row is None:
            raise rules.unknown(run_id, self._pipeline)
        return _run(row)

    def add(self, connection: Connection, number: int, run: TrainingRun) -> None:
        """Keep a new run, the ``number``-th."""
        connection.execute(insert(runs).values(number=number, **_run_values(run)))

    def keep(self, connection: Connection, run: TrainingRun) -> None:
        """Keep what has become of a run."""
        connection.execute(update(runs).where(self._mine, runs.c.id == run.id).values(**_run_values(run)))


def _run_values(run: TrainingRun) -> dict[str, Any]:
    return msgspec.structs.asdict(run) | {"data": encoded(run.data)}


def _run(row: Row[Any]) -> TrainingRun:
    values = row._asdict()
    values["data"] = msgspec.json.decode(values["data"])
    return TrainingRun(**values)


def _record(row: Row[Any]) -> AuditRecord:
    return AuditRecord(**row._asdict())
