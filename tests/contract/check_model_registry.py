"""What every model registry must do.

Subclass it with fixtures ``registry`` (empty, of pipeline ``payments``) and ``clock``, which the registry reads.
"""

from __future__ import annotations

import msgspec
import pytest

from domain.clock import ManualClock
from domain.errors import RegistryConflict, StageForbids, UnknownModel
from lifecycle.registry import ModelCard, ModelRecord, ModelRegistry, RegistryState, Stage
from tests.models import NOW, manifest_of, sealed

__all__ = ["CheckModelRegistry", "add"]


def add(registry: ModelRegistry, name: str, *, shadow: bool = False) -> str:
    """Register a model; with ``shadow`` as challenger. Returns its version."""
    blob, manifest = sealed(name.encode(), pipeline=registry.pipeline)
    registry.register(blob, manifest, by="trainer", reason="trained")
    if shadow:
        registry.set_challenger(manifest.version, epoch=registry.state().epoch, reason="passed", by="gate")
    return manifest.version


def stages(registry: ModelRegistry) -> dict[str, Stage]:
    return {model.version: model.stage for model in registry.models()}


class CheckModelRegistry:
    """The contract."""

    def test_an_empty_registry(self, registry: ModelRegistry) -> None:
        assert registry.pipeline == "payments"
        assert registry.state() == RegistryState()
        for listing in (
            registry.models,
            registry.runs,
            registry.audit,
            registry.history,
            registry.newest_audit,
        ):
            assert list(listing()) == []
        assert registry.verify_audit() is None
        for ask in (registry.model, registry.card, registry.artefact, registry.run):
            with pytest.raises(UnknownModel):
                ask("m-000000000000")

    def test_a_model_comes_back_as_it_was_registered(
        self, registry: ModelRegistry, clock: ManualClock
    ) -> None:
        blob, manifest = sealed(b"\x00 model \xff" * 1000)
        card = ModelCard(markdown="# Ä", plots={"pr.svg": "<svg/>"})
        record = registry.register(
            blob,
            manifest,
            by="trainer",
            reason="drift of amount",
            metrics={"training": {"ap": 0.5}},
            card=card,
        )
        assert record == registry.model(manifest.version)
        assert record == registry.models()[0]
        assert record.manifest == manifest
        assert record.stage is Stage.CANDIDATE
        assert (record.size, record.registered_at, record.registered_by) == (
            len(blob),
            clock.now(),
            "trainer",
        )
        assert record.metrics == {"training": {"ap": 0.5}}
        assert registry.artefact(manifest.version) == blob
        assert registry.card(manifest.version) == card

    def test_registering_again_changes_nothing(self, registry: ModelRegistry, clock: ManualClock) -> None:
        version = add(registry, "a", shadow=True)
        before = registry.model(version)
        clock.advance(60)
        blob, manifest = sealed(b"a", created_at=NOW + 1)
        assert registry.register(blob, manifest, by="other", reason="again") == before
        assert registry.artefact(version) == sealed(b"a")[0]
        assert len(registry.audit()) == 2

    def test_a_model_of_another_pipeline_is_not_taken(self, registry: ModelRegistry) -> None:
        blob, manifest = sealed(b"a", pipeline="logins")
        with pytest.raises(ValueError, match="logins"):
            registry.register(blob, manifest, by="x", reason="x")

    def test_models_are_listed_newest_first_by_stage_and_up_to_a_limit(self, registry: ModelRegistry) -> None:
        a, b, c = add(registry, "a"), add(registry, "b"), add(registry, "c")
        registry.set_stage(b, Stage.REFUSED, reason="worse", by="gate")
        assert [m.version for m in registry.models()] == [c, b, a]
        assert [m.version for m in registry.models(limit=2)] == [c, b]
        assert [m.version for m in registry.models(stage=Stage.CANDIDATE)] == [c, a]

    def test_what_later_steps_find_is_added(self, registry: ModelRegistry) -> None:
        version = add(registry, "a")
        registry.annotate(version, metrics={"gate": {"ap": 0.4}, "shadow": 1})
        record = registry.annotate(version, metrics={"gate": {"ap": None}}, card=ModelCard(markdown="x"))
        assert record == registry.model(version)
        assert record.metrics == {"gate": {"ap": None}, "shadow": 1}
        assert registry.card(version).markdown == "x"
        registry.annotate(version)
        assert registry.card(version).markdown == "x"
        with pytest.raises(UnknownModel):
            registry.annotate("m-1", metrics={})

    def test_stages_that_follow_from_the_state_are_not_set_by_hand(self, registry: ModelRegistry) -> None:
        candidate, challenger = add(registry, "a"), add(registry, "b", shadow=True)
        for stage in (Stage.CHAMPION, Stage.SHADOW):
            with pytest.raises(StageForbids):
                registry.set_stage(candidate, stage, reason="x", by="x")
        with pytest.raises(StageForbids):
            registry.set_stage(challenger, Stage.REFUSED, reason="x", by="x")
        with pytest.raises(UnknownModel):
            registry.set_stage("m-1", Stage.REFUSED, reason="x", by="x")
        records = len(registry.audit())
        for _ in range(2):
            moved = registry.set_stage(candidate, Stage.REFUSED, reason="worse than a dummy", by="gate")
            assert moved == registry.model(candidate)
            assert (moved.stage, moved.reason) == (Stage.REFUSED, "worse than a dummy")
        assert len(registry.audit()) == records + 1

    def test_from_shadow_to_champion(self, registry: ModelRegistry, clock: ManualClock) -> None:
        version = add(registry, "a")
        clock.advance(1)
        state = registry.set_challenger(version, epoch=0, reason="gate passed", by="trainer", split=0.25)
        assert state == registry.state()
        assert (state.epoch, state.champion, state.challenger, state.split) == (1, None, version, 0.25)
        assert stages(registry) == {version: Stage.SHADOW}
        clock.advance(1)
        state = registry.promote(version, epoch=1, reason="better", by="trainer")
        assert state == registry.state()
        assert (state.epoch, state.champion, state.challenger, state.split) == (2, version, None, 0.0)
        assert (state.changed_at, state.changed_by, state.reason) == (clock.now(), "trainer", "better")
        assert state.below == (None,)
        assert stages(registry) == {version: Stage.CHAMPION}
        assert [s.epoch for s in registry.history()] == [2, 1]
        assert [s.epoch for s in registry.history(limit=1)] == [2]

    def test_promoting_the_champion_again_changes_nothing(self, registry: ModelRegistry) -> None:
        version = add(registry, "a", shadow=True)
        state = registry.promote(version, epoch=1, reason="better", by="trainer")
        records = len(registry.audit())
        assert registry.promote(version, epoch=1, reason="again", by="trainer") == state
        assert registry.promote(version, epoch=99, reason="again", by="trainer") == state
        assert len(registry.audit()) == records

    def test_nothing_unproven_is_promoted_unless_forced(self, registry: ModelRegistry) -> None:
        version = add(registry, "a")
        with pytest.raises(StageForbids) as refused:
            registry.promote(version, epoch=0, reason="x", by="x")
        assert refused.value.remedy
        registry.set_stage(version, Stage.REFUSED, reason="worse", by="gate")
        with pytest.raises(StageForbids, match="worse"):
            registry.promote(version, epoch=0, reason="x", by="x")
        assert registry.state().epoch == 0
        assert registry.promote(version, epoch=0, reason="x", by="x", force=True).champion == version
        with pytest.raises(UnknownModel):
            registry.promote("m-1", epoch=1, reason="x", by="x", force=True)

    def test_a_change_on_an_old_epoch_conflicts_and_leaves_nothing(self, registry: ModelRegistry) -> None:
        a, b = add(registry, "a", shadow=True), add(registry, "b")
        before = (registry.state(), stages(registry), len(registry.audit()))
        with pytest.raises(RegistryConflict) as conflict:
            registry.promote(a, epoch=0, reason="x", by="x")
        assert conflict.value.remedy
        with pytest.raises(RegistryConflict):
            registry.set_challenger(b, epoch=2, reason="x", by="x")
        with pytest.raises(RegistryConflict):
            registry.rollback(epoch=0, reason="x", by="x")
        assert (registry.state(), stages(registry), len(registry.audit())) == before

    def test_challengers_replace_each_other(self, registry: ModelRegistry) -> None:
        a, b = add(registry, "a", shadow=True), add(registry, "b", shadow=True)
        assert stages(registry) == {a: Stage.REFUSED, b: Stage.SHADOW}
        state = registry.set_challenger(b, epoch=2, reason="try it", by="ana", split=0.1)
        assert (state.epoch, state.split) == (3, 0.1)
        assert registry.set_challenger(b, epoch=0, reason="again", by="ana", split=0.1) == state
        state = registry.set_challenger(None, epoch=3, reason="shadow was worse", by="trainer")
        assert (state.challenger, state.split) == (None, 0.0)
        assert registry.model(b).stage is Stage.REFUSED
        assert registry.model(b).reason == "shadow was worse"
        for split in (-0.1, 1.1, float("nan")):
            with pytest.raises(ValueError, match="split"):
                registry.set_challenger(a, epoch=4, reason="x", by="x", split=split)

    def test_another_challenger_stays_when_someone_else_is_promoted(self, registry: ModelRegistry) -> None:
        a = add(registry, "a")
        b = add(registry, "b", shadow=True)
        state = registry.promote(a, epoch=1, reason="x", by="ana", force=True)
        assert (state.champion, state.challenger) == (a, b)
        with pytest.raises(StageForbids):
            registry.set_challenger(a, epoch=2, reason="x", by="x")

    def test_rolling_back_goes_down_to_the_pipelines_own(self, registry: ModelRegistry) -> None:
        a = add(registry, "a", shadow=True)
        registry.promote(a, epoch=1, reason="x", by="trainer")
        b = add(registry, "b", shadow=True)
        state = registry.promote(b, epoch=3, reason="x", by="trainer")
        assert state.below == (None, a)
        assert stages(registry) == {a: Stage.RETIRED, b: Stage.CHAMPION}
        state = registry.rollback(epoch=4, reason="alerts doubled", by="guard")
        assert (state.epoch, state.champion, state.below) == (5, a, (None,))
        assert stages(registry) == {a: Stage.CHAMPION, b: Stage.ROLLED_BACK}
        assert registry.model(b).reason == "alerts doubled"
        with pytest.raises(StageForbids, match="rolled_back"):
            registry.promote(b, epoch=5, reason="x", by="trainer")
        state = registry.rollback(epoch=5, reason="worse too", by="guard")
        assert (state.epoch, state.champion, state.below) == (6, None, ())
        with pytest.raises(StageForbids, match="own ensemble"):
            registry.rollback(epoch=6, reason="x", by="x")

    def test_a_retired_champion_may_return(self, registry: ModelRegistry) -> None:
        a = add(registry, "a", shadow=True)
        registry.promote(a, epoch=1, reason="x", by="trainer")
        b = add(registry, "b", shadow=True)
        registry.promote(b, epoch=3, reason="x", by="trainer")
        state = registry.promote(a, epoch=4, reason="the old pattern is back", by="ana")
        assert state.below == (None, a, b)
        # a former champion that challenges meanwhile leaves that place when a rollback needs it
        registry.set_challenger(b, epoch=5, reason="x", by="ana", split=0.5)
        state = registry.rollback(epoch=6, reason="x", by="ana")
        assert (state.champion, state.challenger, state.split) == (b, None, 0.0)

    def test_every_change_leaves_one_record_in_the_chain(
        self, registry: ModelRegistry, clock: ManualClock
    ) -> None:
        a = add(registry, "a", shadow=True)
        clock.advance(5)
        registry.promote(a, epoch=1, reason="better", by="ana")
        registry.rollback(epoch=2, reason="worse", by="guard")
        noted = registry.note("alarm", "amount", by="monitor", reason="PSI 0.4", before="0.02", after="0.4")
        found = registry.audit()
        assert [(r.number, r.action, r.subject, r.before, r.after, r.by) for r in found] == [
            (1, "register", a, None, "candidate", "trainer"),
            (2, "challenge", a, "-", a, "gate"),
            (3, "promote", a, "own", a, "ana"),
            (4, "rollback", a, a, "own", "guard"),
            (5, "alarm", "amount", "0.02", "0.4", "monitor"),
        ]
        assert found[-1] == noted
        assert found[2].at == found[1].at + 5_000_000
        assert registry.audit(after=3, limit=1) == found[3:4]
        assert [r.number for r in registry.newest_audit(limit=2)] == [5, 4]
        assert [r.number for r in registry.newest_audit(before=3)] == [2, 1]
        assert registry.verify_audit() is None

    def test_one_run_is_open_at_a_time(self, registry: ModelRegistry, clock: ManualClock) -> None:
        run = registry.start_run("person", by="ana", data={"why": "new fraud"})
        assert run == registry.run(run.id)
        assert (run.step, run.owner, run.finished_at) == ("requested", None, None)
        assert run.data == {"requested": {"why": "new fraud"}}
        with pytest.raises(RegistryConflict, match=run.id):
            registry.start_run("schedule", by="trainer")
        held = registry.claim_run(run.id, "t1", 30)
        assert held is not None
        clock.advance(1)
        done = registry.finish_run(held, "failed", error="no\0 labels")
        assert (done.finished_at, done.outcome, done.error) == (clock.now(), "failed", "no labels")
        second = registry.start_run("schedule", by="trainer")
        assert [r.id for r in registry.runs()] == [second.id, run.id]
        assert [r.id for r in registry.runs(only_open=True)] == [second.id]
        assert [r.id for r in registry.runs(limit=1)] == [second.id]

    def test_a_run_is_held_by_one_and_taken_over_when_its_lease_ends(
        self, registry: ModelRegistry, clock: ManualClock
    ) -> None:
        run_id = registry.start_run("drift", by="monitor").id
        first = registry.claim_run(run_id, "t1", 30)
        assert first is not None
        assert first.owner == "t1"
        assert registry.claim_run(run_id, "t2", 30) is None
        clock.advance(20)
        first = registry.advance_run(first, "trained", {"version": "m-1"}, seconds=30)
        clock.advance(20)
        assert registry.claim_run(run_id, "t2", 30) is None  # advancing has renewed it
        clock.advance(20)
        second = registry.claim_run(run_id, "t2", 30)
        assert second is not None
        assert (second.owner, second.step) == ("t2", "trained")
        assert second.data == {"requested": {}, "trained": {"version": "m-1"}}
        with pytest.raises(RegistryConflict, match="t2"):
            registry.advance_run(first, "gated", {}, seconds=30)
        with pytest.raises(RegistryConflict):
            registry.finish_run(first, "promoted")
        second = registry.advance_run(second, "gated", {"passed": True}, seconds=30)
        assert registry.run(run_id) == second
        registry.finish_run(second, "promoted")
        assert registry.claim_run(run_id, "t2", 30) is None
        with pytest.raises(RegistryConflict):
            registry.finish_run(second, "promoted")
        with pytest.raises(UnknownModel):
            registry.claim_run("r-99", "t2", 30)
        assert [r.after for r in registry.audit()] == ["requested", "trained", "gated", "promoted"]

    def test_ones_own_lease_is_renewed_and_older_copies_are_void(self, registry: ModelRegistry) -> None:
        run_id = registry.start_run("drift", by="monitor").id
        before = registry.claim_run(run_id, "t1", 30)
        after = registry.claim_run(run_id, "t1", 30)
        assert before is not None
        assert after is not None
        with pytest.raises(RegistryConflict):
            registry.advance_run(before, "trained", {}, seconds=30)
        assert registry.advance_run(after, "trained", {}, seconds=30).step == "trained"

    def test_numbers_that_json_does_not_know_become_null(self, registry: ModelRegistry) -> None:
        blob, manifest = sealed(b"a")
        record = registry.register(blob, manifest, by="x", reason="x", metrics={"ap": float("nan")})
        assert record.metrics == {"ap": None}
        assert record == registry.model(record.version)
        # what comes back is JSON itself
        assert msgspec.json.decode(msgspec.json.encode(record), type=ModelRecord) == record
        assert manifest == manifest_of(b"a")
