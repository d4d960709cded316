"""From Kafka records to accepted events and reasons for the others; the same for scoring and recovery."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from domain.codec import DecodedEvent, EventCodec
from domain.erasure import CONTROL_ERASE, Erasure
from domain.errors import EventRejected, Reject
from stream.topics import HEADER_CONTROL

__all__ = ["Decoded", "cut_at_erasures", "decode_messages", "erasure_of"]


@dataclass(frozen=True, slots=True)
class Decoded:
    """``accepted[i]`` is the index of the record that holds ``events[i]``; ``rejected`` are the others."""

    events: list[DecodedEvent]
    accepted: list[int]
    rejected: list[tuple[int, EventRejected]]


def erasure_of(codec: EventCodec, message: Any) -> Erasure | None:
    """The erasure that a record of ``events`` is, None when it is none that we signed."""
    headers = message.headers()
    if not headers or (HEADER_CONTROL, CONTROL_ERASE) not in headers:
        return None
    return codec.erasures.decode(message.value() or b"", message.partition())


def cut_at_erasures(codec: EventCodec, messages: list[Any]) -> list[tuple[list[Any], Erasure | None]]:
    """``messages`` in their order, as pieces: many with events (and None), or one that is an erasure."""
    pieces: list[tuple[list[Any], Erasure | None]] = []
    start = 0
    for at, message in enumerate(messages):
        erasure = erasure_of(codec, message)
        if erasure is not None:
            if start < at:
                pieces.append((messages[start:at], None))
            pieces.append(([message], erasure))
            start = at + 1
    if start < len(messages):
        pieces.append((messages[start:], None))
    return pieces


def decode_messages(codec: EventCodec, messages: list[Any]) -> Decoded:
    """Decode records of one partition. What is "too far in the future" is told by the record's own timestamp,
    so that a replay decides the same.
    """
    events, rejected = codec.decode_many(
        [message.value() or b"" for message in messages],
        [message.timestamp()[1] * 1000 for message in messages],
    )
    refused = {index for index, _ in rejected}
    accepted = (
        [i for i in range(len(messages)) if i not in refused] if refused else list(range(len(messages)))
    )
    wrong = [
        row
        for row, (index, event) in enumerate(zip(accepted, events, strict=True))
        if messages[index].key() != codec.expected_key(event)
    ]
    if wrong:
        for row in wrong:
            rejected.append((accepted[row], _wrong_key()))
        dropped = set(wrong)
        events = [event for row, event in enumerate(events) if row not in dropped]
        accepted = [index for row, index in enumerate(accepted) if row not in dropped]
        rejected.sort(key=lambda pair: pair[0])
    return Decoded(events, accepted, rejected)


def _wrong_key() -> EventRejected:
    return EventRejected(
        Reject.WRONG_KEY,
        None,
        "the record's key is not the event's key field, so its entity could be in two partitions at once.",
        remedy="produce with the key field's text as key (POST /v1/score and `tidegate replay` do).",
    )
