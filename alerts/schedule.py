"""When a delivery that failed is tried again: the schedule of Standard Webhooks, jitter, and ``Retry-After``."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import UTC
from email.utils import parsedate_to_datetime

from domain.clock import to_micros

__all__ = ["LONGEST_RETRY_AFTER", "STANDARD_DELAYS", "Schedule", "retry_after_seconds"]

_MINUTE, _HOUR = 60.0, 3_600.0
STANDARD_DELAYS = (
    0.0,
    5.0,
    5 * _MINUTE,
    30 * _MINUTE,
    2 * _HOUR,
    5 * _HOUR,
    10 * _HOUR,
    14 * _HOUR,
    20 * _HOUR,
    24 * _HOUR,
)
"""Seconds before each attempt, from the end of the one before it: ten attempts over a little more than three days."""
LONGEST_RETRY_AFTER = 24 * _HOUR
"""A receiver that asks for more waits this long: nobody may park our queue for ever."""


@dataclass(frozen=True, slots=True)
class Schedule:
    """``delays`` in seconds, the first before the first attempt; each is made longer by up to the share ``jitter``.

    Only longer: receivers may count on the least time between attempts, and deliveries that failed together spread.
    """

    delays: tuple[float, ...] = STANDARD_DELAYS
    jitter: float = 0.1

    def due(self, attempts: int, now: int, draw: float, retry_after: float | None = None) -> int | None:
        """When the next attempt is due (UTC microseconds) after ``attempts`` failed ones; None: none is left.

        ``draw`` is a random number in [0, 1). ``retry_after`` (seconds) is what the receiver asked for: the attempt
        comes when both it and the schedule allow, at most LONGEST_RETRY_AFTER from now on account of the former.

        >>> Schedule(jitter=0.0).due(1, 0, 0.5)
        5000000
        >>> Schedule(jitter=0.0).due(1, 0, 0.5, retry_after=60.0)
        60000000
        >>> Schedule().due(10, 0, 0.5) is None
        True
        """
        if attempts >= len(self.delays):
            return None
        wait = self.delays[attempts] * (1.0 + self.jitter * draw)
        if retry_after is not None:
            wait = max(wait, min(retry_after, LONGEST_RETRY_AFTER))
        return now + round(wait * 1e6)


def retry_after_seconds(header: str | None, now: int) -> float | None:
    """Seconds that a ``Retry-After`` header (RFC 9110, 10.2.3: seconds, or an HTTP date) asks for from ``now`` on.

    Between 0 and LONGEST_RETRY_AFTER. None when there is no header, or it says nothing that can be understood.
    """
    if header is None:
        return None
    text = header.strip()
    # isdecimal alone would take digits of every script, and int() any number of them
    if text.isascii() and text.isdecimal():
        return LONGEST_RETRY_AFTER if len(text) > 6 else min(float(text), LONGEST_RETRY_AFTER)
    try:
        moment = parsedate_to_datetime(text)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    try:
        seconds = (to_micros(moment) - now) / 1e6
    except OverflowError:
        return None
    return min(max(seconds, 0.0), LONGEST_RETRY_AFTER) if math.isfinite(seconds) else None
