"""Time as a passed-in port, so that tests and replays decide what "now" is. Always UTC microseconds."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Protocol

__all__ = ["Clock", "ManualClock", "SystemClock", "from_micros", "to_micros"]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def to_micros(moment: datetime) -> int:
    """Microseconds since 1970 (UTC) of an aware datetime, exactly (no float on the way).

    >>> to_micros(datetime(2018, 4, 1, tzinfo=UTC))
    1522540800000000
    """
    if moment.tzinfo is None:
        raise ValueError("naive datetime: give it a timezone")
    delta = moment - _EPOCH
    return (delta.days * 86_400 + delta.seconds) * 1_000_000 + delta.microseconds


def from_micros(micros: int) -> datetime:
    """The inverse of :func:`to_micros`.

    >>> from_micros(1522540800000000).isoformat()
    '2018-04-01T00:00:00+00:00'
    """
    seconds, rest = divmod(micros, 1_000_000)
    return datetime.fromtimestamp(seconds, UTC).replace(microsecond=rest)


class Clock(Protocol):
    """What the time is (``now``, UTC microseconds) and how long things take (``monotonic``, seconds)."""

    def now(self) -> int:
        """Microseconds since 1970, UTC."""
        ...

    def monotonic(self) -> float:
        """Seconds on a clock that never goes back."""
        ...


class SystemClock:
    """The machine's clock."""

    def now(self) -> int:
        """Microseconds since 1970, UTC."""
        return time.time_ns() // 1000

    def monotonic(self) -> float:
        """Seconds on a clock that never goes back."""
        return time.monotonic()


class ManualClock:
    """A clock that stands still until told otherwise."""

    def __init__(self, now: int = 0) -> None:
        self._now = now

    def now(self) -> int:
        """The time it was last set to, in microseconds."""
        return self._now

    def monotonic(self) -> float:
        """The same time in seconds."""
        return self._now / 1e6

    def advance(self, seconds: float) -> None:
        """Move on by ``seconds``."""
        self._now += round(seconds * 1e6)
