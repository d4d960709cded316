"""Records that must become dead letters: one kind for each way in which producers get it wrong."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from domain.errors import Reject

__all__ = ["BAD_KINDS", "spoil"]

Record = dict[str, Any]


def _json(record: Record) -> bytes:
    return json.dumps(record, separators=(",", ":")).encode()


def _with(**changes: Any) -> Callable[[Record], bytes]:
    return lambda record: _json({**record, **changes})


def _without(name: str) -> Callable[[Record], bytes]:
    return lambda record: _json({k: v for k, v in record.items() if k != name})


BAD_KINDS: tuple[tuple[Reject, Callable[[Record], bytes]], ...] = (
    (Reject.NOT_JSON, lambda record: _json(record)[:-7]),
    (Reject.NOT_OBJECT, lambda record: _json([record])),  # type: ignore[arg-type]
    (Reject.NOT_FINITE, _with(amount=float("nan"))),
    (
        Reject.NOT_FINITE,
        lambda record: _json({**record, "amount": 7}).replace(b'"amount":7', b'"amount":1e999'),
    ),
    (Reject.MISSING_FIELD, _without("merchant_id")),
    (Reject.WRONG_TYPE, _with(amount="12.50")),
    (Reject.OUT_OF_RANGE, _with(amount=-5.0)),
    (Reject.TOO_LONG, _with(transaction_id="t" * 500)),
    (Reject.EMPTY, _with(account_id="")),
    (Reject.BAD_TIMESTAMP, _with(event_time="yesterday at noon")),
    (Reject.IN_FUTURE, _with(event_time="2199-01-01T00:00:00Z")),
    (Reject.TOO_LARGE, _with(memo="x" * 70_000)),
    (Reject.UNKNOWN_FIELD, _with(card_colour="green")),
    (Reject.BAD_TEXT, _with(merchant_id="m\0")),
    (Reject.BAD_TEXT, _with(merchant_id="m\ud800")),
    (Reject.NOT_JSON, lambda record: _json({**record, "merchant_id": "m?"}).replace(b"m?", b"m\xff\xfe")),
    (Reject.WRONG_KEY, _json),
)
"""Reason code that the record must get, and how to spoil a good record of the payments pipeline."""


def spoil(record: Record, key: str, kind: int) -> tuple[Reject, bytes, str]:
    """A malformed copy of a good record: the reason code it must get, payload, key; ``kind`` is any count."""
    reject, make = BAD_KINDS[kind % len(BAD_KINDS)]
    payload = make({**record, "transaction_id": f"{record['transaction_id']}-bad"})
    return reject, payload, "account-of-somebody-else" if reject is Reject.WRONG_KEY else key
