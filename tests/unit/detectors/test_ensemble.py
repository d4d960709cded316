from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest

from detectors.ensemble import Ensemble, EnsembleOutput
from detectors.stacking import DAY
from domain.batch import Floats
from domain.pipeline import Decision, DetectorSpec, EventSpec, Pipeline, Threshold, ValueFeature
from lifecycle.evaluation import ranking
from tests.unit.detectors.test_stacking import given, scripted
from tests.unit.detectors.test_stacking import traffic as ranked_traffic

NAMES = ("amount", "count", "ratio", "gap")
HST = DetectorSpec(name="hst", kind="half_space_trees", params={"trees": 8, "height": 5, "window": 100})
FOREST = DetectorSpec(
    name="forest",
    kind="isolation_forest",
    features=("ratio", "amount"),
    params={"trees": 10, "samples": 64, "warm_up": 900, "refit_every": 1500, "reservoir": 256},
)


def pipeline(*detectors: DetectorSpec, digest: str = "d1") -> Pipeline:
    return Pipeline(
        name="payments",
        version=1,
        event=EventSpec(
            id="id", time="at", key="account", max_lateness=0, max_future=0, dedupe_window=0, fields=()
        ),
        features=tuple(ValueFeature(name=name, field=name) for name in NAMES),
        detectors=detectors,
        decision=Decision(review=Threshold(budget=0.05), block=Threshold(budget=0.01)),
        seed=11,
        digest=digest,
    )


def traffic(n: int, seed: int = 1) -> Floats:
    x = np.random.default_rng(seed).normal(size=(n, 4))
    x[::17, 1] = np.nan
    return x


def in_batches(ensemble: Ensemble, x: Floats, size: int) -> EnsembleOutput:
    outputs = [ensemble.step(x[at : at + size]) for at in range(0, len(x), size)]
    return EnsembleOutput(
        np.concatenate([o.raw for o in outputs]),
        np.concatenate([o.ranks for o in outputs]),
        np.concatenate([o.score for o in outputs]),
        tuple(s for o in outputs for s in o.segments),
        np.concatenate([o.reached for o in outputs]),
        np.concatenate([o.outside for o in outputs]),
    )


def per_row(output: EnsembleOutput, sizes: int) -> list[tuple[dict[str, str], dict[str, str]]]:
    rows: list[tuple[dict[str, str], dict[str, str]]] = []
    for segment in output.segments:
        rows += [(segment.versions, segment.abstained)] * (segment.stop - segment.start)
    assert len(rows) == sizes
    return rows


def test_batches_change_neither_scores_nor_what_is_said_about_them() -> None:
    x = traffic(2600)
    whole = Ensemble(pipeline(HST, FOREST)).step(x)
    for size in (1, 7, 500):
        parts = in_batches(Ensemble(pipeline(HST, FOREST)), x, size)
        assert parts.raw.tobytes() == whole.raw.tobytes()
        assert parts.ranks.tobytes() == whole.ranks.tobytes()
        assert parts.score.tobytes() == whole.score.tobytes()
        assert np.array_equal(parts.reached, whole.reached)
        assert np.array_equal(parts.outside, whole.outside)
        assert per_row(parts, 2600) == per_row(whole, 2600)


def test_segments_follow_warm_up_and_refit() -> None:
    output = Ensemble(pipeline(HST, FOREST)).step(traffic(2600))
    assert [(s.start, s.stop, sorted(s.abstained)) for s in output.segments] == [
        (0, 100, ["forest", "hst"]),
        (100, 200, ["forest"]),
        (200, 400, ["forest"]),
        (400, 800, ["forest"]),
        (800, 900, ["forest"]),
        (900, 1600, []),
        (1600, 1800, []),
        (1800, 2600, []),
    ]
    versions = [s.versions["forest"] for s in output.segments]
    assert set(versions[:5]) == {"isolation_forest-unfitted"}
    assert versions[5] == versions[6] != versions[7]
    assert len({s.versions["hst"] for s in output.segments}) == 6
    assert np.isnan(output.raw[:100]).all()
    assert np.isfinite(output.raw[100:, 0]).all()
    assert np.isfinite(output.ranks[900:]).all()
    assert np.isnan(output.score[:100]).all()
    assert np.isfinite(output.score[100:]).all()
    assert ((output.score[100:] >= 0) & (output.score[100:] < 1)).all()


