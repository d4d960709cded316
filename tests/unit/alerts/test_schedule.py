"""When attempts are made."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alerts.schedule import LONGEST_RETRY_AFTER, STANDARD_DELAYS, Schedule, retry_after_seconds

NOW = 1_700_000_000_000_000
"""Tue, 14 Nov 2023 22:13:20 GMT."""


def test_the_attempts_of_the_issue() -> None:
    now, waits = NOW, []
    for attempts in range(10):
        due = Schedule(jitter=0.0).due(attempts, now, 0.9)
        assert due is not None
        waits.append((due - now) / 1e6)
        now = due
    hour = 3600
    assert waits == [0, 5, 300, 1800, 2 * hour, 5 * hour, 10 * hour, 14 * hour, 20 * hour, 24 * hour]
    assert Schedule().due(10, now, 0.0) is None


@given(st.integers(0, 9), st.floats(0, 1, exclude_max=True))
@settings(deadline=None)
def test_jitter_makes_a_wait_longer_by_a_tenth_at_most(attempts: int, draw: float) -> None:
    due = Schedule().due(attempts, NOW, draw)
    assert due is not None
    delay = STANDARD_DELAYS[attempts]
    assert delay <= (due - NOW) / 1e6 <= delay * 1.1 + 1e-6


@pytest.mark.parametrize(
    ("attempts", "asked", "waits"),
    [(1, 60.0, 60), (2, 60.0, 300), (1, None, 5), (1, 0.0, 5), (1, 1e9, LONGEST_RETRY_AFTER)],
)
def test_the_later_of_the_schedule_and_what_the_receiver_asks(
    attempts: int, asked: float | None, waits: float
) -> None:
    assert Schedule(jitter=0.0).due(attempts, NOW, 0.0, asked) == NOW + waits * 1e6


def test_nobody_gets_an_attempt_more_by_asking() -> None:
    assert Schedule().due(10, NOW, 0.0, 5.0) is None


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        (None, None),
        ("120", 120.0),
        (" 7 ", 7.0),
        ("Tue, 14 Nov 2023 22:14:20 GMT", 60.0),
        ("Tuesday, 14-Nov-23 22:14:20 GMT", 60.0),
        ("Tue, 14 Nov 2023 22:12:20 GMT", 0.0),
        ("Fri, 31 Dec 9999 23:59:59 GMT", LONGEST_RETRY_AFTER),
        ("9" * 5000, LONGEST_RETRY_AFTER),
        ("172800", LONGEST_RETRY_AFTER),
        ("-5", None),
        ("1.5", None),
        ("١٢", None),
        ("soon", None),
        ("", None),
        ("Tue, 99 Nov 2023 22:14:20 GMT", None),
    ],
)
def test_retry_after(header: str | None, seconds: float | None) -> None:
    assert retry_after_seconds(header, NOW) == seconds


@given(st.text(max_size=60))
@settings(deadline=None)
def test_no_header_breaks_anything(header: str) -> None:
    found = retry_after_seconds(header, NOW)
    assert found is None or 0 <= found <= LONGEST_RETRY_AFTER
