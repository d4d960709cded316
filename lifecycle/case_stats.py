"""How the review of cases goes: what waits and for how long, how long decisions took, and who decided what."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
from sqlalchemy import Connection, case, func, select

from lifecycle.case_records import CaseEntry, CaseStatus, EntryKind, Outcome
from lifecycle.case_rows import entry_of
from lifecycle.case_tables import alerts, cases, counters, history
from lifecycle.database import Database

__all__ = ["AGES", "CaseStats", "CaseStatsReader", "Reviewed"]

_HOUR = 3_600_000_000
AGES: tuple[tuple[str, int | None], ...] = (
    ("under_1h", _HOUR),
    ("under_1d", 24 * _HOUR),
    ("under_7d", 7 * 24 * _HOUR),
    ("older", None),
)
"""Names of ages of open cases, each with the age at which it ends (microseconds)."""


class Reviewed(msgspec.Struct, frozen=True, kw_only=True):
    """What one person decided; ``mean_seconds`` from the queue to the decision (None: only decided cases anew)."""

    by: str
    decisions: dict[str, int]
    mean_seconds: float | None


class CaseStats(msgspec.Struct, frozen=True, kw_only=True):
    """The state of the queue, and what was decided from ``since`` on (UTC microseconds).

    ``open_by_age`` counts by time in the queue, ``oldest`` is the longest, in seconds. Seconds to a decision are
    counted where it took a case out of the queue. ``labels_pending``: labels of decisions that Kafka does not have yet.
    """

    open: int
    unassigned: int
    open_by_age: dict[str, int]
    oldest: float | None
    at_stake: float
    since: int
    decisions: dict[str, int]
    seconds_median: float | None
    seconds_p90: float | None
    seconds_mean: float | None
    reviewers: tuple[Reviewed, ...]
    labels_pending: int


class CaseStatsReader:
    """Counts the cases of ``pipeline``. All methods raise RegistryUnavailable."""

    def __init__(self, database: Database, pipeline: str) -> None:
        self._database = database
        self._mine = history.c.pipeline == pipeline
        self._given = select(counters.c.entries).where(counters.c.pipeline == pipeline)
        self._open = (cases.c.pipeline == pipeline, cases.c.status == CaseStatus.OPEN.value)
        self._pending = (
            alerts.c.pipeline == pipeline,
            alerts.c.told_at.is_not(None),
            alerts.c.written_at.is_(None),
        )

    def stats(self, *, now: int, since: int) -> CaseStats:
        """The state of affairs at ``now``, decisions from ``since`` on."""
        with self._database.reading() as connection:
            waiting = self._waiting(connection, now)
            made = self._made(connection, since)
            median, p90 = (self._quantile(connection, since, made, share) for share in (0.5, 0.9))
            left = select(func.count()).select_from(alerts).where(*self._pending)
            pending = connection.execute(left).scalar_one()
        by_outcome = {one.value: 0 for one in Outcome}
        reviewers: dict[str, list[Any]] = {}
        for row in made:
            by_outcome[row.after] += row.decisions
            reviewers.setdefault(row.by, []).append(row)
        return CaseStats(
            **waiting,
            since=since,
            decisions=by_outcome,
            seconds_median=median,
            seconds_p90=p90,
            seconds_mean=_mean(made),
            reviewers=tuple(
                Reviewed(
                    by=by, decisions={row.after: row.decisions for row in rows}, mean_seconds=_mean(rows)
                )
                for by, rows in sorted(reviewers.items())
            ),
            labels_pending=pending,
        )

    def decisions_after(self, number: int, limit: int) -> Sequence[CaseEntry]:
        """Decisions with a higher number of the history, oldest first."""
        query = select(history).where(
            self._mine, history.c.kind == EntryKind.DECIDED.value, history.c.number > number
        )
        with self._database.reading() as connection:
            rows = connection.execute(query.order_by(history.c.number).limit(limit)).all()
        return [entry_of(row) for row in rows]

    def newest(self) -> int:
        """The highest number of the history so far; 0 when there is none."""
        with self._database.reading() as connection:
            found = connection.execute(self._given).scalar_one_or_none()
        return found or 0

    def _waiting(self, connection: Connection, now: int) -> dict[str, Any]:
        age = now - cases.c.queued_at
        named = case(*((age < end, name) for name, end in AGES if end is not None), else_=AGES[-1][0])
        query = select(
            named.label("age"),
            func.count().label("open"),
            func.sum(case((cases.c.assignee.is_(None), 1), else_=0)).label("unassigned"),
            func.min(cases.c.queued_at).label("oldest"),
            func.sum(cases.c.priority).label("at_stake"),
        ).where(*self._open)
        rows = connection.execute(query.group_by("age")).all()
        oldest = min((row.oldest for row in rows), default=None)
        return {
            "open": sum(row.open for row in rows),
            "unassigned": sum(int(row.unassigned) for row in rows),
            "open_by_age": {name: 0 for name, _ in AGES} | {row.age: row.open for row in rows},
            "oldest": None if oldest is None else max(0, now - oldest) / 1e6,
            "at_stake": sum(row.at_stake for row in rows),
        }

    def _made(self, connection: Connection, since: int) -> Sequence[Any]:
        """Decisions by person and outcome."""
        query = (
            select(
                history.c.by,
                history.c.after,
                func.count().label("decisions"),
                func.count(history.c.waited).label("timed"),
                func.sum(history.c.waited).label("waited"),
            )
            .where(self._mine, history.c.kind == EntryKind.DECIDED.value, history.c.at >= since)
            .group_by(history.c.by, history.c.after)
        )
        return connection.execute(query).all()

    def _quantile(
        self, connection: Connection, since: int, made: Sequence[Any], share: float
    ) -> float | None:
        timed = sum(row.timed for row in made)
        if not timed:
            return None
        query = (
            select(history.c.waited)
            .where(
                self._mine,
                history.c.kind == EntryKind.DECIDED.value,
                history.c.at >= since,
                history.c.waited.is_not(None),
            )
            .order_by(history.c.waited)
            .offset(min(timed - 1, int(share * timed)))
            .limit(1)
        )
        return float(connection.execute(query).scalar_one()) / 1e6


def _mean(rows: Sequence[Any]) -> float | None:
    timed = sum(row.timed for row in rows)
    return float(sum(row.waited or 0 for row in rows)) / timed / 1e6 if timed else None
