"""Dead letters read back: what one says about itself, which ones are meant, and the event to put in again.

Pure: records come as confluent-kafka messages (or anything with their methods), nothing is asked of Kafka.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from stream.dead_letters import (
    HEADER_CUT_FROM,
    HEADER_DETAIL,
    HEADER_FIELD,
    HEADER_OFFSET,
    HEADER_PARTITION,
    HEADER_REASON,
    HEADER_REMEDY,
    HEADER_TIMESTAMP,
    HEADER_TOPIC,
)
from stream.outbox import Headers
from stream.topics import MAX_MESSAGE_BYTES

__all__ = [
    "HEADER_REDRIVEN",
    "HEADER_REDRIVES",
    "MAX_REDRIVES",
    "DeadLetter",
    "Origin",
    "Place",
    "Refusal",
    "Selection",
    "event_headers",
    "read_letter",
    "refusal",
]

HEADER_REDRIVEN = "tidegate-redriven"
"""On an event: the place of the dead letter that it was, as ``partition:offset``."""
HEADER_REDRIVES = "tidegate-redrives"
"""On an event: how many times it was put back so far, decimal text."""
MAX_REDRIVES = 3
"""An event that was refused so often will be refused again: somebody redrives in a loop."""

_REQUIRED = {
    HEADER_REASON, HEADER_DETAIL, HEADER_REMEDY, HEADER_TOPIC, HEADER_PARTITION, HEADER_OFFSET, HEADER_TIMESTAMP
}  # fmt: skip
_OURS = _REQUIRED | {HEADER_FIELD, HEADER_CUT_FROM}
_LONGEST_CODE = 64
"""Of a reason code. Codes are not looked up, so that letters of a newer worker can be read, too."""
_FRAMING = 512
"""Bytes Kafka takes around one record (batch header, lengths, offsets), rounded up generously."""
_HEADER_FRAMING = 10
"""Bytes Kafka takes around one header: two lengths of up to five bytes."""


@dataclass(frozen=True, slots=True, order=True)
class Place:
    """Where a record lies in its topic.

    >>> Place.parse("3:17")
    Place(partition=3, offset=17)
    """

    partition: int
    offset: int

    @classmethod
    def parse(cls, text: str) -> Place:
        """From ``partition:offset``; raises ValueError with the right spelling otherwise."""
        partition, colon, offset = text.strip().partition(":")
        if not (colon and _is_number(partition) and _is_number(offset)):
            raise ValueError(f"{text!r} is no place; write PARTITION:OFFSET, such as 0:17")
        return cls(int(partition), int(offset))

    def __str__(self) -> str:
        return f"{self.partition}:{self.offset}"


@dataclass(frozen=True, slots=True)
class Origin:
    """What the headers of a dead letter tell. ``time`` is that of the event's record, UTC microseconds.

    ``cut_from``: how many bytes the value had, where it was too large to be kept whole.
    """

    reason: str
    field: str | None
    detail: str
    remedy: str
    topic: str
    place: Place
    time: int
    cut_from: int | None


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """One record of the dead letter topic. ``time`` is when it was written, UTC microseconds.

    ``key``, ``value`` and ``headers`` are those of the event. ``origin`` is None for a record that somebody
    else wrote there; ``headers`` are then all it has. ``redrives`` tells how often the event had been put
    back before it became this letter, ``redriven_from`` as which letter the last time.
    """

    place: Place
    time: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes | None], ...]
    origin: Origin | None
    redrives: int
    redriven_from: Place | None

    @property
    def reason(self) -> str:
        """The reason code, or ``unknown`` where there is none."""
        return "unknown" if self.origin is None else self.origin.reason


def read_letter(message: Any) -> DeadLetter:
    """The dead letter in a record; never raises, whatever the record is."""
    headers = [(name, _bytes(value)) for name, value in message.headers() or []]
    origin, count = _origin(headers)
    headers = headers[: len(headers) - count]
    last = dict(headers)
    redrives = _text(last.get(HEADER_REDRIVES))
    try:
        redriven_from = Place.parse(_text(last.get(HEADER_REDRIVEN)))
    except ValueError:
        redriven_from = None
    return DeadLetter(
        Place(message.partition(), message.offset()),
        message.timestamp()[1] * 1000,
        message.key(),
        message.value(),
        tuple(headers),
        origin,
        int(redrives) if _is_number(redrives) else 0,
        redriven_from,
    )


def _origin(headers: list[tuple[str, bytes | None]]) -> tuple[Origin | None, int]:
    """What our headers tell, and how many they are.

    Ours stand behind those of the event, which may bear the same names; ours begin with the last reason.
    """
    start = max((i for i, (name, _) in enumerate(headers) if name == HEADER_REASON), default=len(headers))
    ours = headers[start:]
    told = {name: _text(value) for name, value in ours}
    numbers = [told.get(name, "") for name in (HEADER_PARTITION, HEADER_OFFSET, HEADER_TIMESTAMP)]
    cut = told.get(HEADER_CUT_FROM)
    if (
        len(told) != len(ours)
        or not _REQUIRED <= told.keys() <= _OURS
        or not (told[HEADER_REASON].isidentifier() and len(told[HEADER_REASON]) <= _LONGEST_CODE)
        or not all(_is_number(n) for n in numbers)
        or not (cut is None or _is_number(cut))
    ):
        return None, 0
    partition, offset, millis = map(int, numbers)
    origin = Origin(
        reason=told[HEADER_REASON],
        field=told.get(HEADER_FIELD),
        detail=told[HEADER_DETAIL],
        remedy=told[HEADER_REMEDY],
        topic=told[HEADER_TOPIC],
        place=Place(partition, offset),
        time=millis * 1000,
        cut_from=None if cut is None else int(cut),
    )
    return origin, len(ours)


@dataclass(frozen=True, slots=True)
class Selection:
    """Which dead letters are meant; an empty set and None mean all.

    ``since`` (inclusive) and ``until`` (exclusive) are UTC microseconds of the letter's own time; ``partitions``
    and ``places`` are those of the dead letter topic.
    """

    reasons: frozenset[str] = frozenset()
    partitions: frozenset[int] = frozenset()
    places: frozenset[Place] = frozenset()
    since: int | None = None
    until: int | None = None

    def takes(self, letter: DeadLetter) -> bool:
        """Whether ``letter`` is meant."""
        return (
            (not self.reasons or letter.reason in self.reasons)
            and (not self.partitions or letter.place.partition in self.partitions)
            and (not self.places or letter.place in self.places)
            and (self.since is None or letter.time >= self.since)
            and (self.until is None or letter.time < self.until)
        )


class Refusal(StrEnum):
    """Why a letter is not put back."""

    ALREADY = "already_redriven"
    FOREIGN = "not_a_dead_letter"
    CUT = "cut"
    TOO_LARGE = "too_large_with_our_headers"
    NO_PARTITION = "no_such_source_partition"
    TOO_OFTEN = "redriven_too_often"


def refusal(
    letter: DeadLetter, *, topic: str, partitions: int, redriven: bool, force: bool = False
) -> Refusal | None:
    """Why ``letter`` must not go back into ``topic`` of so many ``partitions``; None when it may.

    ``redriven``: it went before. ``force`` lets an event go that was refused MAX_REDRIVES times after a redrive,
    and nothing else.
    """
    origin = letter.origin
    if redriven:
        return Refusal.ALREADY
    if origin is None or origin.topic != topic:
        return Refusal.FOREIGN
    if origin.cut_from is not None:
        return Refusal.CUT
    if origin.place.partition >= partitions:
        return Refusal.NO_PARTITION
    if letter.redrives >= MAX_REDRIVES and not force:
        return Refusal.TOO_OFTEN
    headers = event_headers(letter)
    size = len(letter.key or b"") + len(letter.value or b"") + _FRAMING
    size += sum(len(name.encode()) + len(value or b"") + _HEADER_FRAMING for name, value in headers)
    return Refusal.TOO_LARGE if size > MAX_MESSAGE_BYTES else None


def event_headers(letter: DeadLetter) -> Headers:
    """The headers with which the event goes back: its own, and behind them where it comes from now."""
    own: Headers = [
        (name, value) for name, value in letter.headers if name not in {HEADER_REDRIVEN, HEADER_REDRIVES}
    ]
    return [
        *own,
        (HEADER_REDRIVEN, str(letter.place).encode()),
        (HEADER_REDRIVES, str(letter.redrives + 1).encode()),
    ]


def _bytes(value: str | bytes | None) -> bytes | None:
    return value.encode() if isinstance(value, str) else value


def _text(value: bytes | None) -> str:
    return (value or b"").decode(errors="replace")


def _is_number(text: str) -> bool:
    """Whether ``text`` is a decimal number that fits 63 bits; headers may hold anything."""
    return text.isascii() and text.isdigit() and len(text) <= 18
