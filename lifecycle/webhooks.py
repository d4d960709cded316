"""Webhook endpoints, messages and their deliveries, as records; what may be in them is in ``webhook_rules``.

Times are UTC microseconds. A **message** is an alert (or a test event) as it is sent, with an id that never changes. A
**delivery** is a message for one endpoint: pending until an attempt succeeds or none is left.
"""

from __future__ import annotations

from enum import StrEnum

import msgspec

from domain.errors import Fatal
from domain.verdict import Alert, DecisionName

__all__ = [
    "Attempt",
    "BadEndpoint",
    "Delivery",
    "DeliveryState",
    "Due",
    "Endpoint",
    "EndpointSettings",
    "Incoming",
    "NewSecret",
    "Order",
    "Queued",
    "Replayed",
    "SecretInfo",
    "Settled",
    "UnknownWebhook",
    "WebhookFilter",
]


class UnknownWebhook(Fatal):
    """There is no such endpoint, or no such message at it."""


class BadEndpoint(Fatal):
    """An endpoint's ``field`` is not what it should be."""

    def __init__(self, field: str, message: str, *, remedy: str) -> None:
        super().__init__(f"{field}: {message}", remedy=remedy)
        self.field = field


class Order(StrEnum):
    """In which order an endpoint gets its messages."""

    NONE = "none"
    """As soon as possible, a failed one later than those after it."""
    KEY = "key"
    """Those of one key entity one after the other: one that fails holds up what follows for the same entity."""


class WebhookFilter(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which alerts an endpoint gets: those that everything said here is true of.

    ``decisions`` they may have; ``min_score`` they need (those without a score then do not come); ``reasons``: codes
    of which they have one at least, empty: any or none.
    """

    decisions: tuple[DecisionName, ...] = (DecisionName.REVIEW, DecisionName.BLOCK)
    min_score: float | None = None
    reasons: tuple[str, ...] = ()

    def wants(self, alert: Alert) -> bool:
        """Whether ``alert`` is one of them."""
        if alert.decision not in self.decisions:
            return False
        if self.min_score is not None and (alert.score is None or alert.score < self.min_score):
            return False
        return not self.reasons or any(reason.code in self.reasons for reason in alert.reasons)


class EndpointSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What people say of an endpoint. ``rate``: deliveries a second at most, None: as fast as it answers."""

    url: str
    description: str = ""
    filter: WebhookFilter = WebhookFilter()
    rate: float | None = None
    order: Order = Order.NONE
    enabled: bool = True


class Endpoint(msgspec.Struct, frozen=True, kw_only=True):
    """An endpoint. ``disabled_reason`` says why we disabled it; ``revision`` counts its changes.

    ``paused_until``: it asked for quiet (Retry-After) until then; 0 or past: it did not.
    """

    id: str
    settings: EndpointSettings
    disabled_reason: str | None
    revision: int
    created_at: int
    created_by: str
    changed_at: int
    paused_until: int = 0


class SecretInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A secret without what is secret of it; ``expires_at`` None: lives until it is rotated."""

    id: str
    created_at: int
    expires_at: int | None


class NewSecret(msgspec.Struct, frozen=True, kw_only=True):
    """A secret (``whsec_`` and base64) as it is shown once, when it is made."""

    id: str
    secret: str


class Incoming(msgspec.Struct, frozen=True, kw_only=True):
    """An alert as it was read: ``lane`` groups what must stay in order, ``body`` is what is sent."""

    id: str
    body: str
    lane: str
    alert: Alert


class DeliveryState(StrEnum):
    """How far a delivery is."""

    PENDING = "pending"
    DELIVERED = "delivered"
    FAILED = "failed"
    """The last attempt of the schedule failed, or the receiver answered 410; a replay sends it again."""


class Attempt(msgspec.Struct, frozen=True, kw_only=True):
    """One attempt: number (from 1), when it ended, how long it took, the answer's status, and why it failed."""

    attempt: int
    at: int
    seconds: float
    status: int | None
    error: str | None


class Delivery(msgspec.Struct, frozen=True, kw_only=True):
    """``attempts`` counts since it was queued last; ``status`` and ``error`` are of the last attempt."""

    number: int
    message: str
    kind: str
    state: DeliveryState
    attempts: int
    queued_at: int
    due_at: int
    changed_at: int
    status: int | None
    error: str | None


class Due(msgspec.Struct, frozen=True, kw_only=True):
    """A delivery that is to be attempted now, with all that it needs.

    ``secrets`` are the live ones, raw; none when they were sealed under another key than ours.
    """

    endpoint: str
    number: int
    message: str
    url: str
    body: str
    attempts: int
    secrets: tuple[bytes, ...]

    def __repr__(self) -> str:
        return f"Due({self.endpoint}, {self.number}, {self.message})"


class Settled(msgspec.Struct, frozen=True, kw_only=True):
    """What became of an attempt: delivered without an ``error``, else due again at ``due_at`` (None: never).

    ``pause_until``: the endpoint wants quiet until then; ``gone``: it wants nothing any more.
    """

    due: Due
    at: int
    seconds: float
    status: int | None
    error: str | None
    due_at: int | None = None
    pause_until: int | None = None
    gone: bool = False


class Replayed(msgspec.Struct, frozen=True, kw_only=True):
    """How many messages were queued again, and whether the limit left some out; ``last`` number among them."""

    queued: int
    more: bool
    last: int | None


class Queued(msgspec.Struct, frozen=True, kw_only=True):
    """What waits for an endpoint: how many, and since when the oldest is due (None: nothing waits)."""

    endpoint: str
    pending: int
    oldest_due: int | None
