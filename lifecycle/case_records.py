"""Review cases: alerts of one entity that a person decides together; their records, and questions about them."""

from __future__ import annotations

import base64
import binascii
import hashlib
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Any

import msgspec

from domain.errors import Fatal, Retriable
from domain.verdict import DecisionName, Source
from featurestore.hot_verdicts_port import BadCursorError

__all__ = [
    "LABEL_OF",
    "MAX_NOTE",
    "MAX_WHO",
    "ArrivedAlert",
    "Case",
    "CaseAlert",
    "CaseConflict",
    "CaseEntry",
    "CaseOrder",
    "CasePage",
    "CaseQuery",
    "CaseStatus",
    "CaseView",
    "EntryKind",
    "HeardAlert",
    "Outcome",
    "PendingLabel",
    "UnknownCase",
    "alert_key",
    "stake_of",
]

MAX_NOTE = 2_000
"""Characters of a note or a comment."""
MAX_WHO = 200
"""Characters of the name of somebody who decides, or to whom a case is assigned."""
_Micros = Annotated[int, msgspec.Meta(ge=-(2**62), le=2**62)]
"""A time that a database holds."""
_MOST = 1e300
"""Sums of stakes stay finite, whatever amounts a pipeline allows."""


class UnknownCase(Fatal):
    """There is no such case."""


class CaseConflict(Retriable):
    """The case has changed since the caller looked: an alert came, or somebody else was faster."""


class CaseStatus(StrEnum):
    """Where a case is."""

    OPEN = "open"
    DECIDED = "decided"


class Outcome(StrEnum):
    """What a person says of a case."""

    FRAUD = "fraud"
    LEGITIMATE = "legitimate"
    UNSURE = "unsure"


LABEL_OF: dict[Outcome, int | None] = {Outcome.FRAUD: 1, Outcome.LEGITIMATE: 0, Outcome.UNSURE: None}
"""The label of every event of a case that was decided so; None: no label, and one given before is taken back."""


class EntryKind(StrEnum):
    """What happened to a case."""

    OPENED = "opened"
    REOPENED = "reopened"
    ASSIGNED = "assigned"
    COMMENT = "comment"
    DECIDED = "decided"


class CaseOrder(StrEnum):
    """How a page is ordered; of equals the older case comes first."""

    PRIORITY = "priority"
    NEWEST = "newest"


class Case(msgspec.Struct, frozen=True, kw_only=True):
    """A case. Times are UTC microseconds.

    ``entity`` and ``value`` name whose alerts these are (a sensitive value as its keyed hash). ``priority`` is the sum
    of score times amount over its ``alerts``, ``amount`` the sum of the amounts (absolute values), ``score`` the
    highest, ``action`` the gravest decision of the verdicts. ``queued_at``: when it came into the queue, for the last
    time. ``revision`` grows with every change.
    """

    id: int
    entity: str
    value: str
    status: CaseStatus
    priority: float
    amount: float
    score: float | None
    action: DecisionName
    alerts: int
    first_event_time: int
    last_event_time: int
    opened_at: int
    queued_at: int
    changed_at: int
    assignee: str | None = None
    decision: Outcome | None = None
    decided_at: int | None = None
    decided_by: str | None = None
    note: str | None = None
    revision: int = 1


class CaseAlert(msgspec.Struct, frozen=True, kw_only=True):
    """An alert of a case. ``label``: what the decision says of its event, ``label_written``: whether that is in Kafka.

    ``label_refused`` says why it never will be.
    """

    key: str
    event_id: str
    event_time: int
    scored_at: int
    added_at: int
    score: float | None
    amount: float | None
    decision: DecisionName
    label: int | None
    label_written: bool
    label_refused: str | None
    alert: msgspec.Raw


class CaseEntry(msgspec.Struct, frozen=True, kw_only=True):
    """Something that happened to a case, numbered within the pipeline.

    ``waited``: how long the case was in the queue, microseconds, with a decision that took it out of it.
    """

    number: int
    case: int
    at: int
    by: str
    kind: EntryKind
    before: str | None = None
    after: str | None = None
    text: str | None = None
    waited: int | None = None


