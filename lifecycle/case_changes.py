"""What people do with cases: assign, comment, decide. Each is one transaction with its audit record.

A decision is also the label of every event of the case, kept beside the alerts until the topic ``labels`` has it.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec
from sqlalchemy import Connection, func, or_, select, update

from domain.clock import Clock
from lifecycle.audit_trail import AuditTrail
from lifecycle.case_records import (
    LABEL_OF,
    Case,
    CaseConflict,
    CaseStatus,
    EntryKind,
    Outcome,
)
from lifecycle.case_rows import RETRACTED, CaseRows
from lifecycle.case_tables import alerts
from lifecycle.database import Database

__all__ = ["CaseChanges"]


class CaseChanges:
    """Changes the cases of ``pipeline`` in ``database``; safe between threads and processes.

    ``revision`` is what the caller has seen (None: whatever it is now): an alert that came meanwhile, or somebody who
    was faster, makes it old, and then nothing is changed. All methods return the case as it is afterwards, and raise
    UnknownCase, CaseConflict, RegistryUnavailable.
    """

    def __init__(self, database: Database, pipeline: str, clock: Clock) -> None:
        self._database = database
        self._pipeline = pipeline
        self._clock = clock
        self._audit = AuditTrail(pipeline)
        self._rows = CaseRows(pipeline)

    def assign(self, case_id: int, assignee: str | None, *, by: str, revision: int | None = None) -> Case:
        """Give a case to somebody, or to nobody."""

        def change(connection: Connection, case: Case, now: int) -> Case:
            if case.assignee == assignee:
                return case
            self._note(
                connection, case, EntryKind.ASSIGNED, "case.assign", by, now, case.assignee, assignee, None
            )
            return msgspec.structs.replace(case, assignee=assignee)

        return self._change(case_id, revision, change)

    def comment(self, case_id: int, text: str, *, by: str, revision: int | None = None) -> Case:
        """Say something about a case. What was said is in the case; the audit knows that something was."""

        def change(connection: Connection, case: Case, now: int) -> Case:
            self._rows.note(connection, case.id, EntryKind.COMMENT, at=now, by=by, text=text)
            self._audit.note(
                connection, "case.comment", _named(case), by=by, reason=f"{len(text)} characters", now=now
            )
            return msgspec.structs.replace(case, changed_at=now)

        return self._change(case_id, revision, change)

    def decide(
        self, case_id: int, outcome: Outcome, *, by: str, note: str | None = None, revision: int | None = None
    ) -> Case:
        """Decide a case, or decide it otherwise; its events get the label that goes with ``outcome``."""

        def change(connection: Connection, case: Case, now: int) -> Case:
            before = case.status.value if case.decision is None else case.decision.value
            waited = max(0, now - case.queued_at) if case.status is CaseStatus.OPEN else None
            self._note(
                connection,
                case,
                EntryKind.DECIDED,
                "case.decide",
                by,
                now,
                before,
                outcome.value,
                note,
                waited=waited,
            )
            self._tell(connection, case, outcome, now)
            return msgspec.structs.replace(
                case,
                status=CaseStatus.DECIDED,
                decision=outcome,
                decided_at=now,
                decided_by=by,
                note=note,
            )

        return self._change(case_id, revision, change)

    def _change(
        self, case_id: int, revision: int | None, change: Callable[[Connection, Case, int], Case]
    ) -> Case:
        with self._audit.changing(self._database) as connection:
            case = self._rows.find(connection, case_id)
            if revision is not None and revision != case.revision:
                raise CaseConflict(
                    f"case {case_id} has changed: it is at revision {case.revision}, not {revision}",
                    remedy="look at it again, then decide on what it is now; nothing was changed",
                )
            now = max(self._clock.now(), case.changed_at)
            after = change(connection, case, now)
            if after is not case:
                after = msgspec.structs.replace(after, revision=case.revision + 1, changed_at=now)
                self._rows.keep(connection, after)
            return after

    def _note(
        self,
        connection: Connection,
        case: Case,
        kind: EntryKind,
        action: str,
        by: str,
        now: int,
        before: str | None,
        after: str | None,
        text: str | None,
        *,
        waited: int | None = None,
    ) -> None:
        self._rows.note(
            connection, case.id, kind, at=now, by=by, before=before, after=after, text=text, waited=waited
        )
        self._audit.note(
            connection, action, _named(case), by=by, reason=text or "-", now=now, before=before, after=after
        )

    def _tell(self, connection: Connection, case: Case, outcome: Outcome, now: int) -> None:
        """Note the labels that the topic has to learn of."""
        mine = (alerts.c.pipeline == self._pipeline, alerts.c.case_id == case.id)
        newest = connection.execute(select(func.max(alerts.c.told_at)).where(*mine)).scalar_one()
        # a later word must be later for the joiner too, whatever this machine's clock does
        known = now if newest is None else max(now, newest + 1)
        label = LABEL_OF[outcome]
        said = alerts.c.told.in_((0, 1))
        # there is nothing to take back where nothing was said
        news = said if label is None else or_(alerts.c.told.is_(None), alerts.c.told != label)
        values = {
            "told": RETRACTED if label is None else label,
            "told_at": known,
            "written_at": None,
            "refused": None,
        }
        connection.execute(update(alerts).where(*mine, news).values(**values))


def _named(case: Case) -> str:
    return f"case {case.id}"
