"""How good decisions were, as of now, from labels that have had their time. Pure.

A label comes days after its event, so whoever looks at the newest days sees too little fraud, and takes what nobody has
reported yet for right or wrong decisions. So a day of event time (UTC) counts only once it is *mature*: its last event
is older than the label maturity. Days are never cut, and mature ones never mixed with others.

On verification latency: Dal Pozzolo, Boracchi, Caelen, Alippi and Bontempi, "Credit Card Fraud Detection: A Realistic
Modeling and a Novel Learning Strategy", IEEE Transactions on Neural Networks and Learning Systems 29 (2018).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from domain.batch import Floats, Ints
from lifecycle.evaluation import DAY, Bools, Ranks

__all__ = ["DayQuality", "MaturityReport", "Quality", "ScoredEvents", "maturity_report"]


@dataclass(frozen=True, slots=True)
class ScoredEvents:
    """``n`` events with what was said of them and what is known now. Repetitions are left out by the caller.

    times     int64[n]: event times, UTC microseconds
    score     float64[n]: NaN where every detector abstained
    alert     bool[n]: whether the decision was review or block
    label     float64[n]: 1, 0, NaN unknown
    known_at  int64[n]: since when the label is known, UTC microseconds; any value where it is not
    """

    times: Ints
    score: Floats
    alert: Bools
    label: Floats
    known_at: Ints

    def __len__(self) -> int:
        return len(self.times)


@dataclass(frozen=True, slots=True)
class Quality:
    """Of some events. ``labelled`` and ``positive`` count those whose label is known; alerts are review and block.

    ``precision``: of the labelled alerts the share that is positive; ``recall``: of the positives the share that was
    an alert; ``average_precision`` of the scores. NaN where nothing is there to divide by.
    """

    events: int
    labelled: int
    positive: int
    alerts: int
    alerts_labelled: int
    alerts_positive: int
    precision: float
    recall: float
    average_precision: float


@dataclass(frozen=True, slots=True)
class DayQuality:
    """One UTC day of event time; ``quality`` is None until it is mature."""

    day: int
    mature_at: int
    events: int
    labelled: int
    quality: Quality | None


@dataclass(frozen=True, slots=True)
class MaturityReport:
    """As of ``now``: days in order, all mature ones together, and the same by age of labels.

    ``by_age`` has (age, days, quality): over the days that are at least that old, with the labels that were known by
    that age of their event. It shows how long labels take: where recall no longer moves, they are complete.
    """

    now: int
    maturity: int
    days: tuple[DayQuality, ...]
    mature_days: int
    total: Quality
    by_age: tuple[tuple[int, int, Quality], ...]


def maturity_report(
    events: ScoredEvents,
    *,
    now: int,
    maturity: int,
    ages: Sequence[int] = (),
    unlabelled_negative: bool = False,
) -> MaturityReport:
    """Quality by day and in all, as known at ``now``; durations and times in microseconds.

    A label that becomes known after ``now`` is not known. ``unlabelled_negative`` takes mature events without a label
    for 0, which is right where only fraud is reported; else they are left out.
    """
    known = np.where(events.known_at <= now, events.label, np.nan)
    days = events.times // DAY
    order = np.argsort(days, kind="stable")
    cuts = np.flatnonzero(np.diff(days[order])) + 1
    groups = np.split(order, cuts) if len(order) else []
    made: list[DayQuality] = []
    mature = np.zeros(len(events), dtype=np.bool_)
    for rows in groups:
        day = int(days[rows[0]])
        mature_at = (day + 1) * DAY + maturity
        ready = mature_at <= now
        mature[rows] = ready
        made.append(
            DayQuality(
                day,
                mature_at,
                len(rows),
                int((~np.isnan(known[rows])).sum()),
                _quality(events, known, rows, unlabelled_negative) if ready else None,
            )
        )
    by_age = []
    for age in ages:
        old = (days + 1) * DAY + age <= now
        at_age = np.where(events.known_at - events.times <= age, known, np.nan)
        rows = np.flatnonzero(old)
        by_age.append((age, len(np.unique(days[rows])), _quality(events, at_age, rows, unlabelled_negative)))
    total = _quality(events, known, np.flatnonzero(mature), unlabelled_negative)
    ready_days = sum(one.quality is not None for one in made)
    return MaturityReport(now, maturity, tuple(made), ready_days, total, tuple(by_age))


def _quality(events: ScoredEvents, label: Floats, rows: Ints, unlabelled_negative: bool) -> Quality:
    mine, alert = label[rows], events.alert[rows]
    labelled = ~np.isnan(mine)
    positive = mine == 1.0
    judged = np.ones(len(rows), dtype=np.bool_) if unlabelled_negative else labelled
    hits, judged_alerts = int((alert & positive).sum()), int((alert & judged).sum())
    frauds = int(positive.sum())
    _, average_precision = Ranks(events.score[rows][judged], positive[judged]).areas()
    return Quality(
        events=len(rows),
        labelled=int(labelled.sum()),
        positive=frauds,
        alerts=int(alert.sum()),
        alerts_labelled=int((alert & labelled).sum()),
        alerts_positive=hits,
        precision=hits / judged_alerts if judged_alerts else float("nan"),
        recall=hits / frauds if frauds else float("nan"),
        average_precision=average_precision,
    )