def test_snapshot_goes_on_with_the_same_bits() -> None:
    x = traffic(2600)
    original = Ensemble(pipeline(HST, FOREST))
    for cut in (0, 350, 1390):
        original.step(x[original.seen : cut])
        copy = Ensemble(pipeline(HST, FOREST))
        copy.restore(original.snapshot())
        assert copy.seen == cut
    ours, theirs = copy.step(x[1390:]), original.step(x[1390:])
    assert ours.score.tobytes() == theirs.score.tobytes()
    assert np.array_equal(ours.reached, theirs.reached)
    assert copy.snapshot() == original.snapshot()
    assert np.array_equal(copy.reference.median, original.reference.median)


def test_score_is_pure_and_says_what_step_will_say() -> None:
    x = traffic(1600)
    ensemble = Ensemble(pipeline(HST, FOREST))
    ensemble.step(x)
    before = ensemble.snapshot()
    asked = ensemble.score(traffic(5, seed=2))
    assert ensemble.snapshot() == before
    assert asked.segments[0].abstained == {}
    told = ensemble.step(traffic(5, seed=2)[:1])
    assert told.score.tobytes() == asked.score[:1].tobytes()


def test_the_alert_budget_is_kept_on_stationary_traffic() -> None:
    defaults = [DetectorSpec(name=kind, kind=kind) for kind in ("half_space_trees", "isolation_forest")]
    # Bounded features: behind the min-max scale, unbounded ones drift until their extremes have been seen.
    output = Ensemble(pipeline(*defaults)).step(np.random.default_rng(1).random((40_000, 4)))
    for budget in (0.005, 0.05):
        assert (output.score[20_000:] >= 1.0 - budget).mean() == pytest.approx(budget, rel=0.15)


def test_outliers_stand_out() -> None:
    x = traffic(6_000)
    odd = np.arange(3000, 6_000, 450)
    x[odd, 0] += 15.0
    x[odd, 2] -= 15.0
    output = Ensemble(pipeline(HST, FOREST)).step(x)
    assert (output.score[odd] > 0.95).mean() > 0.8


