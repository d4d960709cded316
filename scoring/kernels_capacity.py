"""Compiled loop of the daily capacity: which rows are among the day's best, while the day goes on."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from domain.batch import Floats, Ints
from domain.compiled import compiled

__all__ = ["take_best"]

DAY = 86_400_000_000
HOUR = DAY // 24


@compiled
def _ahead(profile: Floats, hour: int, part: float) -> float:
    """Rows of a usual day from ``part`` of ``hour`` on."""
    rows: float = profile[hour] * (1.0 - part)
    for later in range(hour + 1, 24):
        rows += profile[later]
    return rows


@compiled
def take_best(
    ranks: Floats,
    times: Ints,
    wanted: npt.NDArray[np.bool_],
    per_day: float,
    most: float,
    keep: float,
    profile: Floats,
    today: Floats,
    counters: Ints,
    out: npt.NDArray[np.bool_],
) -> None:
    """Write to out[i] whether row i is taken; moves ``profile``, ``today`` and ``counters`` on.

    ``ranks``: share of recent rows below (NaN: never taken); ``times``: UTC microseconds; ``wanted``: rows that may
    be taken at all. ``profile``: rows of a usual day by hour, all 0 before a whole day was seen; ``today``: rows so
    far by hour. ``counters``: stream time (-1: none yet), begin of what was seen of the day, taken today, whole days.
    """
    for i in range(ranks.shape[0]):
        stream = max(counters[0], times[i])
        day = stream // DAY
        if counters[0] < 0:
            counters[1] = stream
        elif day > counters[0] // DAY:
            if counters[1] % DAY == 0:  # a whole day
                weight = 1.0 if counters[3] == 0 else 1.0 - keep
                for h in range(24):
                    profile[h] += weight * (today[h] - profile[h])
                counters[3] += 1
            # empty days in between say nothing about a usual day
            today[:] = 0.0
            counters[1] = day * DAY
            counters[2] = 0
        counters[0] = stream
        hour = (stream % DAY) // HOUR
        part = (stream % HOUR) / HOUR
        if np.isnan(ranks[i]):
            today[hour] += 1.0
            continue
        seen = 1.0
        for h in range(hour + 1):
            seen += today[h]
        if counters[3] > 0:
            whole = _ahead(profile, 0, 0.0)
            ahead = _ahead(profile, hour, part)
            # today's pace, which a few early rows shall not decide
            calm = 0.2 * whole + 1.0
            begun = _ahead(profile, (counters[1] % DAY) // HOUR, 0.0)
            ahead *= (seen + calm) / (max(begun - ahead, 0.0) + calm)
        else:
            gone = max(stream - counters[1], HOUR // 4)
            ahead = seen / gone * (DAY - stream % DAY)
        allowed = np.floor(per_day * (day + 1)) - np.floor(per_day * day)
        left = allowed - counters[2]
        top = max(most, min(2.0 * per_day / max(ahead + seen, 1.0), 1.0))
        share = min(left / max(ahead, 1.0), top)
        if left >= 1.0 and wanted[i] and ranks[i] >= 1.0 - share:
            out[i] = True
            counters[2] += 1
        today[hour] += 1.0
