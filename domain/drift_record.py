"""Records of the topic ``drift``: what moved, by how much, since when, and the evidence; and the monitors' state.

A record says with ``type`` what it is; readers skip types they do not know. Times are UTC microseconds of *event time*:
drift is about when things happened, and a replay says the same.
"""

from __future__ import annotations

import hashlib

import msgspec

__all__ = [
    "BankState",
    "ColumnState",
    "DriftAlarm",
    "DriftState",
    "Evidence",
    "Exceeded",
    "MonitorState",
    "alarm_id",
]


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


class MonitorState(msgspec.Struct, frozen=True, kw_only=True):
    """One monitor of one column now. ``statistic`` null: it can not say, or has seen nothing yet."""

    monitor: str
    statistic: float | None
    threshold: float


class ColumnState(msgspec.Struct, frozen=True, kw_only=True):
    """One column now. ``history`` holds each monitor's statistic in each of the bank's ``history_cells``.

    ``silent_until``: after an alarm the column raises no other before that.
    """

    column: str
    monitors: list[MonitorState]
    silent_until: int | None = None
    history: dict[str, list[float | None]] = {}


class BankState(msgspec.Struct, frozen=True, kw_only=True):
    """Columns that are looked at together.

    ``phase``: ``waiting`` (nothing came), ``warming_up``, ``reference`` (being gathered), ``watching``. ``gathered`` of
    ``needed`` cells are there of the reference that is being gathered, the first one or a successor. ``cell`` is in
    seconds. ``declared`` false alarms in 30 days are this bank's share, ``simulated`` what its thresholds let through
    in simulation (half of it, to be on the safe side); ``extrapolated``: they are rarer than the simulation could show.
    ``late`` rows were left out.
    """

    bank: str
    phase: str
    cell: float
    gathered: int
    needed: int
    reference: str | None
    reference_window: tuple[int, int] | None
    declared: float
    simulated: float | None
    extrapolated: bool
    late: int
    note: str | None
    history_cells: list[int]
    columns: list[ColumnState]


class DriftState(msgspec.Struct, frozen=True, kw_only=True):
    """What ``GET /v1/drift`` answers. ``as_of`` is the event time up to which all is counted, ``written_at`` when
    this was said, by the clock; both null before a monitor has run.
    """

    pipeline: str
    pipeline_digest: str
    as_of: int | None
    written_at: int | None
    banks: list[BankState]
    alarms: list[DriftAlarm]
