"""The offline store's records and errors."""

from __future__ import annotations

import re
from dataclasses import dataclass

from domain.errors import Fatal, Retriable

__all__ = [
    "Appended",
    "ExampleCounts",
    "LogRecord",
    "OfflineUnavailable",
    "Pin",
    "PinGone",
]


class OfflineUnavailable(Retriable):
    """The offline store did not answer, or too many wrote to it at once."""


class PinGone(Fatal):
    """A pinned version that the store no longer holds."""


@dataclass(frozen=True, slots=True)
class LogRecord:
    """A record of a log, as it is: ``partition`` and ``offset`` are its own, not those of the event it is about."""

    partition: int
    offset: int
    value: bytes


@dataclass(frozen=True, slots=True)
class Appended:
    """What became of a batch: rows ``written``, ``repeated`` (the table held them), ``strangers`` (not readable).

    ``version`` is the table's afterwards.
    """

    written: int
    repeated: int
    strangers: int
    version: int


_PIN = re.compile(r"verdicts@(-1|\d{1,15})\+labels@(-1|\d{1,15})")


@dataclass(frozen=True, slots=True)
class Pin:
    """Versions of the two tables: what is read under a pin never changes, whatever is written or compacted later.

    -1 is the time before there was a table.

    >>> str(Pin(12, 7))
    'verdicts@12+labels@7'
    >>> Pin.parse("verdicts@12+labels@7")
    Pin(verdicts=12, labels=7)
    """

    verdicts: int
    labels: int

    def __str__(self) -> str:
        return f"verdicts@{self.verdicts}+labels@{self.labels}"

    @classmethod
    def parse(cls, text: str) -> Pin:
        """The inverse of ``str``. Raises ValueError."""
        found = _PIN.fullmatch(text)
        if found is None:
            raise ValueError(f"{text[:80]!r} is no pin: write verdicts@VERSION+labels@VERSION")
        return cls(int(found[1]), int(found[2]))


@dataclass(frozen=True, slots=True)
class ExampleCounts:
    """How many rows examples would have: all, those with a label, those with label 1."""

    rows: int
    labelled: int
    positive: int