class CaseView(msgspec.Struct, frozen=True, kw_only=True):
    """A case with its alerts and its history, both oldest first."""

    case: Case
    alerts: tuple[CaseAlert, ...]
    history: tuple[CaseEntry, ...]


class HeardAlert(msgspec.Struct, frozen=True, gc=False):
    """What a case needs of :class:`domain.verdict.Alert`."""

    id: str
    event_time: _Micros
    scored_at: _Micros
    entities: dict[str, str]
    score: float | None
    decision: DecisionName
    source: Source
    amount: float | None = None


class ArrivedAlert(msgspec.Struct, frozen=True, gc=False):
    """A record of the topic ``alerts``; ``alert`` is None where it is nothing that we can take in."""

    partition: int
    offset: int
    raw: bytes
    alert: HeardAlert | None
    entity: tuple[str, str] = ("", "")


class PendingLabel(msgspec.Struct, frozen=True, kw_only=True):
    """A label that a decision has made and that Kafka does not have yet; ``label`` None takes one back."""

    key: str
    event_id: str
    event_time: int
    label: int | None
    known_at: int
    source: Source


@dataclass(frozen=True, slots=True, kw_only=True)
class CaseQuery:
    """Which cases. ``unassigned`` leaves those out that somebody has."""

    status: CaseStatus | None = CaseStatus.OPEN
    assignee: str | None = None
    unassigned: bool = False
    decision: Outcome | None = None
    entity: tuple[str, str] | None = None
    order: CaseOrder = CaseOrder.PRIORITY
    limit: int = 50
    cursor: str | None = None

    def after(self) -> tuple[float, int] | None:
        """Priority and id of the last case of the page before. Raises BadCursorError."""
        if self.cursor is None:
            return None
        try:
            raw = base64.b64decode(self.cursor.encode(), altchars=b"-_", validate=True)
            digest, priority, id_ = msgspec.json.decode(raw, type=tuple[str, float, int])
        except (binascii.Error, msgspec.DecodeError, UnicodeError, RecursionError):
            raise _bad_cursor("the cursor is none that a page gave out") from None
        # no database holds larger ones
        if digest != self._digest() or not 0 <= id_ < 2**62:
            raise _bad_cursor("the cursor belongs to another query")
        return priority, id_

    def cursor_after(self, case: Case) -> str:
        """The cursor of what follows ``case``."""
        raw = msgspec.json.encode((self._digest(), case.priority, case.id))
        return base64.urlsafe_b64encode(raw).decode()

    def _digest(self) -> str:
        parts: list[Any] = [
            self.status,
            self.assignee,
            self.unassigned,
            self.decision,
            self.entity,
            self.order,
        ]
        return hashlib.blake2b(msgspec.json.encode(parts), digest_size=8).hexdigest()


@dataclass(frozen=True, slots=True)
class CasePage:
    """Cases in the order asked for; ``next`` is the cursor of what follows, None at the end."""

    cases: list[Case]
    next: str | None


def alert_key(event_id: str, source: Source) -> str:
    """What an alert is known by: its event's id and place. The same id may be alerted again after days.

    >>> alert_key("t-1", Source("payments.events", 0, 7))[:8]
    'a-9e682b'
    """
    named = msgspec.json.encode((event_id, source.topic, source.partition, source.offset))
    return f"a-{hashlib.sha256(named).hexdigest()[:40]}"


def stake_of(score: float | None, amount: float | None) -> float:
    """What an alert adds to its case's priority: score times amount.

    An event without an amount counts by its score alone, an alert without a score as a certain one.

    >>> stake_of(0.5, -80.0), stake_of(None, 80.0), stake_of(0.9, None)
    (40.0, 80.0, 0.9)
    """
    return min((1.0 if score is None else score) * (1.0 if amount is None else abs(amount)), _MOST)


def _bad_cursor(what: str) -> BadCursorError:
    return BadCursorError(what, remedy="ask for the first page again, without a cursor")
