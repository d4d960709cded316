"""A champion decides, a challenger watches, and neither leaves a trace where it has no say."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from detectors.ensemble import EnsembleOutput
from detectors.trained_model import ModelScores, TrainedModel
from domain.batch import EventBatch, Floats
from domain.clock import ManualClock
from domain.codec import EventCodec
from domain.pipeline import Cost, Decision, Pipeline, Threshold
from domain.privacy import Protector
from domain.verdict import ModelOutput, ModelRole, Verdict
from featurestore.memory import MemoryStateStore
from scoring.dry_run import StateDryRunner
from scoring.engine import PartitionScorer
from scoring.models_in_use import NO_MODELS, OWN, ModelSays, ModelsInUse, in_split, judge
from scoring.scored import ScoredBatch
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

ROWS = 1_500


@pytest.fixture(scope="module")
def pipeline() -> Pipeline:
    decision = Decision(review=Threshold(budget=0.1), block=Threshold(per_day=300.0))
    return msgspec.structs.replace(load(SMALL), decision=decision)


@pytest.fixture(scope="module")
def batch(pipeline: Pipeline) -> EventBatch:
    codec = EventCodec(pipeline, Protector(b"k" * 16))
    flow = events(ROWS)
    flow[1_201] = flow[1_200]
    decoded = [codec.decode(e.payload, received_at=2**62) for e in flow]
    return codec.to_batch(decoded, range(ROWS))


@pytest.fixture(scope="module")
def models(pipeline: Pipeline) -> ModelsInUse:
    champion = line_model(pipeline, "pieces", high=9.0)
    challenger = line_model(pipeline, "amount", own=0.5)
    return ModelsInUse(7, champion, challenger, 0.3)


def verdicts(pipeline: Pipeline, scored: ScoredBatch) -> list[Verdict]:
    encoder = VerdictEncoder(pipeline, code_version="test")
    return [decode_verdict(encoder.encode(v)) for v in encoder.verdicts(scored, partition=0, scored_at=1)]


def models_of(verdict: Verdict) -> dict[str, ModelOutput]:
    assert isinstance(verdict.models, dict)
    return verdict.models


def said(scored: ScoredBatch, role: ModelRole) -> ModelSays:
    return next(one for one in scored.models if one.role is role)


class Moody(TrainedModel):
    """Fails at rows with few pieces; the whole call fails with them."""

    def score(self, x: Floats, ranks: Floats) -> ModelScores:
        if (x[:, 1] < 3.0).any():
            raise ZeroDivisionError
        return super().score(x, ranks)


def moody(model: TrainedModel) -> TrainedModel:
    parts = (model.features, model.detectors, model.members, model.weights, model.table, model.edges)
    return Moody(*parts, model.chances, model.facts)


@pytest.mark.parametrize("fails", [False, True])
def test_batches_of_any_size_give_the_same_bits(
    pipeline: Pipeline, batch: EventBatch, models: ModelsInUse, fails: bool
) -> None:
    if fails:
        assert models.champion is not None
        models = replace(models, champion=moody(models.champion))
    wholly = PartitionScorer(pipeline, models=models)
    whole = wholly.process(batch)
    for size in (7, 400):
        scorer = PartitionScorer(pipeline, models=models)
        parts = [scorer.process(part) for part in pieces(batch, size)]
        for name in ("score", "probability", "decision", "flags"):
            got = np.concatenate([getattr(part, name) for part in parts])
            assert got.tobytes() == getattr(whole, name).tobytes(), name
        for place, one in enumerate(whole.models):
            for name in ("score", "probability", "decided"):
                got = np.concatenate([getattr(part.models[place], name) for part in parts])
                assert got.tobytes() == getattr(one, name).tobytes(), (one.role, name)
        assert scorer.snapshot() == wholly.snapshot()


def test_the_champion_decides_and_the_ensemble_learns_on_as_if_alone(
    pipeline: Pipeline, batch: EventBatch, models: ModelsInUse
) -> None:
    alone = PartitionScorer(pipeline).process(batch)
    led = PartitionScorer(pipeline, models=replace(models, split=0.0)).process(batch)
    fresh = led.first_offset < 0
    champion, own = said(led, ModelRole.CHAMPION), said(led, ModelRole.OWN)
    assert own.score[fresh].tobytes() == alone.score[fresh].tobytes()
    assert led.score[fresh].tobytes() == champion.score[fresh].tobytes()
    assert led.ranks.tobytes() == alone.ranks.tobytes()
    assert champion.decided[fresh].all()
    assert led.probability is not None
    assert led.probability[fresh].tobytes() == champion.probability[fresh].tobytes()
    # alerts follow the champion: it looks at pieces and nothing else; the budget holds
    pieces_column = led.features[:, pipeline.feature_names.index("pieces")]
    late = np.arange(ROWS) >= 300
    assert (led.decision[late] > 0).mean() == pytest.approx(0.1, abs=0.05)
    alerts = np.flatnonzero((led.decision > 0) & fresh)
    assert np.nanmin(pieces_column[alerts]) >= 7
    assert {reason.feature for row in alerts.tolist() for reason in led.reasons[row]} == {"pieces"}
    assert led.decision[1_201] == led.decision[1_200]
    assert led.score[1_201] == led.score[1_200]


def test_a_challenger_that_only_watches_changes_nothing_but_what_is_said_of_it(
    pipeline: Pipeline, batch: EventBatch, models: ModelsInUse
) -> None:
    alone, watched = PartitionScorer(pipeline), PartitionScorer(pipeline)
    watched.models = ModelsInUse(3, None, models.challenger)
    first, second = alone.process(batch), watched.process(batch)
    for name in ("score", "decision", "flags", "raw"):
        assert getattr(first, name).tobytes() == getattr(second, name).tobytes(), name
    assert first.reasons == second.reasons
    assert alone.snapshot() == watched.snapshot()
    assert said(second, ModelRole.OWN).decided[second.first_offset < 0].all()
    assert not np.isnan(said(second, ModelRole.CHALLENGER).score[0])
    plain, other = verdicts(pipeline, first), verdicts(pipeline, second)
    assert "champion" not in other[0].versions.models
    without = [msgspec.structs.replace(v, models=msgspec.UNSET, probability=msgspec.UNSET) for v in other]
    assert without == plain


def test_a_verdict_says_who_decided_and_what_the_others_said(
    pipeline: Pipeline, batch: EventBatch, models: ModelsInUse
) -> None:
    assert models.champion is not None
    assert models.challenger is not None
    scored = PartitionScorer(pipeline, models=models).process(batch)
    found = verdicts(pipeline, scored)
    versions = {OWN, models.champion.version, models.challenger.version}
    deciders = set()
    for row, verdict in enumerate(found):
        assert verdict.versions.models["champion"] == models.champion.version
        if row == 1_201:
            assert verdict.models is msgspec.UNSET
            continue
        told = models_of(verdict)
        assert set(told) == versions
        [(version, decider)] = [(v, one) for v, one in told.items() if one.decided]
        assert decider.score == verdict.score
        assert decider.probability == verdict.probability
        deciders.add(version)
    assert deciders == {models.champion.version, models.challenger.version}
    assert models_of(found[0])[OWN].score is None
    assert found[0].score is not None


def test_a_champion_that_fails_at_a_row_leaves_that_row_to_the_ensemble(
    pipeline: Pipeline, batch: EventBatch, models: ModelsInUse
) -> None:
    assert models.champion is not None
    scored = PartitionScorer(pipeline, models=ModelsInUse(1, moody(models.champion))).process(batch)
    few = scored.features[:, pipeline.feature_names.index("pieces")] < 3.0
    own, champion = said(scored, ModelRole.OWN), said(scored, ModelRole.CHAMPION)
    assert 100 < few.sum() < ROWS - 100
    assert np.array_equal(own.decided, few)
    assert np.isnan(champion.score[few]).all()
    assert scored.score[few].tobytes() == own.score[few].tobytes()
    failed = [v for v in verdicts(pipeline, scored)[:50] if few[v.source.offset]]
    assert {models_of(verdict)[champion.version].score for verdict in failed} == {None}


def test_the_challenger_decides_for_its_share_of_entities_and_always_for_the_same(
    pipeline: Pipeline, batch: EventBatch, models: ModelsInUse
) -> None:
    scored = PartitionScorer(pipeline, models=models).process(batch)
    mine = said(scored, ModelRole.CHALLENGER).decided
    keys = np.array(batch.entities[pipeline.event.key])
    fresh = scored.first_offset < 0
    hers = set(keys[mine].tolist())
    assert hers.isdisjoint(keys[~mine & fresh].tolist())
    assert 4 <= len(hers) <= 20
    many = [f"account-{number}" for number in range(20_000)]
    first, second = in_split(many, "m-000000000001", 0.3), in_split(many, "m-000000000002", 0.3)
    assert first.mean() == pytest.approx(0.3, abs=0.02)
    assert (first & second).mean() == pytest.approx(0.09, abs=0.02)
    assert in_split(many, "m-000000000001", 0.5)[first].all()
    assert not in_split(many, "m-1", 0.0).any()
    assert in_split(many, "m-1", 1.0).all()


def test_relearning_gives_budgets_and_thresholds_the_scores_that_decided(
    pipeline: Pipeline, batch: EventBatch, models: ModelsInUse
) -> None:
    """Through a swap, a challenger alone, and none again; without any of the models at hand."""
    original = PartitionScorer(pipeline)
    scored = []
    changes = ((0, NO_MODELS), (400, models), (800, replace(models, champion=None)), (1_100, NO_MODELS))
    stops = [400, 800, 1_100, ROWS]
    for (start, used), stop in zip(changes, stops, strict=True):
        original.models = used
        scored.append(original.process(cut(batch, start, stop)))
    own_always = PartitionScorer(pipeline)
    own_always.process(batch)
    assert own_always.snapshot() != original.snapshot()
    successor = PartitionScorer(pipeline)
    for part in scored:
        fresh = np.flatnonzero(part.first_offset < 0)
        decided = (np.arange(len(fresh)), part.score[fresh]) if part.models else None
        x, times = part.features[fresh], part.batch.times[fresh]
        keys = [part.batch.entities[pipeline.event.key][row] for row in fresh.tolist()]
        again = successor.relearn(x, times, keys, decided=decided)
        own = part.models[0].score if part.models else part.score
        assert again.tobytes() == own[fresh].tobytes()
    assert successor.snapshot() == original.snapshot()


def test_thresholds_that_learn_work_on_the_score_that_decides(pipeline: Pipeline, batch: EventBatch) -> None:
    decision = Decision(block=Threshold(cost=Cost(false_alarm=1.0, missed="amount", per_day=200.0)))
    learning = msgspec.structs.replace(pipeline, decision=decision)
    model = line_model(learning, "pieces", high=9.0)
    scorer = PartitionScorer(learning, models=ModelsInUse(1, model))
    seen: list[Floats] = []
    step = scorer.learned.step

    def spy(score: Floats, *rest: object) -> object:
        seen.append(score)
        return step(score, *rest)  # type: ignore[arg-type]

    scorer.learned.step = spy  # type: ignore[method-assign, assignment]
    scored = scorer.process(batch)
    fresh = scored.first_offset < 0
    assert seen[0].tobytes() == said(scored, ModelRole.CHAMPION).score[fresh].tobytes()


def test_a_preview_asks_the_models_and_changes_nothing(
    pipeline: Pipeline, batch: EventBatch, models: ModelsInUse
) -> None:
    scorer = PartitionScorer(pipeline, models=models)
    scorer.process(cut(batch, 0, 1_000))
    before = scorer.snapshot()
    preview = scorer.preview(cut(batch, 1_000, 1_001))
    assert scorer.snapshot() == before
    expected = PartitionScorer(pipeline, models=models).process(cut(batch, 0, 1_001))
    assert preview.score[0] == expected.score[1_000]
    assert [one.score[0] for one in preview.models] == [one.score[1_000] for one in expected.models]


def test_a_dry_run_asks_the_models_in_force_at_that_moment(pipeline: Pipeline, models: ModelsInUse) -> None:
    codec = EventCodec(pipeline, Protector(b"k" * 16))
    now = [NO_MODELS, models, replace(models, champion=None, split=0.0)]
    asked = iter(now)
    dry = StateDryRunner(
        pipeline,
        codec,
        VerdictEncoder(pipeline, code_version="test"),
        MemoryStateStore(),
        ManualClock(2**52),
        partitions=1,
        partition_of=lambda key, count: 0,
        models=lambda: next(asked),
    )
    [sent] = events(1)
    plain, led, watched = (dry.score(sent.payload) for _ in now)
    assert plain.models is msgspec.UNSET
    assert plain.score is None
    assert led.score in {one.score for one in models_of(led).values() if one.decided}
    assert led.score is not None
    assert set(models_of(watched)) == {OWN, models.running[1][1].version}
    assert watched.score is None


def test_committed_verdicts_are_counted_by_what_decided(
    pipeline: Pipeline, batch: EventBatch, models: ModelsInUse
) -> None:
    assert models.champion is not None
    scored = PartitionScorer(pipeline, models=ModelsInUse(1, moody(models.champion))).process(batch)
    metrics = WorkerMetrics(CollectorRegistry())
    empty = MicroBatch([], [scored], Outgoing(), [])
    count(metrics, Outcome(empty, {}, 0))
    few = int((scored.features[:, pipeline.feature_names.index("pieces")] < 3.0).sum())
    value = metrics.registry.get_sample_value
    assert value("tidegate_model_failures_total", {"role": "champion"}) == few
    assert value("tidegate_model_decisions_total", {"role": "own"}) == few
    assert value("tidegate_model_decisions_total", {"role": "champion"}) == ROWS - few - 1
    assert value("tidegate_model_failures_total", {"role": "own"}) is None


def test_no_row_is_no_trouble(models: ModelsInUse) -> None:
    empty = EnsembleOutput(np.empty((0, 2)), np.empty((0, 2)), np.empty(0), ())
    found = judge(models, np.empty((0, 7)), empty, [])
    assert len(found.score) == 0
    assert len(found.said) == 3
