"""Data quality of the input: a day that is as usual says nothing, each kind of damage says one thing, once."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from domain.quality_record import QualityAlarm, QualityCheck
from featurestore.offline import LogRecord, OfflineStore
from lifecycle.quality import QualitySettings, Window, alarms
from lifecycle.quality_windows import last_window, read_windows
from tests.unit.featurestore.offline_rows import LOG, NOON, small, verdict_of

SETTINGS = QualitySettings()
STEP = SETTINGS.window
Damage = Callable[[Window], Window]


def usual(count: int, seed: int = 1) -> list[Window]:
    """Windows of 400 to 4,000 events, by the hour; a few values are always missing, a few records always refused."""
    chance = random.Random(seed)
    made = []
    for i in range(count):
        events = chance.randrange(400, 500) * (1 + 8 * ((i // 4) % 24 > 7))
        missing = {"amount": 0, "tip": sum(chance.random() < 0.1 for _ in range(events))}
        refused = {"not_json": chance.randrange(5)} if i % 3 == 0 else {}
        made.append(Window(i * STEP, events, missing, chance.randrange(4), chance.uniform(0.1, 2.0), refused))
    return made


@pytest.mark.parametrize("seed", range(5))
def test_a_usual_week_says_nothing(seed: int) -> None:
    week = usual(7 * 96, seed)
    assert [
        a for end in range(2, len(week), 5) for a in alarms("p", week[max(0, end - 98) : end], SETTINGS)
    ] == []


DAMAGE: list[tuple[QualityCheck, str, Damage]] = [
    (QualityCheck.MISSING, "tip", lambda w: replace(w, missing={**w.missing, "tip": w.events // 3})),
    (QualityCheck.MISSING, "amount", lambda w: replace(w, missing={**w.missing, "amount": w.events})),
    (QualityCheck.RANGE, "events", lambda w: replace(w, out_of_range=w.events // 10)),
    (QualityCheck.SCHEMA, "missing_field:amount", lambda w: replace(w, refused={"missing_field:amount": 90})),
    (QualityCheck.VOLUME, "events", lambda w: replace(w, events=50, missing={}, out_of_range=0)),
    (QualityCheck.VOLUME, "events", lambda w: Window(w.start)),
    (QualityCheck.VOLUME, "events", lambda w: replace(w, events=60_000, missing={}, out_of_range=3)),
    (QualityCheck.FRESHNESS, "events", lambda w: replace(w, age=200.0)),
]


@pytest.mark.parametrize(("check", "column", "damage"), DAMAGE)
def test_each_damage_is_told_once(check: QualityCheck, column: str, damage: Damage) -> None:
    day = usual(97)
    broken = [*day, *(damage(w) for w in usual(99)[97:]), *usual(102)[99:]]
    broken[101] = damage(broken[101])
    first = alarms("p", broken[:98], SETTINGS)
    assert [(a.check, a.column) for a in first] == [(check, column)]
    [alarm] = first
    assert alarm.window == (97 * STEP, 98 * STEP)
    outside = not alarm.usual[0] <= alarm.value <= alarm.usual[1]
    assert outside
    assert msgspec.json.decode(msgspec.json.encode(alarm), type=QualityAlarm) == alarm
    # it goes on: nothing new to tell
    assert alarms("p", broken[:99], SETTINGS) == []
    # it ends, and comes again
    assert alarms("p", broken[:100], SETTINGS) == []
    assert [(a.check, a.column) for a in alarms("p", broken[:102], SETTINGS)] == [(check, column)]


def test_little_says_nothing() -> None:
    few = [Window(i * STEP, 20, {"tip": 0}, 0, 1.0) for i in range(97)]
    assert (
        alarms("p", [*few, Window(97 * STEP, 20, {"tip": 20}, 20, 900.0, {"not_json": 30})], SETTINGS) == []
    )
    assert alarms("p", few[:1], SETTINGS) == []


def test_volume_waits_for_a_whole_day() -> None:
    assert alarms("p", [*usual(96)[:90], Window(90 * STEP)], SETTINGS) == []


def test_windows_out_of_the_offline_store(tmp_path: Path) -> None:
    pipeline = msgspec.structs.replace(small("amount", "tip"), digest="d")
    store = OfflineStore(str(tmp_path), pipeline)
    settings = QualitySettings(window=100, day=3)
    last = last_window(NOON + 510, 5, settings)
    assert last == NOON + 400
    assert read_windows(store, pipeline, last, settings) == []

    def at(offset: int, scored_at: int, **changes: object) -> LogRecord:
        made = verdict_of(offset, time=scored_at - 2_000_000, scored_at=scored_at, **changes)  # type: ignore[arg-type]
        return LogRecord(0, offset, msgspec.json.encode(made))

    full = {"amount": 1.0, "tip": 2.0}
    store.append_verdicts(
        [
            at(0, NOON - 1, features=full),  # before the first window
            at(1, NOON + 150, features=full),
            at(2, NOON + 199, features={"amount": 1.0, "tip": None}, flags=["late", "out_of_range"]),
            at(3, NOON + 199, repeat_of=2),
            at(4, NOON + 420, features={"amount": None, "tip": None}),
            at(5, NOON + 500, features=full),  # not closed
        ],
        LOG,
    )
    letter = {"reason": "missing_field", "field": "amount", "received_at": NOON + 310}
    store.dead_letters.append([LogRecord(0, 0, msgspec.json.encode(letter))], LOG)
    found = read_windows(store, pipeline, last, settings)
    # NaN is not equal to itself
    assert [replace(w, age=-1.0) if w.events == 0 else w for w in found] == [
        Window(NOON + 100, 2, {"amount": 0, "tip": 1}, 1, 2.0),
        Window(NOON + 200, age=-1.0),
        Window(NOON + 300, age=-1.0, refused={"missing_field:amount": 1}),
        Window(NOON + 400, 1, {"amount": 1, "tip": 1}, 0, 2.0),
    ]