@pytest.mark.parametrize("kind", ["constant", "random", "inverted"])
def test_one_poisoned_detector_does_not_spoil_the_others(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    x = traffic(8_000)
    odd = np.zeros(8_000, dtype=np.bool_)
    odd[2000::97] = True
    x[odd] += np.array([4.0, 0.0, -4.0, 4.0])
    clean = ranking(Ensemble(pipeline(HST, FOREST)).step(x).score, odd)

    poisoned = Ensemble(
        pipeline(HST, FOREST, DetectorSpec(name="bad", kind="river", params={"model": "anomaly.LODA"}))
    )
    rng = np.random.default_rng(4)
    wrong = {
        "constant": np.zeros(8_000),
        "random": rng.random(8_000),
        "inverted": rng.random(8_000) - 5.0 * odd,
    }[kind]
    bad: Any = poisoned._detectors[2]
    monkeypatch.setattr(type(bad), "ready", True)
    monkeypatch.setattr(type(bad), "abstains_because", None)
    monkeypatch.setattr(type(bad), "next_change", lambda self: None)
    taken = iter(wrong)
    monkeypatch.setattr(bad, "step", lambda rows: np.array([next(taken) for _ in rows]))
    score = poisoned.step(x).score
    spoiled = ranking(score, odd)
    assert clean.average_precision > 0.6
    assert spoiled.auc > clean.auc - 0.01
    assert spoiled.average_precision > 0.7 * clean.average_precision


def test_fit_makes_it_ready_at_once() -> None:
    ensemble = Ensemble(pipeline(HST, FOREST))
    ensemble.fit(traffic(1200))
    assert ensemble.abstained() == {}
    output = ensemble.step(traffic(10, seed=3))
    assert np.isfinite(output.score).all()
    assert ensemble.seen == 1210


def test_a_failing_detector_silences_only_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    ensemble = Ensemble(pipeline(HST, FOREST))
    ensemble.step(traffic(2000))
    forest: Any = ensemble._detectors[1]
    healthy = forest.step

    def failing(x: Floats) -> Floats:
        raise MemoryError

    def holey(x: Floats) -> Floats:
        scores: Floats = healthy(x)
        scores[2] = np.inf
        return scores

    monkeypatch.setattr(forest, "step", failing)
    output = ensemble.step(traffic(5, seed=4))
    assert np.isfinite(output.score).all()
    assert [s.abstained for s in output.segments] == [{"forest": "MemoryError"}]
    monkeypatch.setattr(forest, "step", holey)
    output = ensemble.step(traffic(5, seed=5))
    assert np.isnan(output.raw[2, 1])
    assert [(s.start, s.stop, s.abstained) for s in output.segments] == [
        (0, 2, {}),
        (2, 3, {"forest": "score not finite"}),
        (3, 5, {}),
    ]
    assert np.isfinite(output.score).all()


def test_nothing_is_a_batch_too() -> None:
    ensemble = Ensemble(pipeline(HST))
    empty = np.empty((0, 4))
    for output in (ensemble.step(empty), ensemble.score(empty)):
        assert output.score.shape == (0,)
        assert output.segments == ()
    with pytest.raises(ValueError, match="rows of 4 features"):
        ensemble.step(np.empty((2, 3)))


def test_without_detectors_there_is_no_score() -> None:
    output = Ensemble(pipeline()).step(traffic(3))
    assert np.isnan(output.score).all()
    assert output.raw.shape == (3, 0)


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        (DetectorSpec(name="x", kind="oracle"), "unknown kind 'oracle'"),
        (DetectorSpec(name="x", kind="half_space_trees", params={"tree": 3}), "tree"),
        (DetectorSpec(name="x", kind="half_space_trees", params={"trees": 0}), ">= 1"),
        (DetectorSpec(name="x", kind="half_space_trees", params={"trees": "8"}), "int"),
        (
            DetectorSpec(name="x", kind="half_space_trees", params={"limits": {"gap": [1, 0]}}),
            "low below high",
        ),
        (DetectorSpec(name="x", kind="river", params={}), "model"),
        (DetectorSpec(name="x", kind="river", params={"model": "os.system"}), "regex"),
        (DetectorSpec(name="x", kind="isolation_forest", features=("nope",)), "unknown feature 'nope'"),
    ],
)
def test_mistakes_name_the_detector(spec: DetectorSpec, reason: str) -> None:
    with pytest.raises(ValueError, match=f"detector 'x'.*{reason}"):
        Ensemble(pipeline(spec))


def test_foreign_snapshots_are_refused() -> None:
    blob = Ensemble(pipeline(HST)).snapshot()
    with pytest.raises(ValueError, match="of pipeline d1, not d2"):
        Ensemble(pipeline(HST, digest="d2")).restore(blob)
    with pytest.raises(ValueError, match="truncated"):
        Ensemble(pipeline(HST)).restore(blob[:-3])


def test_scores_keep_their_measure_while_weights_hardly_move() -> None:
    """Nearly equal weights leave the window of past evidence as it is; far other ones let it fade."""
    declared = msgspec.structs.replace(
        pipeline(HST, FOREST), decision=Decision(combine="stacked", review=Threshold(budget=0.05))
    )
    ensemble = Ensemble(declared)
    stacker = scripted([[0.55, 0.45], [0.9, 0.1]])
    ensemble._stacker = stacker
    ensemble.step(traffic(8_000))
    held = len(ensemble._final)
    assert held > 1_500
    lesson = given(*ranked_traffic(3_000, [2.0, 2.0], seed=5))
    ensemble.learn(lesson, DAY)
    assert len(ensemble._final) == held
    ensemble.learn(lesson, 2 * DAY)
    assert len(ensemble._final) == 500
    assert stacker.weights.tolist() == [0.9, 0.1]
