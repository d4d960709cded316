"""Synthetic traffic: repeatable, labelled, with the shares asked for, and suspicious where it says so."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from domain.clock import ManualClock, from_micros
from domain.codec import EventCodec
from domain.errors import EventRejected, Reject
from domain.privacy import Protector
from stream.generator import HONEST, Traffic, TrafficSettings
from stream.generator_bad import BAD_KINDS
from stream.generator_scenarios import SCENARIOS, Population
from tidegate.loading import load

ROOT = Path(__file__).parents[3]
BUSY = TrafficSettings(
    seed=5, accounts=500, merchants=100, fraud_share=0.05, bad_share=0.04, duplicate_share=0.03
)


def test_the_same_seed_gives_the_same_records_and_another_seed_others() -> None:
    first = list(Traffic(BUSY).take(5_000))
    assert list(Traffic(BUSY).take(6_000))[:5_000] == first
    other = Traffic(TrafficSettings(seed=6, accounts=500, merchants=100)).take(100)
    assert {e.payload for e in other}.isdisjoint(e.payload for e in first)


def test_shares_come_out_and_every_fraud_has_its_scenario() -> None:
    events = list(Traffic(BUSY).take(40_000))
    bad = sum(e.reject is not None for e in events) / len(events)
    again = sum(e.repeated for e in events) / len(events)
    fraud = sum(e.label is True and not e.repeated for e in events) / len(events)
    assert bad == pytest.approx(0.04, abs=0.004)
    assert again == pytest.approx(0.03, abs=0.004)
    assert fraud == pytest.approx(0.05, abs=0.02)
    scenarios = Counter(e.scenario for e in events if e.label)
    assert set(scenarios) == {make.__name__ for make, _ in SCENARIOS}
    assert all(e.scenario == HONEST for e in events if e.label is False)


def test_good_records_are_in_order_of_time_with_unique_ids_and_say_what_they_carry() -> None:
    events = [e for e in Traffic(BUSY).take(10_000) if e.reject is None and not e.repeated]
    assert len({e.id for e in events}) == len(events)
    assert all(a.time <= b.time for a, b in itertools.pairwise(events))
    for event in events[:500]:
        assert json.loads(event.payload) == event.record
        assert event.record is not None
        assert event.record["event_time"] == from_micros(event.time).isoformat(
            timespec="milliseconds"
        ).replace("+00:00", "Z")
        assert event.record["account_id"] == event.key


def test_repeats_follow_their_first_sending_byte_for_byte() -> None:
    seen: dict[str, bytes] = {}
    repeats = 0
    for event in Traffic(BUSY).take(5_000):
        if event.repeated:
            repeats += 1
            assert seen[event.id] == event.payload
        seen[event.id] = event.payload
    assert repeats > 50


def test_every_kind_of_bad_record_occurs() -> None:
    kinds = {e.reject for e in Traffic(BUSY).take(2_000) if e.reject is not None}
    assert kinds == {reject for reject, _ in BAD_KINDS}
    of_labels = {Reject.UNKNOWN_SOURCE, Reject.NO_VERDICT, Reject.OTHER_EVENT, Reject.INCOMPLETE_VERDICT}
    # The payments pipeline has no field with a list of allowed values.
    assert kinds == set(Reject) - {Reject.NOT_ALLOWED} - of_labels


def test_the_codec_accepts_what_is_good_and_refuses_the_rest_for_the_reason_announced() -> None:
    codec = EventCodec(load(ROOT / "examples/payments/pipeline.yaml"), Protector(b"k" * 32))
    for event in Traffic(BUSY).take(2_000):
        received_at = event.time + 1_000_000
        if event.reject in (None, Reject.WRONG_KEY):
            decoded = codec.decode(event.payload, received_at=received_at)
            assert (codec.expected_key(decoded) == event.key.encode()) == (event.reject is None)
            assert (decoded.id, decoded.time) == (event.id, event.time)
        else:
            with pytest.raises(EventRejected) as caught:
                codec.decode(event.payload, received_at=received_at)
            assert caught.value.reason == event.reject


def test_live_traffic_is_dated_by_the_clock_when_taken() -> None:
    clock = ManualClock(1_800_000_000_000_000)
    events = iter(Traffic(BUSY, clock=clock))
    assert next(events).time == 1_800_000_000_000_000
    clock.advance(2.5)
    event = next(events)
    assert event.time == 1_800_000_002_500_000
    assert json.loads(event.payload)["event_time"] == "2027-01-15T08:00:02.500Z"


def test_scenarios_last_and_cost_as_described() -> None:
    people = Population.make(np.random.default_rng(1), 300, 50)
    for make, mean_size in SCENARIOS:
        made = [make(np.random.default_rng(seed), people, 1_000.0) for seed in range(200)]
        assert np.mean([len(c.times) for c in made]) == pytest.approx(mean_size, rel=0.1)
        assert all(c.times[0] >= 1_000.0 and (np.diff(c.times) >= 0).all() for c in made)
        assert {c.scenario for c in made} == {make.__name__}


def test_days_have_nights() -> None:
    settings = TrafficSettings(seed=2, accounts=3_000, fraud_share=0.0)
    hours = Counter(from_micros(e.time).hour for e in Traffic(settings).take(24_000))
    assert hours[15] > 4 * hours[3]


@pytest.mark.parametrize("change", [{"fraud_share": -0.1}, {"bad_share": 0.95}, {"accounts": 0}])
def test_settings_that_make_no_sense_are_refused(change: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="at"):
        TrafficSettings(**change)  # type: ignore[arg-type]
