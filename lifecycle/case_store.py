"""Review cases in the database (SQLite or PostgreSQL): taken in from alerts, read, and changed by people.

Every change happens under the lock of the pipeline's audit, so whoever decides and the process that takes alerts in
follow each other, and numbers have no gaps. What a person does, and a decided case that comes back, is audited; which
alerts a case holds is in the case itself.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
from sqlalchemy import Connection, and_, insert, or_, select, update

from domain.clock import Clock
from domain.pipeline_review import ReviewSpec
from lifecycle.audit_trail import AuditTrail
from lifecycle.case_grouping import Grouping, Placed
from lifecycle.case_records import (
    ArrivedAlert,
    Case,
    CaseOrder,
    CasePage,
    CaseQuery,
    CaseStatus,
    CaseView,
    EntryKind,
    alert_key,
)
from lifecycle.case_rows import CaseRows, alert_of, case_of, case_values, entry_of
from lifecycle.case_tables import alerts, cases, history, offsets
from lifecycle.database import Database

__all__ = ["KEEPER", "SqlCaseStore", "Taken", "hash_of"]

KEEPER = "caser"
"""Who opens cases, in their history and in the audit."""
_REOPENED = "case.reopen"


@dataclass(frozen=True, slots=True)
class Taken:
    """What became of some alerts; ``repeated`` were in a case already."""

    opened: int = 0
    joined: int = 0
    reopened: int = 0
    repeated: int = 0


class SqlCaseStore:
    """The cases of ``pipeline``, grouped as ``spec`` says; safe between threads and processes.

    All methods raise RegistryUnavailable while the database does not answer.
    """

    def __init__(self, database: Database, pipeline: str, spec: ReviewSpec, clock: Clock) -> None:
        self._database = database
        self._pipeline = pipeline
        self._spec = spec
        self._clock = clock
        self._audit = AuditTrail(pipeline)
        self._rows = CaseRows(pipeline)

    def offsets(self, log: str) -> dict[int, int]:
        """By partition of ``log`` (:func:`stream.log_identity.log_identity`), the first offset not taken in yet."""
        with self._database.reading() as connection:
            return self._offsets(connection, log)

    def take(self, log: str, arrived: Sequence[ArrivedAlert]) -> Taken:
        """Take alerts in, in one transaction with their offsets: each goes into one case, once.

        What lies before the offsets already taken in is left out, whoever took it.
        """
        with self._audit.changing(self._database) as connection:
            done = self._offsets(connection, log)
            new = [one for one in arrived if one.offset >= done.get(one.partition, 0)]
            taken = self._put(connection, [one for one in new if one.alert is not None])
            ends = dict(done)
            for one in new:
                ends[one.partition] = max(ends.get(one.partition, 0), one.offset + 1)
            self._set_offsets(connection, log, done, ends)
        return taken

    def rewind(self, log: str, partition: int, end: int) -> None:
        """The partition ends at ``end``, before what was taken in of it: go on from there."""
        here = (
            offsets.c.pipeline == self._pipeline,
            offsets.c.log == log,
            offsets.c.partition == partition,
            offsets.c.next_offset > end,
        )
        with self._audit.changing(self._database) as connection:
            connection.execute(update(offsets).where(*here).values(next_offset=end))

    def page(self, query: CaseQuery) -> CasePage:
        """Cases in the order asked for. Raises BadCursorError.

        Following ``next`` shows each case that nothing happens to meanwhile exactly once.
        """
        last = query.after()
        wanted = select(cases).where(cases.c.pipeline == self._pipeline, *_filters(query))
        if query.order is CaseOrder.PRIORITY:
            wanted = wanted.order_by(cases.c.priority.desc(), cases.c.id)
            if last is not None:
                later = and_(cases.c.priority == last[0], cases.c.id > last[1])
                wanted = wanted.where(cases.c.priority <= last[0], or_(cases.c.priority < last[0], later))
        else:
            wanted = wanted.order_by(cases.c.id.desc())
            if last is not None:
                wanted = wanted.where(cases.c.id < last[1])
        with self._database.reading() as connection:
            rows = connection.execute(wanted.limit(query.limit + 1)).all()
        found = [case_of(row) for row in rows]
        shown = found[: query.limit]
        return CasePage(shown, query.cursor_after(shown[-1]) if len(found) > query.limit else None)

    def case(self, case_id: int) -> CaseView:
        """All about one case. Raises UnknownCase."""
        with self._database.reading() as connection:
            case = self._rows.find(connection, case_id)
            told = select(alerts).where(alerts.c.pipeline == self._pipeline, alerts.c.case_id == case_id)
            past = select(history).where(history.c.pipeline == self._pipeline, history.c.case_id == case_id)
            return CaseView(
                case=case,
                alerts=tuple(alert_of(row) for row in connection.execute(told.order_by(alerts.c.number))),
                history=tuple(entry_of(row) for row in connection.execute(past.order_by(history.c.number))),
            )

    def _put(self, connection: Connection, arrived: Sequence[ArrivedAlert]) -> Taken:
        keyed = {alert_key(one.alert.id, one.alert.source): one for one in arrived if one.alert is not None}
        there = select(alerts.c.key).where(alerts.c.pipeline == self._pipeline, alerts.c.key.in_(list(keyed)))
        known = set(connection.execute(there).scalars())
        new = [(key, one) for key, one in keyed.items() if key not in known]
        if not new:
            return Taken(repeated=len(arrived))
        now = self._clock.now()
        grouping = Grouping(self._spec, self._candidates(connection, new), self._rows.next_case(connection))
        changed: dict[int, Case] = {}
        opened: list[Placed] = []
        reopened: list[Placed] = []
        rows: list[dict[str, Any]] = []
        for key, one in new:
            assert one.alert is not None  # noqa: S101  # left out above
            placed = grouping.place(one.alert, one.entity, now)
            changed[placed.case.id] = placed.case
            if placed.before is None:
                opened.append(placed)
            elif placed.reopened:
                reopened.append(placed)
            rows.append(self._alert_row(key, one, placed.case, now))
        self._write(connection, changed, {one.case.id for one in opened})
        # returning something lets SQLAlchemy send many rows in one statement: three times as fast on PostgreSQL
        connection.execute(insert(alerts).returning(alerts.c.number), rows)
        self._rows.gave_cases(connection, len(opened))
        self._rows.note_opened(connection, [placed.case.id for placed in opened], at=now, by=KEEPER)
        for placed in reopened:
            self._note_reopened(connection, placed, now)
        return Taken(
            len(opened), len(new) - len(opened) - len(reopened), len(reopened), len(arrived) - len(new)
        )

    def _candidates(self, connection: Connection, new: Sequence[tuple[str, ArrivedAlert]]) -> list[Case]:
        """Cases that may take some of ``new`` in."""
        heard = [one.alert for _, one in new if one.alert is not None]
        times = [alert.event_time for alert in heard]
        waiting = cases.c.status == CaseStatus.OPEN.value
        if self._spec.reopen is not None:
            since = min(alert.scored_at for alert in heard) - self._spec.reopen
            waiting = or_(waiting, cases.c.decided_at >= since)
        query = select(cases).where(
            cases.c.pipeline == self._pipeline,
            cases.c.value_hash.in_(sorted({hash_of(one.entity) for _, one in new})),
            cases.c.last_event_time >= min(times) - self._spec.window,
            cases.c.first_event_time <= max(times) + self._spec.window,
            waiting,
        )
        return [case_of(row) for row in connection.execute(query)]

    def _write(self, connection: Connection, changed: Mapping[int, Case], opened: Iterable[int]) -> None:
        new = set(opened)
        values = [
            {
                "pipeline": self._pipeline,
                "value_hash": hash_of((case.entity, case.value)),
                **case_values(case),
            }
            for id_, case in changed.items()
            if id_ in new
        ]
        if values:
            connection.execute(insert(cases).returning(cases.c.id), values)
        self._rows.keep_all(connection, [case for id_, case in changed.items() if id_ not in new])

    def _alert_row(self, key: str, one: ArrivedAlert, case: Case, now: int) -> dict[str, Any]:
        assert one.alert is not None  # noqa: S101  # see _put
        return {
            "pipeline": self._pipeline,
            "key": key,
            "case_id": case.id,
            "number": case.alerts,
            "event_id": one.alert.id,
            "event_time": one.alert.event_time,
            "scored_at": one.alert.scored_at,
            "added_at": now,
            "score": one.alert.score,
            "amount": one.alert.amount,
            "decision": one.alert.decision.value,
            "alert": one.raw.decode(),
        }

    def _note_reopened(self, connection: Connection, placed: Placed, now: int) -> None:
        assert placed.before is not None  # noqa: S101  # it was decided
        assert placed.before.decision is not None  # noqa: S101
        before, case_id = placed.before.decision.value, placed.case.id
        self._rows.note(connection, case_id, EntryKind.REOPENED, at=now, by=KEEPER, before=before)
        self._audit.note(
            connection,
            _REOPENED,
            f"case {case_id}",
            by=KEEPER,
            reason="another alert soon after the decision",
            now=now,
            before=before,
            after=CaseStatus.OPEN.value,
        )

    def _offsets(self, connection: Connection, log: str) -> dict[int, int]:
        query = select(offsets).where(offsets.c.pipeline == self._pipeline, offsets.c.log == log)
        return {row.partition: row.next_offset for row in connection.execute(query)}

    def _set_offsets(
        self, connection: Connection, log: str, before: Mapping[int, int], after: Mapping[int, int]
    ) -> None:
        for partition, end in after.items():
            mine = {"pipeline": self._pipeline, "log": log, "partition": partition}
            if partition not in before:
                connection.execute(insert(offsets).values(**mine, next_offset=end))
            elif before[partition] != end:
                where = (offsets.c[name] == value for name, value in mine.items())
                connection.execute(update(offsets).where(*where).values(next_offset=end))


def hash_of(entity: tuple[str, str]) -> str:
    """What the index knows an entity (field, value) by."""
    return hashlib.sha256(msgspec.json.encode(entity)).hexdigest()


def _filters(query: CaseQuery) -> list[Any]:
    wanted: list[Any] = []
    if query.status is not None:
        wanted.append(cases.c.status == query.status.value)
    if query.assignee is not None:
        wanted.append(cases.c.assignee == query.assignee)
    if query.unassigned:
        wanted.append(cases.c.assignee.is_(None))
    if query.decision is not None:
        wanted.append(cases.c.decision == query.decision.value)
    if query.entity is not None:
        wanted.append(cases.c.value_hash == hash_of(query.entity))
    return wanted
