from __future__ import annotations

import numpy as np

from domain.batch import Floats
from lifecycle.drift.calibration import calibrate, largest_in_months, thresholds_for
from lifecycle.drift.expectation import Expectation, expect, standardised, used_bins
from lifecycle.drift.gathering import count_into
from lifecycle.drift.histogram import edges_of, mid_ranks, width_of
from lifecycle.drift.paths import KINDS, least_events, window_statistics
from lifecycle.drift.streams import resampled
from tests.unit.lifecycle.drift.streams import SMALL, hours


def reference(seed: int) -> tuple[Floats, Expectation, Floats]:
    rows, x = hours(SMALL.reference, seed=seed)
    edges = tuple(edges_of(column, 10) for column in x.T)
    held: dict[int, Floats] = {}
    count_into(held, rows, x, np.ones(len(rows)), edges)
    counts = np.stack([held[cell] for cell in range(SMALL.reference)])
    used = used_bins(list(edges), width_of(edges))
    slots = np.arange(SMALL.reference) % SMALL.season
    return counts, expect(counts, slots, mid_ranks(counts.sum(axis=0)), used, SMALL), used


COUNTS, EXPECTED, USED = reference(1)
LEAST = least_events(COUNTS, SMALL)


def test_chosen_thresholds_keep_the_declared_number_on_months_that_did_not_choose_them() -> None:
    rng = np.random.default_rng(5)

    def months(count: int) -> Floats:
        # monitors of a column hang together, columns do not
        common = rng.exponential(size=(count, 4, 9, 1))
        return common + rng.exponential(size=(count, 4, 9, 5))

    for alarms in (0.5, 1.0, 3.0):
        raised = []
        for _ in range(20):
            found = thresholds_for(months(200), alarms)
            assert not found.extrapolated
            raised.append(float((months(400) > found.thresholds).any(axis=3).sum(axis=(1, 2)).mean()))
        assert 0.5 * alarms < np.mean(raised) <= 1.1 * alarms


def test_alarms_too_rare_for_the_months_are_extrapolated_and_said_to_be() -> None:
    rng = np.random.default_rng(6)
    found = thresholds_for(rng.exponential(size=(50, 2, 20, 5)), 0.2)
    assert found.extrapolated
    fresh = rng.exponential(size=(4000, 2, 20, 5))
    assert 0.02 < float((fresh > found.thresholds).any(axis=3).sum(axis=(1, 2)).mean()) < 1.0


def test_same_seed_same_thresholds_whatever_columns_are_computed_together() -> None:
    arguments = {"simulations": 6, "seed": 4}
    whole = largest_in_months(COUNTS, 0, EXPECTED, USED, SMALL, least=LEAST, spells=2, **arguments)
    again = largest_in_months(COUNTS, 0, EXPECTED, USED, SMALL, least=LEAST, spells=2, **arguments)
    other = largest_in_months(COUNTS, 0, EXPECTED, USED, SMALL, least=LEAST, spells=2, simulations=6, seed=5)
    assert whole.shape == (6, 2, 2, len(KINDS))
    assert np.array_equal(whole, again)
    assert not np.array_equal(whole, other)
    for column in range(2):
        own = slice(column, column + 1)
        streams = resampled(COUNTS, 0, EXPECTED, USED, SMALL, count=6, seed=4, columns=own)
        for number, stream in enumerate(streams):
            path, _ = window_statistics(stream.counts, stream.slots, stream.expected, USED[own], SMALL, LEAST)
            assert whole[number, :, column, 0].max() == path[SMALL.prime :, 0].max()


def test_resampled_streams_keep_days_and_nights_and_are_not_off_what_is_expected() -> None:
    z = np.concatenate(
        [
            standardised(s.counts, s.slots, s.expected, SMALL)
            for s in resampled(COUNTS, 0, EXPECTED, USED, SMALL, count=40, seed=1)
        ]
    )
    assert abs(float(z.mean())) < 0.1
    assert 0.8 < float(z.std()) < 1.5
    [stream] = resampled(COUNTS, 0, EXPECTED, USED, SMALL, count=1, seed=2)
    events = stream.counts[:, 0].sum(axis=1)
    by_hour = [float(events[stream.slots == hour].mean()) for hour in (6, 18)]
    assert by_hour[0] > 2 * by_hour[1]


def test_differences_too_small_to_matter_are_no_alarms_however_improbable() -> None:
    found = calibrate(
        COUNTS, 0, EXPECTED, USED, SMALL, least=LEAST, spells=2, per_month=20.0, simulations=20, seed=1
    )
    assert (found.thresholds[:, :2] >= SMALL.floor).all()
    # a column that never varies gives no threshold of its own
    still = COUNTS.copy()
    still[:, 0] = 0.0
    still[:, 0, 5] = COUNTS[:, 0].sum(axis=1)
    slots = np.arange(SMALL.reference) % SMALL.season
    expected = expect(still, slots, mid_ranks(still.sum(axis=0)), USED, SMALL)
    found = calibrate(
        still, 0, expected, USED, SMALL, least=LEAST, spells=2, per_month=1.0, simulations=20, seed=1
    )
    assert found.thresholds[0, KINDS.index("page_hinkley")] == SMALL.sway
    assert 0 < found.chance < 1
