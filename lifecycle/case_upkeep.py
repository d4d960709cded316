"""Cases that are no longer needed leave the database: decided long ago, or of an entity that is to be forgotten."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, delete, exists, select

from domain.clock import Clock
from lifecycle.audit_trail import AuditTrail
from lifecycle.case_records import CaseStatus
from lifecycle.case_store import hash_of
from lifecycle.case_tables import alerts, cases, history
from lifecycle.database import Database

__all__ = ["CaseUpkeep"]

_BATCH = 500
"""Cases deleted in one transaction."""


class CaseUpkeep:
    """Deletes cases of ``pipeline``, with their alerts and history; the audit keeps what was decided.

    Offsets stay, so no alert of theirs is taken in again. All methods return how many there were, and raise
    RegistryUnavailable.
    """

    def __init__(self, database: Database, pipeline: str, clock: Clock) -> None:
        self._database = database
        self._pipeline = pipeline
        self._clock = clock
        self._audit = AuditTrail(pipeline)

    def tidy(self, before: int, *, by: str) -> int:
        """Cases decided before ``before`` (UTC microseconds) whose labels are all written."""
        pending = exists().where(
            alerts.c.pipeline == self._pipeline,
            alerts.c.case_id == cases.c.id,
            alerts.c.told_at.is_not(None),
            alerts.c.written_at.is_(None),
        )
        which = (cases.c.status == CaseStatus.DECIDED.value, cases.c.decided_at < before, ~pending)
        return self._delete(which, "case.tidy", "cases decided long ago", by=by, reason=f"before {before}")

    def forget(self, entity: tuple[str, str], *, by: str, reason: str) -> int:
        """All cases of ``entity`` (field, value as in verdicts), decided or not; labels not yet written are dropped."""
        return self._delete(
            (cases.c.value_hash == hash_of(entity),), "case.forget", "an entity's cases", by=by, reason=reason
        )

    def _delete(self, which: tuple[Any, ...], action: str, subject: str, *, by: str, reason: str) -> int:
        gone = 0
        while True:
            with self._audit.changing(self._database) as connection:
                found = self._delete_some(connection, which)
                if found:
                    self._audit.note(
                        connection,
                        action,
                        subject,
                        by=by,
                        reason=reason,
                        now=self._clock.now(),
                        before=f"{found} cases",
                    )
            gone += found
            if found < _BATCH:
                return gone

    def _delete_some(self, connection: Connection, which: tuple[Any, ...]) -> int:
        query = select(cases.c.id).where(cases.c.pipeline == self._pipeline, *which).limit(_BATCH)
        ids = list(connection.execute(query).scalars())
        if ids:
            for table, column in (
                (alerts, alerts.c.case_id),
                (history, history.c.case_id),
                (cases, cases.c.id),
            ):
                mine = table.c.pipeline == self._pipeline
                connection.execute(delete(table).where(mine, column.in_(ids)))
        return len(ids)
