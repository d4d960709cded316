"""Seeded payments as careless producers send them: repeats, malformed records, and events that come hours late."""

from __future__ import annotations

import random
from collections.abc import Iterator

from stream.generator import Traffic, TrafficEvent, TrafficSettings
from stream.replay import Sendable

__all__ = ["records"]

LATE_SHARE = 0.01
LATEST = 600
"""Places by which an event is held back at most: about an hour and a half of the simulated clock."""
# More accounts than a worker holds in memory (its least is 1,000), so that state is read back all the time.
_ACCOUNTS, _MERCHANTS = 2_500, 300


def records(count: int, seed: int) -> list[Sendable]:
    """``count`` records, the same ones for the same ``seed``; some are late, repeated or no events at all."""
    settings = TrafficSettings(
        seed=seed,
        accounts=_ACCOUNTS,
        merchants=_MERCHANTS,
        fraud_share=0.02,
        bad_share=0.005,
        duplicate_share=0.01,
    )
    events = Traffic(settings).take(count)
    return [Sendable(e.key.encode(), e.payload, e.time) for e in _held_back(events, random.Random(seed))]


def _held_back(events: Iterator[TrafficEvent], chance: random.Random) -> Iterator[TrafficEvent]:
    waiting: list[tuple[int, TrafficEvent]] = []
    for place, event in enumerate(events):
        if chance.random() < LATE_SHARE:
            waiting.append((place + chance.randrange(1, LATEST), event))
        else:
            yield event
        due = [late for at, late in waiting if at <= place]
        waiting = [(at, late) for at, late in waiting if at > place]
        yield from due
    yield from (late for _, late in waiting)
