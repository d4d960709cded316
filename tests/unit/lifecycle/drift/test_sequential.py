from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from river import drift

from lifecycle.drift.paths import largest_kswin, largest_sequential, page_hinkley
from lifecycle.drift.sequential import FORGETTING, LADDER, SEQUENTIAL, adwin_level, build, strengths
from lifecycle.drift.settings import Cadence
from tests.unit.lifecycle.drift.streams import SMALL

RIVER: Any = drift
RNG = np.random.default_rng(11)


def path(length: int, change: float = 0.0) -> list[float]:
    values = RNG.normal(size=length)
    values[2 * length // 3 :] += change
    return [float(v) for v in np.clip(values, -6, 6)]


def test_page_hinkley_for_many_streams_at_once_is_rivers() -> None:
    z = np.array([path(150), path(150, 1.0)]).T
    ours = page_hinkley(z, 0.25)
    for column in range(2):
        for threshold in (3.0, 8.0, 20.0):
            river: Any = drift.PageHinkley(min_instances=1, delta=0.25, threshold=threshold, alpha=FORGETTING)
            fires: int | None = None
            for at, value in enumerate(z[:, column]):
                river.update(value)
                if river.drift_detected:
                    fires = at
                    break
            expected = np.flatnonzero(ours[:, column] > threshold)
            assert fires == (int(expected[0]) if len(expected) else None)


def test_kswin_for_many_streams_at_once_is_rivers() -> None:
    cadence = replace(SMALL, recent=20, latest=6, prime=48)
    z = np.array([path(90), path(90, 1.5), [round(v) for v in path(90)]]).T
    ours = largest_kswin(z, cadence, seed=5, spells=3).max(axis=0)
    for column in range(3):
        river: Any = drift.KSWIN(alpha=0.0, window_size=20, stat_size=6, seed=5)
        most = 0.0
        for at, value in enumerate(z[:, column]):
            river.update(value)
            if at >= cadence.prime:
                most = max(most, -float(np.log10(river.p_value)))
        assert ours[column] == pytest.approx(most)


def test_the_level_of_adwin_is_where_rivers_begins_to_fire() -> None:
    for values in (path(120), path(120, 2.0)):
        level = adwin_level(values)
        for strength in LADDER:
            river = RIVER.ADWIN(delta=10.0**-strength, clock=1, min_window_length=5, grace_period=10)
            fired = False
            for value in values:
                river.update(value)
                fired = fired or river.drift_detected
            assert fired == (strength <= level)


@pytest.mark.parametrize("kind", SEQUENTIAL)
def test_a_monitor_fires_when_the_simulated_statistic_exceeds_its_threshold(kind: str) -> None:
    cadence = Cadence(
        cycle=1, season=1, reference=20, block=5, window=5, prime=20, recent=18, latest=6, horizon=80
    )
    place = SEQUENTIAL.index(kind)
    for change in (0.0, 0.6, 3.0):
        values = path(100, change)
        largest = float(
            largest_sequential(np.array(values)[:, None, None], cadence, 5, 2)[:, 0, 0, place].max()
        )
        for threshold, expected in ((largest, False), (largest - 1e-6, True)):
            monitor = build(kind, threshold, cadence, 5)
            monitor.resume(values[:20])
            fired = [monitor.update(value) for value in values[20:]]
            assert any(fired) == expected, (kind, change, largest)


@pytest.mark.parametrize("kind", SEQUENTIAL)
def test_resumed_it_goes_on_as_if_never_stopped(kind: str) -> None:
    values = path(100, 4.0)
    for cut in (1, 17, 24, 30, 60):
        first, second = build(kind, 2.0, SMALL, 3), build(kind, 2.0, SMALL, 3)
        start = 0
        for at, value in enumerate(values[:cut]):
            if first.update(value):
                start = at + 1
        second.resume(values[start:cut])
        ours, theirs = [[(m.update(v), m.statistic()) for v in values[cut:]] for m in (first, second)]
        assert ours == theirs
        assert any(fired for fired, _ in ours)


def test_kswins_steps_grow_and_unknown_kinds_are_refused() -> None:
    steps = strengths(8)
    assert steps[0] == 0.0
    assert all(a < b or a < 1e-9 for a, b in pairwise(steps))
    with pytest.raises(ValueError, match="known are"):
        build("guess", 1.0, SMALL, 0)
