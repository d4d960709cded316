"""Bodies and answers of ``/v1/webhooks``, and how OpenAPI describes them."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

from lifecycle.webhook_store import LONGEST_OVERLAP
from lifecycle.webhooks import (
    Attempt,
    Delivery,
    Endpoint,
    NewSecret,
    Order,
    Replayed,
    SecretInfo,
    WebhookFilter,
)

__all__ = [
    "CHANGED",
    "DELIVERIES",
    "DELIVERY",
    "ENDPOINT",
    "ENDPOINTS",
    "MADE",
    "QUEUED",
    "REPLAYED",
    "SCHEMAS",
    "SECRET",
    "EndpointBody",
    "ReasonBody",
    "ReplayBody",
    "RotateBody",
    "body",
]

Micros = Annotated[int, msgspec.Meta(ge=0, le=2**53, description="UTC microseconds")]


class ReasonBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Why; kept in the audit."""

    reason: Annotated[str, msgspec.Meta(min_length=1, max_length=500)] = "API"


class EndpointBody(ReasonBody, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An endpoint: ``rate`` is deliveries a second at most; ``order`` key: one after the other for each key entity.

    ``revision``, when changing: what the caller has seen; 409 when it is another by now.
    """

    url: Annotated[str, msgspec.Meta(min_length=1, max_length=2000, description="https://host/path")]
    description: Annotated[str, msgspec.Meta(max_length=200)] = ""
    filter: WebhookFilter = WebhookFilter()
    rate: Annotated[float, msgspec.Meta(ge=0.001, le=1000)] | None = None
    order: Order = Order.NONE
    enabled: bool = True
    revision: Annotated[int, msgspec.Meta(ge=1, le=2**53)] | None = None


class RotateBody(ReasonBody, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How long secrets before the new one live on."""

    overlap_seconds: Annotated[float, msgspec.Meta(ge=0, le=LONGEST_OVERLAP)] = 86_400.0


class ReplayBody(ReasonBody, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Alerts taken in from ``since`` to before ``until``, or ``messages`` by id.

    ``after`` is the ``last`` of the call before, when that said ``more``.
    """

    since: Micros | None = None
    until: Micros | None = None
    messages: Annotated[tuple[str, ...], msgspec.Meta(min_length=1, max_length=1000)] | None = None
    after: Annotated[int, msgspec.Meta(ge=0, le=2**53)] = 0


SCHEMAS = (
    Endpoint, SecretInfo, NewSecret, Delivery, Attempt, Replayed,
    ReasonBody, EndpointBody, RotateBody, ReplayBody,
)  # fmt: skip
"""For OpenAPI's components."""


def body(name: str) -> dict[str, Any]:
    """OpenAPI's description of a body."""
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": _ref(name)}}}}


def _ref(name: str) -> dict[str, Any]:
    return {"$ref": f"#/components/schemas/{name}"}


def _many(name: str) -> dict[str, Any]:
    return {"type": "array", "items": _ref(name)}


def _object(**properties: Any) -> dict[str, Any]:
    schema = {"type": "object", "required": list(properties), "properties": properties}
    return {"application/json": {"schema": schema}}


ENDPOINTS = _object(endpoints=_many("Endpoint"))
ENDPOINT = _object(endpoint=_ref("Endpoint"), secrets=_many("SecretInfo"))
MADE = _object(endpoint=_ref("Endpoint"), secret=_ref("NewSecret"))
CHANGED = _object(endpoint=_ref("Endpoint"))
SECRET = _object(secret=_ref("NewSecret"))
QUEUED = _object(message={"type": "string", "description": "id of the message"})
REPLAYED = {"application/json": {"schema": _ref("Replayed")}}
DELIVERIES = _object(
    deliveries=_many("Delivery"),
    next={"type": ["integer", "null"], "description": "before of the next page; null: there may be none"},
)
DELIVERY = _object(delivery=_ref("Delivery"), attempts=_many("Attempt"))
