"""What is asked of every JSON body before its values are: no name twice, not too deep, not too many values.

Numbers that are none (NaN, 1e400), texts for numbers and half surrogate pairs are for the decoders of what a body
means, which know the field: msgspec refuses all of them.
"""

from __future__ import annotations

import json
import re
from typing import Any

import numpy as np

from domain.errors import EventRejected, Reject

__all__ = ["MAX_DEPTH", "MAX_VALUES", "check"]

MAX_DEPTH = 32
"""Arrays and objects within each other; events are flat."""
MAX_VALUES = 20_000
"""In one body: a small one of many empty arrays would otherwise take fifty times its size."""
# the closing quote may be missing: then the text goes on to the end, and is looked at once only
_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?', re.DOTALL)
_OPENING = b"[{"
_NO_BRACKETS = bytes(c for c in range(256) if c not in b"[]{}")


class _TwiceError(Exception):
    """A name stands twice in an object."""


def check(raw: bytes, values: int = MAX_VALUES) -> None:
    """Raises EventRejected unless ``raw`` is a JSON text in UTF-8 within the limits."""
    opened = raw.count(b"[") + raw.count(b"{")
    if opened > MAX_DEPTH or raw.count(b",") + opened > values:
        _check_size(raw, values)
    try:
        # the values themselves are not needed, so their texts' lengths stand for numbers; whatever their size
        json.loads(
            raw.decode(),
            object_pairs_hook=_unique,
            parse_int=len,
            parse_float=len,
            parse_constant=len,
            strict=False,
        )
    except _TwiceError:
        raise _refused(
            "a name stands twice in an object; which of the two counts is nobody's to guess.",
            "Send each name once.",
        ) from None
    except (ValueError, RecursionError):
        raise _refused("the body is not valid JSON.", "Send one JSON text in UTF-8.") from None


def _unique(pairs: list[tuple[str, Any]]) -> None:
    if len({name for name, _ in pairs}) != len(pairs):
        raise _TwiceError


def _check_size(raw: bytes, values: int) -> None:
    bare = _STRING.sub(b"", raw)
    brackets = np.frombuffer(bare.translate(None, _NO_BRACKETS), np.uint8)
    opening = np.isin(brackets, np.frombuffer(_OPENING, np.uint8))
    depth = int(np.cumsum(np.where(opening, 1, -1)).max(initial=0))
    if depth > MAX_DEPTH:
        raise _refused(
            f"the body nests more than {MAX_DEPTH} deep.", "Send arrays and objects that nest less."
        )
    if bare.count(b",") + int(opening.sum()) > values:
        raise _refused(f"the body has more than {values:,} values.", "Send less in one request.")


def _refused(detail: str, remedy: str) -> EventRejected:
    return EventRejected(Reject.NOT_JSON, None, detail, remedy=remedy)
