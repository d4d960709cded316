"""Dead letters: an input record that can not be scored, kept byte by byte, with its reason in headers."""

from __future__ import annotations

from typing import Any

import msgspec

from domain.errors import EventRejected
from stream.outbox import Headers
from stream.topics import HEADER_REJECTED, MAX_MESSAGE_BYTES

__all__ = [
    "HEADER_CUT_FROM",
    "HEADER_DETAIL",
    "HEADER_FIELD",
    "HEADER_OFFSET",
    "HEADER_PARTITION",
    "HEADER_REASON",
    "HEADER_REMEDY",
    "HEADER_TIMESTAMP",
    "HEADER_TOPIC",
    "Rejection",
    "dead_letter",
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
HEADER_CUT_FROM = "tidegate-cut-from"
"""Only where the record was too large to be kept whole: how many bytes its value had."""

_BESIDES = 1 << 20
"""Bytes that key and headers may each take of a record that can not be kept whole; more of them is dropped."""


def dead_letter(message: Any, why: EventRejected) -> tuple[bytes | None, bytes | None, Headers]:
    """Key, value and headers of the dead letter: the original's, and our headers after its own.

    Compression can bring in a record that is larger than any we may write. Its value is cut, and a header tells
    from how many bytes; refusing to write it would stop the partition for ever.
    """
    key, value = message.key(), message.value()
    headers: Headers = list(message.headers() or [])
    beside = sum(len(name.encode()) + len(data or b"") for name, data in headers)
    cut: Headers = []
    if len(key or b"") + len(value or b"") + beside > MAX_MESSAGE_BYTES:
        cut = [(HEADER_CUT_FROM, str(len(value or b"")).encode())]
        if beside > _BESIDES:
            headers, beside = [], 0
        if key is not None and len(key) > _BESIDES:
            key = None
        if value is not None:
            value = value[: MAX_MESSAGE_BYTES - beside - len(key or b"")]
    return key, value, [*headers, *_ours(message, why), *cut]


def _ours(message: Any, why: EventRejected) -> Headers:
    headers: Headers = [
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


class Rejection(msgspec.Struct, frozen=True):
    """What a waiting API request is told instead of a verdict; a record of ``replies``."""

    reason: str
    field: str | None = None
    detail: str = ""
    remedy: str = ""


def reply_body(why: EventRejected) -> tuple[bytes, Headers]:
    """What a waiting API request is told instead of a verdict."""
    body = msgspec.json.encode(Rejection(why.reason.value, why.field, why.detail, why.remedy))
    return body, [(HEADER_REJECTED, why.reason.value.encode())]
