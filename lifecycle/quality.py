"""Is the input as it was? Each window of some minutes against the windows of the day before; pure.

Rules, all of which ask for a change that nobody would dispute, as an alarm that cries wolf is switched off:

- A *share* (missing values, values out of range, refused records) alarms when it is above the greatest share of the
  windows before by ``least_change``, and by six standard errors of a difference of two proportions.
- *Volume* alarms below a fifth of the smallest window of the last day, or above five times the largest. It needs a
  whole day to compare with, since nights are quiet.
- *Freshness* alarms when the median age of events is ten times the greatest before, and above a minute.

Of eight windows or more the two lowest and the two highest are left aside, so that damage of half an hour does not
hide the same damage later that day.

A finding is told in the first window that has it, and again after a window without.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from domain.quality_record import QualityAlarm, QualityCheck, quality_id

__all__ = ["QualitySettings", "Window", "alarms", "shares"]


_FORGIVEN, _ENOUGH = 2, 8
"""Windows left aside at either end, and of how many."""


@dataclass(frozen=True, slots=True)
class QualitySettings:
    """``window`` in microseconds; ``day`` is how many windows are compared with.

    ``least_change`` is of shares of events, ``least_refused`` of shares of records refused.
    """

    window: int = 900_000_000
    day: int = 96
    least_change: float = 0.05
    least_refused: float = 0.01
    least_events: int = 100
    standard_errors: float = 6.0
    volume_ratio: float = 5.0
    age_ratio: float = 10.0
    least_age: float = 60.0


@dataclass(frozen=True, slots=True)
class Window:
    """What came in one window. ``age`` is the median of scored_at - event_time, seconds, NaN without events."""

    start: int
    events: int = 0
    missing: Mapping[str, int] = field(default_factory=dict)
    out_of_range: int = 0
    age: float = math.nan
    refused: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Found:
    value: float
    usual: tuple[float, float]
    limit: float
    text: str


_Key = tuple[QualityCheck, str]


def shares(window: Window) -> dict[_Key, tuple[int, int]]:
    """Counts that are judged as shares: how many of how many, by check and column."""
    found: dict[_Key, tuple[int, int]] = {
        (QualityCheck.MISSING, name): (count, window.events) for name, count in window.missing.items()
    }
    found[QualityCheck.RANGE, "events"] = window.out_of_range, window.events
    records = window.events + sum(window.refused.values())
    for reason, count in window.refused.items():
        found[QualityCheck.SCHEMA, reason] = count, records
    return found


def alarms(pipeline: str, windows: Sequence[Window], settings: QualitySettings) -> list[QualityAlarm]:
    """What is wrong in the last of ``windows`` and was not in the one before it.

    ``windows`` follow each other without gap, an empty one where nothing came.
    """
    if len(windows) < 2:
        return []
    last = windows[-1]
    end = last.start + settings.window
    before = _findings(windows[:-1], settings)
    return [
        QualityAlarm(
            id=quality_id(pipeline, check, column, end),
            pipeline=pipeline,
            check=check,
            column=column,
            window=(last.start, end),
            value=found.value,
            usual=found.usual,
            limit=found.limit,
            events=last.events,
            text=found.text,
        )
        for (check, column), found in sorted(_findings(windows, settings).items())
        if (check, column) not in before
    ]


def _findings(windows: Sequence[Window], settings: QualitySettings) -> dict[_Key, _Found]:
    last, past = windows[-1], windows[:-1][-settings.day :]
    found: dict[_Key, _Found] = {}
    known = [shares(window) for window in past]
    for key, (count, total) in shares(last).items():
        least = settings.least_refused if key[0] is QualityCheck.SCHEMA else settings.least_change
        earlier = [_of(window, counted, key) for window, counted in zip(past, known, strict=True)]
        if (share := _share(key, count, total, earlier, least, settings)) is not None:
            found[key] = share
    for key, one in (
        ((QualityCheck.VOLUME, "events"), _volume(last, past, settings)),
        ((QualityCheck.FRESHNESS, "events"), _age(last, past, settings)),
    ):
        if one is not None:
            found[key] = one
    return found


def _of(window: Window, counted: Mapping[_Key, tuple[int, int]], key: _Key) -> tuple[int, int]:
    """Counts of a window; what it does not name did not occur in it, unless it did not know the column yet."""
    if key in counted or key[0] is QualityCheck.MISSING:
        return counted.get(key, (0, 0))
    return 0, window.events + (sum(window.refused.values()) if key[0] is QualityCheck.SCHEMA else 0)


def _share(
    key: _Key,
    count: int,
    total: int,
    past: Iterable[tuple[int, int]],
    least: float,
    settings: QualitySettings,
) -> _Found | None:
    large = [(c, n) for c, n in past if n >= settings.least_events]
    if total < settings.least_events or not large:
        return None
    value = count / total
    usual = _without_extremes([c / n for c, n in large])
    limit = max(usual) + least
    counted, seen = sum(c for c, _ in large), sum(n for _, n in large)
    pooled = (counted + count) / (seen + total)
    error = math.sqrt(pooled * (1 - pooled) * (1 / seen + 1 / total))
    if value < limit or error == 0 or (value - counted / seen) / error < settings.standard_errors:
        return None
    what = {
        QualityCheck.MISSING: f"{key[1]} is missing in {value:.1%} of events",
        QualityCheck.RANGE: f"{value:.1%} of events have values far out of range",
        QualityCheck.SCHEMA: f"{value:.1%} of records are refused: {key[1]}",
    }[key[0]]
    return _Found(value, (min(usual), max(usual)), limit, f"{what}; at most {max(usual):.1%} before")


def _volume(last: Window, past: Sequence[Window], settings: QualitySettings) -> _Found | None:
    counts = _without_extremes([window.events for window in past])
    if len(past) < settings.day or min(counts) < settings.least_events // 2:
        return None
    low, high = min(counts) / settings.volume_ratio, max(counts) * settings.volume_ratio
    limit = low if last.events < low else high
    if low <= last.events <= high:
        return None
    text = f"{last.events:,} events came; {min(counts):,} to {max(counts):,} in windows of the day before"
    return _Found(last.events, (min(counts), max(counts)), limit, text)


def _age(last: Window, past: Sequence[Window], settings: QualitySettings) -> _Found | None:
    ages = _without_extremes([window.age for window in past if window.events >= settings.least_events])
    if not ages or last.events < settings.least_events:
        return None
    limit = max(settings.least_age, settings.age_ratio * max(ages))
    if last.age <= limit:
        return None
    text = (
        f"half of the events were older than {last.age:,.0f} s when scored; {max(ages):,.0f} s at most before"
    )
    return _Found(last.age, (min(ages), max(ages)), limit, text)


def _without_extremes(values: Sequence[float]) -> list[float]:
    """Sorted, and without the two lowest and highest where there are enough.

    >>> _without_extremes([9, 1, 2, 3, 4, 5, 6, 7])
    [3, 4, 5, 6]
    """
    ordered = sorted(values)
    return ordered[_FORGIVEN:-_FORGIVEN] if len(ordered) >= _ENOUGH else ordered
