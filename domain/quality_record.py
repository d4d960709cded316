"""Records of the topic ``drift`` on the quality of the input: what is wrong, since which window, and the evidence.

Like all records there they say with ``type`` what they are. Times are UTC microseconds of when events were scored.
"""

from __future__ import annotations

import hashlib
from enum import StrEnum

import msgspec

__all__ = ["QualityAlarm", "QualityCheck", "quality_id"]


class QualityCheck(StrEnum):
    """What was looked at.

    ``missing``    the share of events in which a feature had no value
    ``range``      the share of events with a value far outside of what recent traffic had
    ``schema``     the share of input records refused, by reason and field
    ``volume``     how many events came
    ``freshness``  how old events were when they were scored (median, seconds)
    """

    MISSING = "missing"
    RANGE = "range"
    SCHEMA = "schema"
    VOLUME = "volume"
    FRESHNESS = "freshness"


class QualityAlarm(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="quality"):
    """A window in which the input was not as it had been during the day before.

    ``column`` is the feature, ``reason`` or ``reason:field`` of dead letters, or ``events``. ``value`` is what
    ``window`` [start, end) had, ``usual`` the least and the greatest of the windows before it, ``limit`` what ``value``
    passed, ``events`` how many the window counts. ``id`` follows from pipeline, check, column and window, so telling
    it twice tells one thing.
    """

    id: str
    pipeline: str
    check: QualityCheck
    column: str
    window: tuple[int, int]
    value: float
    usual: tuple[float, float]
    limit: float
    events: int
    text: str


def quality_id(pipeline: str, check: QualityCheck, column: str, window_end: int) -> str:
    """The alarm's id.

    >>> quality_id("payments", QualityCheck.MISSING, "amount", 0)
    'q-54c833e52662'
    """
    key = "\n".join((pipeline, check.value, column, str(window_end)))
    return "q-" + hashlib.sha256(key.encode()).hexdigest()[:12]
