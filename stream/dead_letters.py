"""Dead letters: an input record that can not be scored, kept byte by byte, with its reason in headers."""

from __future__ import annotations

from typing import Any

import msgspec

from domain.errors import EventRejected
from stream.outbox import Headers
from stream.topics import HEADER_REJECTED

__all__ = [
    "HEADER_DETAIL",
    "HEADER_FIELD",
    "HEADER_OFFSET",
    "HEADER_PARTITION",
    "HEADER_REASON",
    "HEADER_REMEDY",
    "HEADER_TOPIC",
    "dead_letter_headers",
    "reply_body",
]

HEADER_REASON = "tidegate-reason"
"""Stable reason code, one of domain.errors.Reject."""
HEADER_FIELD = "tidegate-field"
HEADER_DETAIL = "tidegate-detail"
HEADER_REMEDY = "tidegate-remedy"
HEADER_TOPIC = "tidegate-source-topic"
HEADER_PARTITION = "tidegate-source-partition"
HEADER_OFFSET = "tidegate-source-offset"
HEADER_TIMESTAMP = "tidegate-source-timestamp"


def dead_letter_headers(message: Any, why: EventRejected) -> Headers:
    """The original headers, then ours."""
    headers: Headers = [(name, value) for name, value in message.headers() or [] if value is not None]
    headers += [
        (HEADER_REASON, why.reason.value.encode()),
        (HEADER_DETAIL, why.detail.encode(errors="replace")),
        (HEADER_REMEDY, why.remedy.encode(errors="replace")),
        (HEADER_TOPIC, message.topic().encode()),
        (HEADER_PARTITION, str(message.partition()).encode()),
        (HEADER_OFFSET, str(message.offset()).encode()),
        (HEADER_TIMESTAMP, str(message.timestamp()[1]).encode()),
    ]
    if why.field is not None:
        headers.append((HEADER_FIELD, why.field.encode(errors="replace")))
    return headers


def reply_body(why: EventRejected) -> tuple[bytes, Headers]:
    """What a waiting API request is told instead of a verdict."""
    body = msgspec.json.encode(
        {"reason": why.reason.value, "field": why.field, "detail": why.detail, "remedy": why.remedy}
    )
    return body, [(HEADER_REJECTED, why.reason.value.encode())]
