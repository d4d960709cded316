"""The closed loop on a real database: killed at each place it carries on; two trainers do not both promote."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from domain.clock import ManualClock
from lifecycle.database import Database
from lifecycle.registry_sql import SqlModelRegistry
from tests.unit.lifecycle.loop_stage import DAY, HOUR, START, MemoryRows, stream
from tests.unit.lifecycle.loop_world import LEASE, World

TURN = 11
NOW = START + 20 * DAY
ROWS = stream(20, turn=float(TURN))


@pytest.fixture
def new_world(tmp_path: Path) -> Iterator[Callable[[], World]]:
    """Each call: a stage on a database of its own, on which a drift run was asked for."""
    opened: list[Database] = []
    Database(f"sqlite:///{tmp_path}/empty.sqlite").close()

    def make() -> World:
        clock = ManualClock(NOW)
        # making the tables anew each time would take longer than the test
        shutil.copy(tmp_path / "empty.sqlite", tmp_path / f"{len(opened)}.sqlite")
        database = Database(f"sqlite:///{tmp_path}/{len(opened)}.sqlite")
        opened.append(database)
        registry = SqlModelRegistry(database, "payments", clock)
        stage = World(registry, MemoryRows(ROWS), clock, now=NOW - 3 * HOUR)
        stage.flow()
        registry.start_run("drift", by="test", data={"at": NOW, "since": START + TURN * DAY})
        return stage

    yield make
    for database in opened:
        database.close()


class KilledError(Exception):
    """The trainer is no more."""


def summary(stage: World) -> tuple[object, ...]:
    """What must not depend on who was killed when."""
    state, run = stage.registry.state(), stage.registry.runs(limit=1)[0]
    changes = [a for a in stage.actions() if a in ("register", "challenge", "promote", "rollback")]
    return run.outcome, state.champion, state.challenger, state.below, changes, len(stage.registry.models())


def test_killed_at_each_place_it_carries_on(new_world: Callable[[], World]) -> None:
    places: list[str] = []
    whole = new_world()
    whole.drive(whole.trainer(at=places.append))
    expected = summary(whole)
    assert expected[0] == "promoted"
    for name in (
        "pinned",
        "fitted",
        "registered",
        "annotated",
        "challenger set",
        "champion set",
        "before publish",
    ):
        assert name in places
    for number, name in enumerate(places):
        stage = new_world()
        left = [number]

        def die(_: str, left: list[int] = left) -> None:
            left[0] -= 1
            if left[0] < 0:
                raise KilledError

        killed = False
        try:
            stage.drive(stage.trainer("first", at=die))
        except KilledError:
            killed = True
        assert killed, name
        # nobody takes over while the lease of the dead holds, unless he has just let the run go
        stage.clock.advance(LEASE + 1)
        other = stage.trainer("second")
        if stage.registry.runs(only_open=True):
            stage.drive(other)
        other.tick()
        assert summary(stage) == expected, f"killed at {name} (place {number})"
        assert stage.registry.verify_audit() is None
        assert stage.published[-1] == stage.registry.state().epoch


def test_two_trainers_do_not_both_promote(new_world: Callable[[], World]) -> None:
    stage = new_world()
    run = stage.drive(stage.trainer("one"), stage.trainer("two"))
    assert run.outcome == "promoted"
    assert stage.actions().count("promote") == 1
    assert stage.actions().count("register") == 1


def test_a_trainer_that_lost_its_lease_changes_nothing_more(new_world: Callable[[], World]) -> None:
    """The first is stopped just before each change, the second takes over and ends the run, then the first goes on."""
    for place in ("registered", "annotated", "challenger set", "champion set"):
        stage = new_world()
        second = stage.trainer("second")
        overtaken = False

        def overtake(at: str, stage: World = stage, place: str = place) -> None:
            nonlocal overtaken
            if at == place and not overtaken:
                overtaken = True
                stage.clock.advance(LEASE + 1)
                stage.drive(second)  # noqa: B023  (called within this turn of the loop)

        first = stage.trainer("first", at=overtake)
        for _ in range(20):
            first.tick()
            if overtaken:
                break
            stage.flow()
        assert overtaken, place
        assert stage.registry.runs(limit=1)[0].outcome == "promoted"
        assert stage.actions().count("promote") == 1, place
        assert stage.actions().count("register") == 1, place
        assert not stage.registry.runs(only_open=True)
