"""The closed loop from request to promotion, and each way in which it ends otherwise."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from domain.clock import ManualClock
from domain.examples import Examples
from lifecycle.loop_steps import GUARD_TRIGGER
from lifecycle.loop_triggers import MAX_ATTEMPTS, Alarm, Triggers
from lifecycle.matured_watch import watch_matured
from lifecycle.registry import Stage
from lifecycle.registry_memory import MemoryModelRegistry
from tests.unit.lifecycle.loop_stage import DAY, HOUR, RULES, START, MemoryRows, stream
from tests.unit.lifecycle.loop_world import World

TURN = 11.0
NOW = START + 20 * DAY
BY = "trainer t-1"


def world(examples: Examples | None = None, **rules: object) -> World:
    clock = ManualClock(NOW)
    made = World(
        MemoryModelRegistry("payments", clock),
        MemoryRows(stream(20, turn=TURN) if examples is None else examples),
        clock,
        rules=msgspec.structs.replace(RULES, **rules),
        now=NOW - 3 * HOUR,
    )
    made.flow()
    return made


def ask(stage: World, trigger: str = "drift", since: float = TURN) -> None:
    data = {"at": stage.now, "since": START + round(since * DAY)}
    stage.registry.start_run(trigger, by="test", data=data)


def test_a_better_model_is_promoted_and_everything_is_told() -> None:
    stage = world()
    ask(stage)
    run = stage.drive(stage.trainer())
    assert (run.outcome, run.error) == ("promoted", None)
    assert list(run.data) == ["requested", "pinned", "trained", "gated", "shadowing", "promoted"]
    version = run.data["trained"]["version"]
    registry = stage.registry
    state = registry.state()
    assert (state.champion, state.challenger, state.below) == (version, None, (None,))
    record = registry.model(version)
    assert (record.stage, record.manifest.lineage.run) == (Stage.CHAMPION, run.id)
    assert {"training", "gate", "shadow", "guard"} <= record.metrics.keys()
    assert record.metrics["gate"]["contest"]["to_champion"]["difference"] > 0.2
    card = registry.card(version)
    assert "It passed the offline gate." in card.markdown
    assert set(card.plots) == {"precision-recall.svg", "reliability.svg"}
    assert registry.verify_audit() is None
    assert [a for a in stage.actions() if a in ("promote", "challenge", "rollback")] == [
        "challenge",
        "promote",
    ]
    # every state was published, the last one last
    assert stage.published[-1] == state.epoch
    assert set(range(1, state.epoch + 1)) <= set(stage.published)


def refused(stage: World) -> str:
    ask(stage)
    run = stage.drive(stage.trainer())
    assert run.outcome == "refused"
    state = stage.registry.state()
    assert (state.champion, state.challenger) == (None, None)
    version = run.data["trained"]["version"]
    assert stage.registry.model(version).stage is Stage.REFUSED
    assert stage.registry.card(version).markdown
    assert run.error is not None
    return run.error


def test_shuffled_labels_teach_nothing_that_is_promoted() -> None:
    assert "gate:" in refused(world(stream(20, turn=TURN, shuffled=True)))


def test_poisoned_labels_are_not_promoted() -> None:
    examples = stream(20, turn=2.0)
    # who can label does so for a while: his fraud is called honest, and honest events of another kind fraud
    old = examples.times < START + 15 * DAY
    y = np.where(old, (examples.x[:, 0] < -1.6).astype(np.float64), examples.y)
    poisoned = Examples(examples.x, y, examples.ranks, examples.score, examples.times, examples.known_at)
    why = refused(world(poisoned, label_maturity=2 * DAY))
    assert "not shown to" in why


def test_a_flood_of_labels_is_doubted() -> None:
    examples = stream(20)
    flood = examples.times >= START + 16 * DAY
    y = np.where(flood & (examples.x[:, 1] > -0.5), 1.0, examples.y)
    flooded = Examples(examples.x, y, examples.ranks, examples.score, examples.times, examples.known_at)
    assert "prevalence" in refused(world(flooded))


def test_a_model_that_misbehaves_beside_the_champion_is_refused() -> None:
    stage = world()
    stage.behave = lambda i, version: 0.99 if i % 2 else 0.1
    why = refused(stage)
    assert "shadow:" in why


def test_a_model_that_misbehaves_in_force_is_rolled_back() -> None:
    stage = world()
    stage.alerts = lambda i, decider: i % (20 if decider == "own" else 3) == 0
    ask(stage)
    run = stage.drive(stage.trainer())
    assert run.outcome == "rolled_back"
    version = run.data["trained"]["version"]
    assert stage.registry.state().champion is None
    assert stage.registry.model(version).stage is Stage.ROLLED_BACK
    assert "max_alert_ratio" in (run.error or "")
    assert stage.published[-1] == stage.registry.state().epoch
    # the rollback is not taken for a promotion that has to be guarded
    assert not stage.trainer().tick()
    assert not stage.registry.runs(only_open=True)


def test_a_person_promotes_and_is_guarded_too() -> None:
    stage = world(promote="person")
    ask(stage)
    trainer = stage.trainer()
    with pytest.raises(AssertionError, match="a person has to say"):
        stage.drive(trainer, ticks=12)
    registry = stage.registry
    version = registry.state().challenger
    assert version is not None
    registry.promote(version, epoch=registry.state().epoch, reason="looks good", by="ann")
    run = stage.drive(trainer)
    assert (run.outcome, registry.state().champion) == ("promoted", version)
    registry.rollback(epoch=registry.state().epoch, reason="changed my mind", by="ann")
    # nobody trains, but a forced promotion is watched, and undone when it turns out bad
    registry.promote(version, epoch=registry.state().epoch, reason="again", by="ann", force=True)
    stage.behave = lambda i, version: None
    assert trainer.tick()
    run = stage.drive(trainer)
    assert (run.trigger, run.outcome) == (GUARD_TRIGGER, "rolled_back")
    assert registry.state().champion is None


def test_who_changes_what_is_in_force_ends_the_run() -> None:
    stage = world()
    ask(stage)
    trainer = stage.trainer()
    for _ in range(4):
        assert trainer.tick()
    state = stage.registry.state()
    assert state.challenger is not None
    stage.registry.set_challenger(None, epoch=state.epoch, reason="not this one", by="ann")
    run = stage.drive(trainer)
    assert run.outcome == "superseded"
    assert "ann" in (run.error or "")


def test_a_challenger_whose_champion_was_replaced_is_dropped() -> None:
    stage = world()
    ask(stage)
    trainer = stage.trainer()
    stage.drive(trainer)
    first = stage.registry.state().champion
    stage.registry.rollback(epoch=stage.registry.state().epoch, reason="not yet", by="ann")
    stage.now += 2 * DAY
    more = stream(22, turn=TURN)
    stage.rows.all = more
    stage.flow()
    ask(stage)
    for _ in range(4):
        assert trainer.tick()
    assert first is not None
    assert stage.registry.state().challenger not in (None, first)
    stage.registry.promote(first, epoch=stage.registry.state().epoch, reason="now", by="ann", force=True)
    assert trainer.tick()
    state = stage.registry.state()
    assert (state.champion, state.challenger) == (first, None)
    assert stage.registry.runs(limit=1)[0].outcome == "superseded"


def test_the_same_training_again_changes_nothing() -> None:
    stage = world()
    ask(stage)
    trainer = stage.trainer()
    first = stage.drive(trainer)
    stage.now = first.data["pinned"]["plan"]["as_of"]
    again = stage.trainer()
    again.tally.now = stage.now
    stage.log.clear()
    ask(stage, "person")
    assert again.tick()
    again.tally.now = stage.now
    assert again.tick()
    run = stage.registry.runs(limit=1)[0]
    assert (run.trigger, run.outcome) == ("person", "unchanged")


def test_a_person_is_told_at_once_that_labels_are_too_few_a_schedule_waits() -> None:
    stage = world(min_positive=5_000, min_labels=20_000)
    ask(stage, "person")
    run = stage.drive(stage.trainer())
    assert run.outcome == "failed"
    assert "too few labels" in (run.error or "")
    ask(stage, "schedule")
    trainer = stage.trainer()
    assert not trainer.tick()
    assert "matured labels" in trainer.waiting


def test_nothing_is_done_before_the_first_verdict() -> None:
    stage = world()
    stage.log.clear()
    ask(stage)
    trainer = stage.trainer()
    assert not trainer.tick()
    assert trainer.waiting == "no verdict came yet"


def test_alarms_and_the_schedule_ask_for_runs_with_a_cool_down() -> None:
    stage = world()
    registry = stage.registry
    triggers = Triggers(registry, RULES, BY)
    first = triggers.tick(NOW)
    assert first is not None
    assert first.trigger == "schedule"
    assert triggers.tick(NOW) is None  # one is open
    registry.finish_run(first, "refused")
    alarm = Alarm("d-1", "score", NOW - DAY, NOW + HOUR)
    triggers.alarm(alarm)
    triggers.alarm(Alarm("d-2", "feature:first", NOW - 2 * DAY, NOW + HOUR))
    assert triggers.tick(NOW + HOUR) is None  # cool-down
    second = triggers.tick(NOW + 2 * DAY)
    assert second is not None
    assert second.trigger == "drift"
    assert second.data["requested"]["since"] == NOW - DAY
    assert second.data["requested"]["alarms"] == ["d-1", "d-2"]
    assert triggers.changed_since() == NOW - DAY
    held = registry.claim_run(second.id, "t", 10)
    assert held is not None
    held = registry.advance_run(held, "pinned", {"plan": {"as_of": NOW + 2 * DAY}}, seconds=10)
    assert triggers.changed_since() is None
    held = registry.advance_run(held, "promoted", {"at": NOW + 3 * DAY}, seconds=10)
    # what a new model's scores look like is no reason to train
    triggers.alarm(Alarm("d-3", "score", NOW + 3 * DAY, NOW + 4 * DAY))
    assert triggers.changed_since() is None
    registry.finish_run(held, "superseded")
    assert triggers.tick(NOW + 4 * DAY) is None
    again = triggers.tick(NOW + 9 * DAY)
    assert again is not None
    assert again.trigger == "schedule"


@pytest.mark.parametrize("outcome", ["refused", "promoted"])
def test_after_a_change_training_goes_on_for_a_while_as_labels_mature(outcome: str) -> None:
    stage = world()
    registry = stage.registry
    triggers = Triggers(registry, msgspec.structs.replace(RULES, schedule=None), BY)
    triggers.alarm(Alarm("d-1", "score", NOW - DAY, NOW))
    attempts = []
    for day in range(2 * MAX_ATTEMPTS):
        run = triggers.tick(NOW + day * DAY)
        if run is None:
            break
        attempts.append(run.data["requested"]["attempt"])
        assert run.data["requested"]["at"] == NOW + day * DAY
        assert triggers.tick(NOW + day * DAY) is None
        held = registry.claim_run(run.id, "t", 10)
        assert held is not None
        held = registry.advance_run(held, "pinned", {"plan": {"as_of": NOW + day * DAY}}, seconds=10)
        registry.finish_run(held, outcome)
    assert attempts == list(range(1, MAX_ATTEMPTS + 1))


def test_matured_labels_undo_a_promotion_long_after_its_run() -> None:
    stage = world()
    ask(stage)
    run = stage.drive(stage.trainer())
    registry = stage.registry
    promoted = run.data["promoted"]["at"]

    def look(now: int) -> object:
        return watch_matured(stage.pipeline, stage.rules, registry, stage.rows, now=now, by=BY)

    assert look(promoted + DAY) is None  # nothing has matured
    more = stream(40)
    wrong = (more.times >= promoted) & (more.score >= 0.95)
    y = np.where(wrong, 0.0, more.y)
    stage.rows.all = Examples(more.x, y, more.ranks, more.score, more.times, more.known_at)
    assert look(promoted + 2 * DAY + HOUR) is not None
    assert registry.state().champion is not None
    for days in range(3, 12):
        stage.now = promoted + days * DAY
        look(stage.now)
    assert registry.state().champion is None
    assert "min_precision_ratio" in registry.state().reason
