"""The audit in the database: who changed what, written in the same transaction as the change itself."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import msgspec
from sqlalchemy import Connection, Row, insert, select, update
from sqlalchemy.exc import IntegrityError

from lifecycle.audit import GENESIS, AuditHead, AuditRecord, Broken, chained, verify
from lifecycle.database import Database
from lifecycle.registry_tables import audit, registries

__all__ = ["AuditTrail"]

_PAGE = 1000
"""Audit records verified at once."""


class AuditTrail:
    """The audit of ``pipeline``: a change and its record are one transaction.

    Whatever people or programs may change (models, rules, lists, keys, endpoints, cases) is changed so::

        with trail.changing(database) as connection:
            connection.execute(insert(...))
            trail.note(connection, "rule.add", "velocity", by="anna", reason="...", now=clock.now(), after="...")
    """

    def __init__(self, pipeline: str) -> None:
        self._pipeline = pipeline
        self._mine = audit.c.pipeline == pipeline
        self._my_head = registries.c.pipeline == pipeline

    @contextmanager
    def changing(self, database: Database) -> Iterator[Connection]:
        """A transaction in which nobody else changes anything audited of this pipeline.

        Committed unless an exception leaves it. Raises RegistryUnavailable.
        """
        with database.writing() as connection:
            counted = update(registries).where(self._my_head).values(changes=registries.c.changes + 1)
            # the row stays locked until the transaction ends
            if not connection.execute(counted).rowcount:
                try:
                    with connection.begin_nested():
                        connection.execute(
                            insert(registries).values(
                                pipeline=self._pipeline, changes=0, audit_number=0, audit_hash=GENESIS
                            )
                        )
                except IntegrityError:
                    pass  # somebody else was first; now there is a row to wait for
                connection.execute(counted)
            yield connection

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
        """Append a record, within :meth:`changing`."""
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

    def head(self, connection: Connection, *, now: int) -> AuditHead:
        """Number and hash of the newest record (0 and GENESIS without any), as of ``now`` (UTC microseconds)."""
        number, digest = self._head(connection)
        return AuditHead(pipeline=self._pipeline, number=number, hash=digest, at=now)

    def records(self, connection: Connection) -> Iterator[AuditRecord]:
        """All records, oldest first, a page at a time."""
        return self._all(connection)

    def verify(self, connection: Connection, exported: Sequence[AuditHead] = ()) -> Broken | None:
        """The first record that is not what it should be, or not what ``exported`` heads say it was."""
        return verify(self._all(connection), self._head(connection), exported)

    def _head(self, connection: Connection) -> tuple[int, str]:
        row = connection.execute(select(registries).where(self._my_head)).one_or_none()
        return (0, GENESIS) if row is None else (row.audit_number, row.audit_hash)

    def _all(self, connection: Connection) -> Iterator[AuditRecord]:
        page = self.after(connection, 0, _PAGE)
        while page:
            yield from page
            page = self.after(connection, page[-1].number, _PAGE)


def _record(row: Row[Any]) -> AuditRecord:
    return AuditRecord(**row._asdict())
