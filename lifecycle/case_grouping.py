"""Which case an alert belongs to. Pure: cases as they are in, cases as they shall be out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import msgspec

from domain.pipeline_review import ReviewSpec
from domain.verdict import DECISIONS
from lifecycle.case_records import Case, CaseStatus, HeardAlert, stake_of

__all__ = ["MAX_ALERTS", "Grouping", "Placed"]

MAX_ALERTS = 200
"""Of one case: about what fits on a screen; the next alert opens another."""
_MOST = 1e300


class Placed(NamedTuple):
    """The case that an alert went into, as it is now; ``before`` as it was (None: the alert opened it)."""

    case: Case
    before: Case | None

    @property
    def reopened(self) -> bool:
        """Whether a decided case is back in the queue."""
        return self.before is not None and self.before.status is CaseStatus.DECIDED


class Grouping:
    """Places alerts one after the other.

    ``cases`` are those that may take some, ``next_id`` the id of the first new case.
    """

    def __init__(self, spec: ReviewSpec, cases: Iterable[Case], next_id: int) -> None:
        self._spec = spec
        self._next_id = next_id
        self._by_entity: dict[tuple[str, str], list[Case]] = {}
        for case in sorted(cases, key=lambda one: one.id):
            self._by_entity.setdefault((case.entity, case.value), []).append(case)

    def place(self, alert: HeardAlert, entity: tuple[str, str], now: int) -> Placed:
        """The case of ``alert`` on ``entity`` (field, value), changed at ``now`` (UTC microseconds)."""
        there = self._by_entity.setdefault(entity, [])
        index = _home(there, alert, self._spec)
        if index is None:
            case = self._new(alert, entity, now)
            there.append(case)
            return Placed(case, None)
        before = there[index]
        there[index] = after = _joined(before, alert, now)
        return Placed(after, before)

    def _new(self, alert: HeardAlert, entity: tuple[str, str], now: int) -> Case:
        id_, self._next_id = self._next_id, self._next_id + 1
        return Case(
            id=id_,
            entity=entity[0],
            value=entity[1],
            status=CaseStatus.OPEN,
            priority=stake_of(alert.score, alert.amount),
            amount=abs(alert.amount or 0.0),
            score=alert.score,
            action=alert.decision,
            alerts=1,
            first_event_time=alert.event_time,
            last_event_time=alert.event_time,
            opened_at=now,
            queued_at=now,
            changed_at=now,
        )


def _home(cases: Sequence[Case], alert: HeardAlert, spec: ReviewSpec) -> int | None:
    """Which of ``cases``, oldest first, takes the alert: the newest open one, else the newest to be reopened."""
    fitting = [
        i for i, case in enumerate(cases) if case.alerts < MAX_ALERTS and _near(case, alert, spec.window)
    ]
    waiting = [i for i in fitting if cases[i].status is CaseStatus.OPEN]
    if waiting or spec.reopen is None:
        return waiting[-1] if waiting else None
    # when the alert was raised, not when it is read: the same whenever this process catches up
    soon = [i for i in fitting if alert.scored_at - (cases[i].decided_at or 0) <= spec.reopen]
    return soon[-1] if soon else None


def _near(case: Case, alert: HeardAlert, window: int) -> bool:
    first = min(case.first_event_time, alert.event_time)
    return max(case.last_event_time, alert.event_time) - first <= window


def _joined(case: Case, alert: HeardAlert, now: int) -> Case:
    scores = [score for score in (case.score, alert.score) if score is not None]
    after = msgspec.structs.replace(
        case,
        priority=min(case.priority + stake_of(alert.score, alert.amount), _MOST),
        amount=min(case.amount + abs(alert.amount or 0.0), _MOST),
        score=max(scores) if scores else None,
        action=max(case.action, alert.decision, key=DECISIONS.index),
        alerts=case.alerts + 1,
        first_event_time=min(case.first_event_time, alert.event_time),
        last_event_time=max(case.last_event_time, alert.event_time),
        changed_at=now,
        revision=case.revision + 1,
    )
    if case.status is CaseStatus.OPEN:
        return after
    return msgspec.structs.replace(
        after,
        status=CaseStatus.OPEN,
        queued_at=now,
        decision=None,
        decided_at=None,
        decided_by=None,
        note=None,
    )
