"""Quality as of now: which days count, and with which labels."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score

from lifecycle.evaluation import DAY
from lifecycle.maturity import ScoredEvents, maturity_report

HOUR = DAY // 24
Row = tuple[int, float, bool, float | None, int]
"""Event time, score, alert, label, known at."""


def events(*rows: Row) -> ScoredEvents:
    columns: list[tuple[Any, ...]] = list(zip(*rows, strict=True)) if rows else [()] * 5
    return ScoredEvents(
        np.array(columns[0], dtype=np.int64),
        np.array(columns[1], dtype=np.float64),
        np.array(columns[2], dtype=np.bool_),
        np.array([np.nan if one is None else one for one in columns[3]], dtype=np.float64),
        np.array(columns[4], dtype=np.int64),
    )


TWO_DAYS = events(
    (100 * DAY, 0.9, True, 1, 101 * DAY),
    (100 * DAY + 1, 0.8, True, 0, 101 * DAY),
    (101 * DAY - 1, 0.1, False, 1, 102 * DAY),
    (101 * DAY - 2, 0.2, False, None, 0),
    (101 * DAY, 0.7, True, 1, 101 * DAY + HOUR),
    (101 * DAY + 1, 0.6, True, None, 0),
)


def test_a_day_counts_when_its_last_event_is_old_enough_and_not_before() -> None:
    before = maturity_report(TWO_DAYS, now=103 * DAY - 1, maturity=2 * DAY)
    assert [one.quality for one in before.days] == [None, None]
    assert (before.mature_days, before.total.events) == (0, 0)
    assert np.isnan([before.total.precision, before.total.recall, before.total.average_precision]).all()
    report = maturity_report(TWO_DAYS, now=103 * DAY, maturity=2 * DAY)
    first, second = report.days
    assert (first.day, first.mature_at, first.events, first.labelled) == (100, 103 * DAY, 4, 3)
    assert (second.quality, second.mature_at, second.labelled) == (None, 104 * DAY, 1)
    assert first.quality == report.total
    assert (report.total.precision, report.total.recall) == (0.5, 0.5)
    assert (report.total.positive, report.total.alerts, report.total.alerts_labelled) == (2, 2, 2)
    assert report.total.average_precision == pytest.approx(
        average_precision_score([1, 0, 1], [0.9, 0.8, 0.1])
    )
    assert maturity_report(TWO_DAYS, now=104 * DAY, maturity=2 * DAY).total.alerts_positive == 2


def test_what_is_not_known_yet_is_not_known() -> None:
    report = maturity_report(TWO_DAYS, now=102 * DAY - 1, maturity=0)
    first, second = report.days
    assert second.quality is None
    assert first.quality is not None
    assert (first.quality.labelled, first.quality.recall) == (2, 1.0)


def test_silence_means_nothing_unless_it_is_said_to_mean_no() -> None:
    unknown = maturity_report(TWO_DAYS, now=110 * DAY, maturity=DAY).total
    negative = maturity_report(TWO_DAYS, now=110 * DAY, maturity=DAY, unlabelled_negative=True).total
    assert (unknown.precision, negative.precision) == (2 / 3, 0.5)
    assert unknown.recall == negative.recall == 2 / 3
    assert negative.labelled == unknown.labelled == 4


def test_by_age_each_event_has_had_the_same_time() -> None:
    report = maturity_report(TWO_DAYS, now=103 * DAY, maturity=DAY, ages=(HOUR, DAY, 2 * DAY, 9 * DAY))
    told = [(age, days, quality.labelled, quality.positive) for age, days, quality in report.by_age]
    assert told == [(HOUR, 2, 1, 1), (DAY, 2, 3, 2), (2 * DAY, 1, 3, 2), (9 * DAY, 0, 0, 0)]


def test_nothing_at_all() -> None:
    report = maturity_report(events(), now=DAY, maturity=0, ages=(DAY,))
    assert (report.days, report.total.events, report.by_age[0][1]) == ((), 0, 0)


def test_an_event_without_a_score_ranks_last() -> None:
    some = events((0, np.nan, False, 1, 1), (1, 0.2, False, 0, 1), (2, 0.9, True, 1, 2))
    total = maturity_report(some, now=2 * DAY, maturity=0).total
    assert total.average_precision == pytest.approx(average_precision_score([1, 0, 1], [-1, 0.2, 0.9]))


rows = st.tuples(
    st.integers(0, 6 * DAY),
    st.sampled_from([0.1, 0.5, 0.9]),
    st.booleans(),
    st.sampled_from([0.0, 1.0, None]),
    st.integers(0, 12 * DAY),
)


@settings(max_examples=60, deadline=None)
@given(st.lists(rows, max_size=30), st.integers(0, 3), st.integers(0, 9 * DAY), rows)
def test_nothing_of_young_days_or_of_later_changes_what_mature_days_say(
    some: list[Row], maturity: int, now: int, other: Row
) -> None:
    report = maturity_report(events(*some), now=now, maturity=maturity * DAY)
    for one in report.days:
        assert (one.quality is not None) == ((one.day + 1 + maturity) * DAY <= now)
    mature = [row for row in some if (row[0] // DAY + 1 + maturity) * DAY <= now]
    assert report.total.events == len(mature)
    young = (max(other[0], now - maturity * DAY), *other[1:])
    blind = [(*row[:3], None, 0) if row[4] > now else row for row in some]
    again = maturity_report(events(*blind, young), now=now, maturity=maturity * DAY)
    assert repr(again.total) == repr(report.total), "NaN is equal to itself here"
