"""A call that never returns is given up; one that fails fails as it would have."""

from __future__ import annotations

import threading

import pytest

from stream.bounded_call import CallHangs, within


def test_what_the_call_raises_is_raised() -> None:
    with pytest.raises(ZeroDivisionError):
        within(30.0, lambda: 1 // 0, "dividing")


def test_a_call_that_returns_is_waited_for() -> None:
    done = threading.Event()
    within(30.0, done.set, "setting")
    assert done.is_set()


def test_a_call_that_hangs_is_left_behind() -> None:
    held, ended = threading.Event(), threading.Event()

    def hang() -> None:
        held.wait()
        ended.set()

    with pytest.raises(CallHangs, match="holding did not return"):
        within(0.05, hang, "holding")
    assert not ended.is_set()
    held.set()
    assert ended.wait(30.0)
