"""Records of the topic ``drift``: what moved, by how much, since when, and the evidence for it.

A record says with ``type`` what it is; readers skip types they do not know. Times are UTC microseconds of *event time*:
drift is about when things happened, and a replay says the same.
"""

from __future__ import annotations

import hashlib

import msgspec

__all__ = ["DriftAlarm", "Evidence", "Exceeded", "alarm_id"]


class Exceeded(msgspec.Struct, frozen=True, kw_only=True):
    """A monitor beyond its limit: its kind, its ``statistic`` and the ``threshold`` that calibration gave it.

    Kinds and their units: ``psi`` (population stability index), ``ks`` (difference of cumulated shares),
    ``page_hinkley`` (cumulated standard deviations), ``adwin`` (-log10 of delta), ``kswin`` (-log10 of the p-value).
    """

    monitor: str
    statistic: float
    threshold: float


class Evidence(msgspec.Struct, frozen=True, kw_only=True):
    """Two histograms over the same bins: what was expected of these hours, and what came.

    ``edges`` are the borders of the bins of values: the first bin lies below ``edges[0]``, bin i holds
    ``edges[i - 1] <= value < edges[i]``, the last one what is ``edges[-1]`` or more. ``reference`` and ``current`` are
    shares of all events, one for each bin; what is left to 1 are ``missing`` values. ``events`` were counted.
    """

    edges: list[float]
    reference: list[float]
    current: list[float]
    reference_missing: float
    current_missing: float
    events: int


class DriftAlarm(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="alarm"):
    """A column of the verdicts no longer looks as in its reference.

    ``id`` follows from pipeline, reference, column and ``raised_at``, so telling it twice tells one thing.
    ``column`` is ``feature:<name>``, ``score``, ``decision`` or ``error``. ``shift`` is by how much the mean rank moved
    (-1 to 1; 0.1 means that a typical value now lies where a tenth more of the reference was below it; null when no
    values came). ``since`` is an estimate, at a cell's border; ``raised_at`` the end of the cell that raised it;
    ``window`` [start, end) is what ``evidence.current`` counts. ``monitors`` are all that left their limit then.
    """

    id: str
    pipeline: str
    pipeline_digest: str
    reference: str
    column: str
    raised_at: int
    since: int
    window: tuple[int, int]
    shift: float | None
    monitors: list[Exceeded]
    evidence: Evidence
    text: str


def alarm_id(pipeline: str, reference: str, column: str, raised_at: int) -> str:
    """The alarm's id.

    >>> alarm_id("payments", "r-1", "score", 0)
    'd-c8f3944ba7ae'
    """
    key = "\n".join((pipeline, reference, column, str(raised_at)))
    return "d-" + hashlib.sha256(key.encode()).hexdigest()[:12]
