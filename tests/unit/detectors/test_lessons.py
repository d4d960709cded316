"""Lessons fall on the same rows with the same labels, however the log is cut."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest

from detectors.arrays import pack, unpack
from detectors.lessons import EVERY, FULL, Lessons
from domain.examples import Examples

N, LABELS = 900, 5_300


def examples(m: int) -> Examples:
    rng = np.random.default_rng(3)
    known = np.sort(rng.integers(0, 12 * EVERY, m))
    y = rng.integers(0, 2, m).astype(np.float64)
    y[::50] = np.nan
    return Examples(rng.random((m, 2)), y, rng.random((m, 1)), rng.random(m), known - 5, known)


def times() -> npt.NDArray[np.int64]:
    late = np.random.default_rng(4).integers(0, EVERY // 2, N)
    return np.linspace(EVERY, 12 * EVERY, N).astype(np.int64) - late


def taught(cuts: list[int], *, through_bytes: bool = False) -> list[tuple[int, int, bytes]]:
    """(row of the whole, now, what) of each lesson, planned batch by batch."""
    lessons = Lessons(2, 1)
    given, at = examples(LABELS), 0
    all_times = times()
    stream = np.maximum.accumulate(all_times)
    found = []
    for start, stop in zip([0, *cuts], [*cuts, N], strict=True):
        until = int(np.searchsorted(given.known_at, stream[stop - 1], side="right")) if stop > start else at
        told = np.searchsorted(given.known_at[at:until], stream[start:stop], side="right")
        for lesson in lessons.plan(all_times[start:stop], told, given.rows(at, until)):
            found.append((lesson.row + start, lesson.now, lesson.examples.y.tobytes()))
        at = until
        if through_bytes:
            state = unpack(pack(lessons.snapshot()))
            lessons = Lessons(2, 1)
            lessons.restore(state)
    return found


def test_cuts_and_restarts_change_nothing() -> None:
    whole = taught([])
    assert len(whole) > 10
    sizes = [len(np.frombuffer(y)) for _, _, y in whole]
    assert max(sizes) < FULL
    assert taught(list(range(1, N))) == whole
    assert taught([7, 7, 300, 555], through_bytes=True) == whole


def test_labels_without_value_or_vector_are_left_out() -> None:
    given = examples(100)
    given.x[3] = np.nan
    lessons = Lessons(2, 1)
    assert lessons.plan(np.array([1]), np.array([100]), given) == []
    [lesson] = lessons.plan(np.array([EVERY + 1]), np.array([0]), None)
    assert lesson.row == 0
    assert len(lesson.examples) == 100 - 2 - 1
    assert not np.isnan(lesson.examples.y).any()


def test_scores_of_the_pipelines_own_detectors_are_kept_where_another_model_decided() -> None:
    given = replace(examples(10), y=np.ones(10))
    led = replace(given, own=given.score / 2.0)
    lessons = Lessons(2, 1)
    lessons.note(given.rows(0, 4))
    plain = pack(lessons.snapshot())
    assert "own" not in unpack(plain).arrays
    lessons.note(replace(given, own=given.score).rows(4, 5))
    assert "own" not in lessons.snapshot().arrays
    lessons.note(led.rows(5, 10))
    again = Lessons(2, 1)
    again.restore(unpack(pack(lessons.snapshot())))
    [lesson] = again.plan(np.array([0, EVERY]), np.zeros(2, dtype=np.int64), None)
    assert lesson.examples.own is not None
    assert lesson.examples.own.tolist() == [*given.score[:5], *(given.score[5:] / 2.0)]


def test_too_many_are_taught_at_once_and_in_order() -> None:
    lessons = Lessons(2, 1)
    given = examples(LABELS)
    usable = given.y[~np.isnan(given.y)]
    told = np.array([100, LABELS])
    found = lessons.plan(np.array([5, 6]), told, given)
    assert [lesson.row for lesson in found] == [1, 1]
    assert [len(lesson.examples) for lesson in found] == [FULL, FULL]
    assert np.concatenate([lesson.examples.y for lesson in found]).tolist() == usable[: 2 * FULL].tolist()
    # the same, as they come before the next event
    others = Lessons(2, 1)
    at_once = others.note(given)
    assert [lesson.examples.y.tobytes() for lesson in at_once] == [
        lesson.examples.y.tobytes() for lesson in found
    ]
    assert pack(others.snapshot()) != pack(lessons.snapshot())  # one of them has seen events
    with pytest.raises(ValueError, match="waiting labels"):
        Lessons(3, 1).restore(lessons.snapshot())
