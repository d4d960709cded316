"""Rules beside models and thresholds: who goes before whom, what verdicts say, and that nothing else moves."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from domain.batch import EventBatch, Floats
from domain.clock import ManualClock
from domain.codec import EventCodec
from domain.label_codec import Said
from domain.list_records import ListEntry
from domain.list_view import ListIndex, ListView
from domain.pipeline import Cost, Decision, Explore, Pipeline, Threshold
from domain.privacy import Protector
from domain.rule_records import Band, Rule, RuleAction, RuleMode, RuleSet, Typology
from domain.verdict import DecisionName, ModelRole, RuleOutput, Verdict
from featurestore.memory import MemoryStateStore
from lifecycle.heard_verdict import hear, said_of
from scoring.dry_run import StateDryRunner
from scoring.engine import PartitionScorer
from scoring.models_in_use import OWN, ModelsInUse
from scoring.rules import compile_rules
from scoring.rules_in_use import MAX_LISTED, NO_RULES, RulesInUse, in_exploration
from scoring.scored import FLAG_BITS, ScoredBatch
from scoring.verdicts import VerdictEncoder, decode_verdict
from stream.committer import Outcome
from stream.micro_batch import MicroBatch
from stream.outbox import Outgoing
from stream.worker_metrics import WorkerMetrics
from stream.worker_reporting import count
from tests.line_models import line_model
from tests.system.events import SMALL, events
from tests.unit.scoring.test_engine import cut, pieces
from tidegate.loading import load

ROWS = 1_200
REPEAT = 1_101
ALLOW, BLOCK, REVIEW, NONE = RuleAction.ALLOW, RuleAction.BLOCK, RuleAction.REVIEW, RuleAction.NONE
PROTECTOR = Protector(b"k" * 16)


@pytest.fixture(scope="module")
def pipeline() -> Pipeline:
    decision = Decision(review=Threshold(budget=0.1), block=Threshold(per_day=300.0))
    return msgspec.structs.replace(load(SMALL), decision=decision)


@pytest.fixture(scope="module")
def batch(pipeline: Pipeline) -> EventBatch:
    codec = EventCodec(pipeline, PROTECTOR)
    flow = events(ROWS)
    flow[REPEAT] = flow[REPEAT - 1]
    return codec.to_batch([codec.decode(e.payload, received_at=2**62) for e in flow], range(ROWS))


@pytest.fixture(scope="module")
def alone(pipeline: Pipeline, batch: EventBatch) -> ScoredBatch:
    return PartitionScorer(pipeline).process(batch)


def in_use(
    pipeline: Pipeline, *rules: Rule, lists: ListView | None = None, typologies: tuple[Typology, ...] = ()
) -> RulesInUse:
    whole = RuleSet(epoch=7, rules=rules, typologies=typologies, changed_at=0, changed_by="t", reason="t")
    compiled = compile_rules(whole, pipeline)
    return RulesInUse(compiled) if lists is None else RulesInUse(compiled, lists)


MOVING = (
    Rule(id="big", when="amount > 100.0", score_effect=0.3, action=REVIEW, reason="a large amount"),
    Rule(id="calm", when="count_1h < 3.0 && score < 0.9", score_effect=-0.125),
    Rule(id="shop", when="shop in ['s1', 's2']", action=BLOCK, priority=2),
    Rule(id="shop3", when="shop == 's3'", action=ALLOW),
    Rule(id="quiet", when="pieces > 4.0", action=BLOCK, score_effect=0.9, mode=RuleMode.SHADOW),
)


def verdicts(pipeline: Pipeline, scored: ScoredBatch) -> list[Verdict]:
    encoder = VerdictEncoder(pipeline, code_version="test")
    return [decode_verdict(encoder.encode(v)) for v in encoder.verdicts(scored, partition=0, scored_at=1)]


def hits_of(verdict: Verdict) -> list[RuleOutput]:
    assert isinstance(verdict.rules, list)
    return verdict.rules


@pytest.mark.parametrize("led", [False, True])
def test_batches_of_any_size_give_the_same_bits(pipeline: Pipeline, batch: EventBatch, led: bool) -> None:
    models = ModelsInUse(7, line_model(pipeline, "pieces", high=9.0)) if led else ModelsInUse()
    explored = msgspec.structs.replace(
        pipeline, decision=msgspec.structs.replace(pipeline.decision, explore=Explore(share=0.3))
    )
    rules = in_use(explored, *MOVING)
    wholly = PartitionScorer(explored, models=models, rules=rules)
    whole = wholly.process(batch)
    told = [msgspec.structs.replace(v, reasons=[]) for v in verdicts(explored, whole)]
    for size in (37, 400):
        scorer = PartitionScorer(explored, models=models, rules=rules)
        parts = [scorer.process(part) for part in pieces(batch, size)]
        for name in ("score", "decision", "flags"):
            got = np.concatenate([getattr(part, name) for part in parts])
            assert got.tobytes() == getattr(whole, name).tobytes(), name
        again = [v for part in parts for v in verdicts(explored, part)]
        assert [msgspec.structs.replace(v, reasons=[]) for v in again] == told
        assert scorer.snapshot() == wholly.snapshot()


def test_rules_that_hit_nothing_change_nothing_but_the_versions(
    pipeline: Pipeline, batch: EventBatch, alone: ScoredBatch
) -> None:
    lists = ListIndex()
    lists.change(12)
    rules = in_use(
        pipeline, Rule(id="never", when="amount < 0.0", action=BLOCK, score_effect=0.5), lists=lists
    )
    plain, ruled = PartitionScorer(pipeline), PartitionScorer(pipeline, rules=rules)
    before, after = verdicts(pipeline, plain.process(batch)), verdicts(pipeline, ruled.process(batch))
    assert {(v.versions.rules, v.versions.lists) for v in after} == {("r7", "l12")}
    assert {(v.versions.rules, v.versions.lists) for v in before} == {(None, None)}
    assert [msgspec.structs.replace(v, versions=before[0].versions) for v in after] == [
        msgspec.structs.replace(v, versions=before[0].versions) for v in before
    ]
    assert plain.snapshot() == ruled.snapshot()
    assert alone.rules == {}


def test_shadow_rules_are_written_down_and_change_nothing(
    pipeline: Pipeline, batch: EventBatch, alone: ScoredBatch
) -> None:
    bands = (Band(low=1.0, reason="x", action=BLOCK),)
    shadow = [msgspec.structs.replace(rule, mode=RuleMode.SHADOW) for rule in MOVING]
    counted = Rule(id="c", when="amount > 0.0", typology="t")
    typology = Typology(id="t", bands=bands, mode=RuleMode.SHADOW)
    scorer = PartitionScorer(pipeline, rules=in_use(pipeline, *shadow, counted, typologies=(typology,)))
    scored = scorer.process(batch)
    for name in ("score", "decision", "flags", "raw"):
        assert getattr(scored, name).tobytes() == getattr(alone, name).tobytes(), name
    assert scored.reasons == alone.reasons
    told = verdicts(pipeline, scored)
    assert all(v.models is msgspec.UNSET for v in told)
    hits = [hit for v in told if v.rules is not msgspec.UNSET for hit in hits_of(v)]
    assert {hit.id for hit in hits} == {"big", "calm", "shop", "shop3", "quiet", "c", "t"}
    assert not any(hit.decided for hit in hits)
    assert {hit.score for hit in hits if hit.id == "t"} == {1.0}


def test_allow_goes_before_block_before_the_thresholds_before_review(
    pipeline: Pipeline, batch: EventBatch, alone: ScoredBatch
) -> None:
    rules = in_use(
        pipeline,
        Rule(id="allow", when="pieces == 1.0", action=ALLOW, priority=-5),
        Rule(id="block", when="pieces <= 2.0", action=BLOCK),
        Rule(id="review", when="pieces <= 4.0", action=REVIEW, priority=99),
    )
    scored = PartitionScorer(pipeline, rules=rules).process(batch)
    number = scored.features[:, pipeline.feature_names.index("pieces")]
    fresh = scored.first_offset < 0
    model = alone.decision
    expected = np.where(
        number == 1.0,
        0,
        np.where(number <= 2.0, 2, np.where((number <= 4.0) & (model == 0), 1, model)),
    )
    assert np.array_equal(scored.decision[fresh], expected[fresh])
    # each case is really there
    for here in (number == 1.0, number <= 2.0, (number > 2.0) & (number <= 4.0), number > 4.0):
        assert (model[here] > 0).any()
        assert (model[here] == 0).any()
    # and a repeat has what its first occurrence got
    assert scored.decision[REPEAT] == scored.decision[REPEAT - 1]
    told = verdicts(pipeline, scored)
    assert told[REPEAT].rules is msgspec.UNSET
    for row in np.flatnonzero(fresh).tolist():
        deciders = [] if told[row].rules is msgspec.UNSET else [h.id for h in hits_of(told[row]) if h.decided]
        by = "allow" if number[row] == 1.0 else "block" if number[row] <= 2.0 else "review"
        ruled = number[row] <= 2.0 or (number[row] <= 4.0 and model[row] == 0)
        assert deciders == ([by] if ruled else []), row
        codes = [reason.code for reason in told[row].reasons]
        assert codes[:1] == [f"rule:{by}"] if ruled else not any(code.startswith("rule:") for code in codes)
        if by == "allow":
            assert codes == ["rule:allow"]


def test_effects_move_the_score_that_thresholds_see(
    pipeline: Pipeline, batch: EventBatch, alone: ScoredBatch
) -> None:
    up = Rule(id="up", when="pieces >= 7.0", score_effect=0.75, reason="many pieces")
    down = Rule(id="down", when="pieces == 7.0 || pieces == 1.0", score_effect=-0.5)
    scored = PartitionScorer(pipeline, rules=in_use(pipeline, up, down)).process(batch)
    number = scored.features[:, pipeline.feature_names.index("pieces")]
    effect = np.where(number >= 7.0, 0.75, 0.0) + np.where((number == 7.0) | (number == 1.0), -0.5, 0.0)
    fresh = scored.first_offset < 0
    expected = np.clip(alone.score + effect, 0.0, 1.0)
    assert scored.score[fresh].tobytes() == expected[fresh].tobytes()
    assert scored.score[REPEAT] == scored.score[REPEAT - 1]
    late = np.arange(ROWS) >= 400
    # the budget is held on the moved scores: alerts are now among those with many pieces
    assert np.nanmin(number[late & fresh & (scored.decision > 0)]) >= 7.0
    assert (scored.decision[late] > 0).mean() == pytest.approx(0.1, abs=0.05)
    told = verdicts(pipeline, scored)
    moved = fresh & ~np.isnan(alone.score) & (expected != alone.score)
    assert 50 < moved.sum() < ROWS - 50
    for row in range(ROWS):
        models = told[row].models
        if moved[row]:
            assert isinstance(models, dict)
            assert models[OWN].score == alone.score[row]
            assert models[OWN].role is ModelRole.OWN
        else:
            assert models is msgspec.UNSET
    [alert] = np.flatnonzero((scored.decision > 0) & (number == 8.0))[:1].tolist()
    first = told[alert].reasons[0]
    assert (first.code, first.text, first.contribution, first.feature) == ("rule:up", "many pieces", 0.75, "")


@pytest.mark.parametrize("led", [False, True])
def test_recovery_gives_the_same_state_from_the_verdicts_alone(
    pipeline: Pipeline, batch: EventBatch, led: bool
) -> None:
    """Through rules that come, change and go; with none of them, and none of the models, at hand."""
    models = ModelsInUse(7, line_model(pipeline, "pieces", high=9.0)) if led else ModelsInUse()
    original = PartitionScorer(pipeline, models=models)
    sets = (NO_RULES, in_use(pipeline, *MOVING), in_use(pipeline, *MOVING[:2]), NO_RULES)
    scored = []
    for number, rules in enumerate(sets):
        original.rules = rules
        scored.append(original.process(cut(batch, number * 300, number * 300 + 300)))
    without = PartitionScorer(pipeline, models=models)
    without.process(batch)
    assert without.snapshot() != original.snapshot()
    successor = PartitionScorer(pipeline)
    for part in scored:
        known = [v for v in verdicts(pipeline, part) if v.features is not None]
        x: Floats = np.array(
            [
                [np.nan if v.features[n] is None else v.features[n] for n in pipeline.feature_names]
                for v in known
            ]
        )
        led_rows = np.flatnonzero([v.models is not msgspec.UNSET for v in known])
        scores = np.array([np.nan if known[row].score is None else known[row].score for row in led_rows])
        again = successor.relearn(
            x,
            np.array([v.event_time for v in known]),
            [v.entities[pipeline.event.key] for v in known],
            decided=(led_rows, scores) if len(led_rows) else None,
        )
        own = [v.models[OWN].score if isinstance(v.models, dict) else v.score for v in known]
        np.testing.assert_array_equal(again, np.array([np.nan if s is None else s for s in own]))
    assert successor.snapshot() == original.snapshot()


def test_thresholds_that_learn_work_on_the_moved_score(pipeline: Pipeline, batch: EventBatch) -> None:
    decision = Decision(block=Threshold(cost=Cost(false_alarm=1.0, missed="amount", per_day=200.0)))
    learning = msgspec.structs.replace(pipeline, decision=decision)
    scorer = PartitionScorer(learning, rules=in_use(learning, *MOVING))
    seen: list[Floats] = []
    step = scorer.learned.step

    def spy(score: Floats, *rest: object) -> object:
        seen.append(score)
        return step(score, *rest)  # type: ignore[arg-type]

    scorer.learned.step = spy  # type: ignore[method-assign, assignment]
    scored = scorer.process(batch)
    assert seen[0].tobytes() == scored.score[scored.first_offset < 0].tobytes()


def test_lists_are_asked_at_the_time_of_the_event(pipeline: Pipeline, batch: EventBatch) -> None:
    lists = ListIndex()
    account = PROTECTOR.protect("acc-1")
    middle = int(batch.times[ROWS // 2])
    entry = ListEntry(
        list="trusted", field="account", value=account, expires_at=middle, added_at=0, added_by="t", number=3
    )
    lists.change(3, [entry])
    rule = Rule(id="trusted", when="account in lists.trusted", action=BLOCK)
    scored = PartitionScorer(pipeline, rules=in_use(pipeline, rule, lists=lists)).process(batch)
    mine = np.array([key == account for key in batch.entities["account"]]) & (scored.first_offset < 0)
    assert sorted(scored.rules) == np.flatnonzero(mine & (batch.times < middle)).tolist()
    assert (mine & (batch.times >= middle)).any()


def test_exploration_spares_its_share_of_what_would_be_blocked(pipeline: Pipeline, batch: EventBatch) -> None:
    rules = (
        Rule(id="even", when="pieces == 2.0 || pieces == 4.0", action=BLOCK, reason="even"),
        Rule(id="never", when="pieces == 4.0", action=BLOCK, explore=False),
    )

    def decided(explore: Explore | None, seed: int = 0) -> ScoredBatch:
        decision = msgspec.structs.replace(pipeline.decision, explore=explore)
        changed = msgspec.structs.replace(pipeline, decision=decision, seed=seed)
        return PartitionScorer(changed, rules=in_use(changed, *rules)).process(batch)

    plain, review, allow = (
        decided(None),
        decided(Explore(share=0.3)),
        decided(Explore(share=0.3, instead="allow")),
    )
    fresh = plain.first_offset < 0
    spared = (review.flags & FLAG_BITS[next(f for f in FLAG_BITS if f == "explored")]) != 0
    number = plain.features[:, pipeline.feature_names.index("pieces")]
    blocked = fresh & (plain.decision == 2) & (number != 4.0)
    assert not spared[~blocked].any()
    assert spared[blocked].mean() == pytest.approx(0.3, abs=0.1)
    assert set(review.decision[spared].tolist()) == {1}
    assert set(allow.decision[spared].tolist()) == {0}
    assert np.array_equal(review.decision[~spared & fresh], plain.decision[~spared & fresh])
    assert decided(Explore(share=0.3), seed=1).decision.tobytes() != review.decision.tobytes()
    # why it would have been blocked is still told
    row = int(np.flatnonzero(spared & (number == 2.0))[0])
    [told] = [v for v in verdicts(pipeline, allow) if v.source.offset == row]
    assert told.decision is DecisionName.ALLOW
    assert "explored" in told.flags
    assert told.reasons[0].text == "even"


def test_exploration_is_by_lot_and_always_the_same() -> None:
    many = [f"event-{number}" for number in range(20_000)]
    first, second = in_exploration(many, 0.3, 1), in_exploration(many, 0.3, 2)
    assert first.mean() == pytest.approx(0.3, abs=0.02)
    assert (first & second).mean() == pytest.approx(0.09, abs=0.02)
    assert in_exploration(many, 0.5, 1)[first].all()
    assert not in_exploration(many, 0.0, 1).any()
    assert in_exploration(many, 1.0, 1).all()


def test_a_rule_that_fails_is_flagged_and_stops_nothing(pipeline: Pipeline, batch: EventBatch) -> None:
    class Away:
        version = 5

        def contains(self, *_: object) -> object:
            raise ConnectionError

    gone = Rule(id="gone", when="account in lists.trusted", action=BLOCK)
    fine = Rule(id="fine", when="pieces == 2.0", action=BLOCK)
    away: ListView = Away()  # type: ignore[assignment]
    scored = PartitionScorer(pipeline, rules=in_use(pipeline, gone, fine, lists=away)).process(
        cut(batch, 0, 50)
    )
    assert scored.rule_failures == {"gone": 50}
    told = verdicts(pipeline, scored)
    assert all("rule_failed" in verdict.flags for verdict in told)
    assert {hit.id for verdict in told if verdict.rules for hit in hits_of(verdict)} == {"fine"}


def test_labels_teach_the_ensemble_by_its_own_score(pipeline: Pipeline, batch: EventBatch) -> None:
    encoder = VerdictEncoder(pipeline, code_version="test")
    scored = PartitionScorer(pipeline, rules=in_use(pipeline, *MOVING)).process(batch)
    records = encoder.verdicts(scored, partition=0, scored_at=1)
    moved = [row for row, one in enumerate(records) if one.models is not msgspec.UNSET]
    assert moved
    for row in (moved[0], moved[-1]):
        raw = said_of(hear(encoder.encode(records[row])))
        assert raw is not None
        said = msgspec.json.decode(raw, type=Said)
        assert (said.own, said.score) == (scored.models[0].score[row], scored.score[row])
        assert said.own != said.score


def test_committed_verdicts_are_counted_by_rule(pipeline: Pipeline, batch: EventBatch) -> None:
    rules = in_use(pipeline, *MOVING, Rule(id="gone", when="account in lists.trusted", score_effect=0.1))
    scored = PartitionScorer(pipeline, rules=rules).process(cut(batch, 0, 400))
    scored = replace(scored, rule_failures={"gone": 3})
    metrics = WorkerMetrics(CollectorRegistry())
    count(metrics, Outcome(MicroBatch([], [scored], Outgoing(), []), {}, 0))
    value = metrics.registry.get_sample_value
    for rule, mode in (("shop", "live"), ("quiet", "shadow")):
        hits = sum(one.id == rule for listed in scored.rules.values() for one in listed)
        assert value("tidegate_rule_hits_total", {"rule": rule, "mode": mode}) == hits > 0
    assert value("tidegate_rule_failures_total", {"rule": "gone"}) == 3
    assert value("tidegate_model_decisions_total", {"role": "own"}) is None


def test_a_verdict_names_so_many_rules_and_those_that_act_first(
    pipeline: Pipeline, batch: EventBatch
) -> None:
    many = [Rule(id=f"r{n:03}", when="amount >= 0.0", score_effect=0.001) for n in range(MAX_LISTED + 20)]
    acting = Rule(id="z", when="amount >= 0.0", action=BLOCK)
    scored = PartitionScorer(pipeline, rules=in_use(pipeline, *many, acting)).process(cut(batch, 0, 3))
    for listed in scored.rules.values():
        assert len(listed) == MAX_LISTED
        assert listed[0].id == "z"


def test_alerts_carry_the_rules(pipeline: Pipeline, batch: EventBatch) -> None:
    encoder = VerdictEncoder(pipeline, code_version="test")
    scored = PartitionScorer(pipeline, rules=in_use(pipeline, *MOVING)).process(cut(batch, 0, 60))
    found = [v for v in encoder.verdicts(scored, partition=0, scored_at=1) if v.decision == "block"]
    alert = msgspec.json.decode(encoder.encode(encoder.alert(found[0])))
    assert alert["rules"][0] == {
        "id": "shop", "version": 1, "mode": "live", "action": "block", "effect": 0.0, "decided": True
    }  # fmt: skip
    assert alert["versions"]["rules"] == "r7"


def test_a_preview_and_a_dry_run_apply_the_rules(pipeline: Pipeline, batch: EventBatch) -> None:
    rules = in_use(pipeline, Rule(id="any", when="amount >= 0.0", action=BLOCK, score_effect=0.5))
    scorer = PartitionScorer(pipeline, rules=rules)
    scorer.process(cut(batch, 0, 1_000))
    before = scorer.snapshot()
    preview = scorer.preview(cut(batch, 1_000, 1_001))
    assert scorer.snapshot() == before
    expected = PartitionScorer(pipeline, rules=rules).process(cut(batch, 0, 1_001))
    assert (preview.score[0], preview.decision[0]) == (expected.score[1_000], 2)
    asked = iter((NO_RULES, rules))
    dry = StateDryRunner(
        pipeline,
        EventCodec(pipeline, PROTECTOR),
        VerdictEncoder(pipeline, code_version="test"),
        MemoryStateStore(),
        ManualClock(2**52),
        partitions=1,
        partition_of=lambda key, count: 0,
        rules=lambda: next(asked),
    )
    [sent] = events(1)
    assert dry.score(sent.payload).rules is msgspec.UNSET
    verdict = dry.score(sent.payload)
    assert verdict.decision is DecisionName.BLOCK
    assert [hit.id for hit in hits_of(verdict)] == ["any"]


def test_a_batch_of_repeats_alone_is_no_trouble(pipeline: Pipeline, batch: EventBatch) -> None:
    scorer = PartitionScorer(pipeline, rules=in_use(pipeline, *MOVING))
    first = scorer.process(cut(batch, 0, 5))
    repeat = replace(cut(batch, 0, 5), offsets=np.arange(5, 10, dtype=np.int64))
    again = scorer.process(repeat)
    assert (again.first_offset >= 0).all()
    assert np.array_equal(again.decision, first.decision)
    assert again.rules == {}
