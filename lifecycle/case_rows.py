"""Rows of the tables of cases as records and back, within somebody else's transaction."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
from sqlalchemy import Column, Connection, Row, bindparam, insert, select, update

from domain.verdict import DecisionName
from lifecycle.case_records import (
    Case,
    CaseAlert,
    CaseEntry,
    CaseStatus,
    EntryKind,
    Outcome,
    UnknownCase,
)
from lifecycle.case_tables import cases, counters, history

__all__ = ["RETRACTED", "CaseRows", "alert_of", "case_of", "case_values", "entry_of"]

RETRACTED = -1
"""In the column ``told``: a label that was given before is taken back."""
_LARGEST = 2**63 - 1
_FIELDS = Case.__struct_fields__


class CaseRows:
    """The cases of ``pipeline`` and their history."""

    def __init__(self, pipeline: str) -> None:
        self._pipeline = pipeline
        self._mine = cases.c.pipeline == pipeline

    def find(self, connection: Connection, case_id: int) -> Case:
        """One of them. Raises UnknownCase."""
        row = None
        if 0 < case_id <= _LARGEST:
            row = connection.execute(select(cases).where(self._mine, cases.c.id == case_id)).one_or_none()
        if row is None:
            raise UnknownCase(
                f"there is no case {case_id} of {self._pipeline}",
                remedy="`tidegate cases list` and GET /v1/cases show those there are",
            )
        return case_of(row)

    def keep(self, connection: Connection, case: Case) -> None:
        """Keep what has become of a case."""
        values = case_values(case)
        connection.execute(update(cases).where(self._mine, cases.c.id == case.id).values(**values))

    def keep_all(self, connection: Connection, changed: Sequence[Case]) -> None:
        """Keep what has become of several."""
        if changed:
            this = update(cases).where(self._mine, cases.c.id == bindparam("this_case"))
            rows = [{"this_case": case.id, **case_values(case)} for case in changed]
            connection.execute(this.values({name: bindparam(name) for name in _FIELDS if name != "id"}), rows)

    def next_case(self, connection: Connection) -> int:
        """The id of the next new case."""
        given = select(counters.c.cases).where(counters.c.pipeline == self._pipeline)
        return 1 + (connection.execute(given).scalar_one_or_none() or 0)

    def gave_cases(self, connection: Connection, count: int) -> None:
        """So many ids from :meth:`next_case` on are given out."""
        if count:
            self._count(connection, counters.c.cases, count)

    def note(
        self,
        connection: Connection,
        case_id: int,
        kind: EntryKind,
        *,
        at: int,
        by: str,
        before: str | None = None,
        after: str | None = None,
        text: str | None = None,
        waited: int | None = None,
    ) -> None:
        """Write down what happens to a case."""
        entry = CaseEntry(
            number=self._next_entries(connection, 1),
            case=case_id,
            at=at,
            by=by,
            kind=kind,
            before=before,
            after=after,
            text=text,
            waited=waited,
        )
        self._enter(connection, [entry])

    def note_opened(self, connection: Connection, opened: Sequence[int], *, at: int, by: str) -> None:
        """Write down that cases were opened."""
        if not opened:
            return
        first = self._next_entries(connection, len(opened))
        self._enter(
            connection,
            [
                CaseEntry(number=number, case=case_id, at=at, by=by, kind=EntryKind.OPENED)
                for number, case_id in enumerate(opened, first)
            ],
        )

    def _next_entries(self, connection: Connection, count: int) -> int:
        """The first of so many new numbers of the history."""
        return self._count(connection, counters.c.entries, count) - count + 1

    def _count(self, connection: Connection, column: Column[Any], more: int) -> int:
        """What ``column`` counts, after counting ``more``."""
        mine = counters.c.pipeline == self._pipeline
        counted = update(counters).where(mine).values({column.name: column + more})
        if not connection.execute(counted).rowcount:
            # nobody else can be here: the pipeline's lock is ours
            connection.execute(insert(counters).values(pipeline=self._pipeline, cases=0, entries=0))
            connection.execute(counted)
        found: int = connection.execute(select(column).where(mine)).scalar_one()
        return found

    def _enter(self, connection: Connection, entries: Sequence[CaseEntry]) -> None:
        rows = []
        for entry in entries:
            values = msgspec.structs.asdict(entry) | {"pipeline": self._pipeline, "kind": entry.kind.value}
            values["case_id"] = values.pop("case")
            rows.append(values)
        if rows:
            connection.execute(insert(history).returning(history.c.number), rows)


def case_values(case: Case) -> dict[str, Any]:
    """A case as the columns of its row."""
    values = msgspec.structs.asdict(case)
    values |= {"status": case.status.value, "action": case.action.value}
    return values | {"decision": None if case.decision is None else case.decision.value}


def case_of(row: Row[Any]) -> Case:
    """A row as a case."""
    found = row._asdict()
    values = {name: found[name] for name in _FIELDS}
    values |= {"status": CaseStatus(found["status"]), "action": DecisionName(found["action"])}
    if found["decision"] is not None:
        values["decision"] = Outcome(found["decision"])
    return Case(**values)


def alert_of(row: Row[Any]) -> CaseAlert:
    """A row as an alert of a case."""
    return CaseAlert(
        key=row.key,
        event_id=row.event_id,
        event_time=row.event_time,
        scored_at=row.scored_at,
        added_at=row.added_at,
        score=row.score,
        amount=row.amount,
        decision=DecisionName(row.decision),
        label=row.told if row.told in (0, 1) else None,
        label_written=row.written_at is not None and row.refused is None,
        label_refused=row.refused,
        alert=msgspec.Raw(row.alert.encode()),
    )


def entry_of(row: Row[Any]) -> CaseEntry:
    """A row as an entry of a case's history."""
    return CaseEntry(
        number=row.number,
        case=row.case_id,
        at=row.at,
        by=row.by,
        kind=EntryKind(row.kind),
        before=row.before,
        after=row.after,
        text=row.text,
        waited=row.waited,
    )
