from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from detectors.arrays import Arrays, pack, unpack
from detectors.trained_model import TrainedModel
from domain.pipeline import DetectorSpec, ExpressionFeature, Threshold
from tests.unit.detectors.trained import BOOSTING, HST, LOGISTIC, examples, pipeline, trained

QUANTISED = DetectorSpec(
    name="small", kind="random_forest", params={"trees": 4, "min_leaf": 5, "compress": {"quantize": 8}}
)


@pytest.fixture(scope="module")
def model() -> TrainedModel:
    return trained(HST, BOOSTING, LOGISTIC, QUANTISED)


@pytest.fixture(scope="module")
def small() -> bytes:
    return trained(BOOSTING, LOGISTIC, n=500).pack()


def test_scores_do_not_depend_on_how_rows_are_cut_into_batches(model: TrainedModel) -> None:
    rows = examples(300, 4, seed=5)
    whole = model.score(rows.x, rows.ranks)
    for size in (1, 7, 300):
        parts = [model.score(rows.x[i : i + size], rows.ranks[i : i + size]) for i in range(0, 300, size)]
        assert np.concatenate([p.score for p in parts]).tobytes() == whole.score.tobytes()
        assert np.concatenate([p.probability for p in parts]).tobytes() == whole.probability.tobytes()


def test_its_bytes_are_a_model_that_says_the_same(model: TrainedModel) -> None:
    again = TrainedModel.unpack(model.pack())
    assert again.pack() == model.pack()
    assert again.version == model.version
    assert again == model
    assert again != trained(HST)
    rows = examples(200, 4, seed=6)
    assert again.score(rows.x, rows.ranks).score.tobytes() == model.score(rows.x, rows.ranks).score.tobytes()
    assert again.facts == model.facts
    assert again.worth == model.worth


def test_fraud_scores_high_and_likely_and_a_score_is_a_share_of_traffic(model: TrainedModel) -> None:
    rows = examples(2_000, 4, seed=9)
    said = model.score(rows.x, rows.ranks)
    fraud = rows.y == 1.0
    assert said.score[fraud].mean() > 0.9
    assert said.probability[fraud].mean() > 3 * said.probability[~fraud].mean()
    assert 0.05 < (said.score >= 0.9).mean() < 0.15
    assert (said.probability >= 0.0).all()
    assert (said.probability <= 1.0).all()


def test_a_row_of_which_nobody_says_anything_is_no_score_rather_than_a_wrong_one() -> None:
    model = trained(HST)
    silent = TrainedModel(
        model.features, model.detectors, [], np.ones(1), model.table, model.edges, model.chances, {}
    )
    said = silent.score(np.zeros((2, 3)), np.array([[0.5], [np.nan]]))
    assert np.isnan(said.score).tolist() == [False, True]
    assert np.isnan(said.probability).tolist() == [False, True]


def test_it_scores_only_pipelines_that_have_what_it_was_trained_with(model: TrainedModel) -> None:
    declared = pipeline(HST, BOOSTING, LOGISTIC, QUANTISED)
    assert model.mismatch(declared) is None
    other_threshold = pipeline(
        HST,
        BOOSTING,
        LOGISTIC,
        QUANTISED,
        decision=declared.decision.__class__(combine="stacked", block=Threshold(precision=0.9)),
        digest="d2",
    )
    assert model.mismatch(other_threshold) is None
    more = pipeline(
        HST,
        BOOSTING,
        LOGISTIC,
        QUANTISED,
        features=(*declared.features, ExpressionFeature(name="more", expression="1.0")),
    )
    assert "these differ: more" in str(model.mismatch(more))
    changed = DetectorSpec(name="hst", kind="half_space_trees", params={"trees": 4})
    assert "these differ: hst" in str(model.mismatch(pipeline(changed, BOOSTING, LOGISTIC, QUANTISED)))
    assert "their order differs" in str(model.mismatch(pipeline(BOOSTING, HST, LOGISTIC, QUANTISED)))
    with pytest.raises(ValueError, match="takes rows of 3 features and 4 ranks"):
        model.score(np.zeros((2, 3)), np.zeros((2, 3)))


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda s: s.scalars.update(format=99), "format 99"),
        (lambda s: s.scalars.update(members=3), "a member of the model lacks"),
        (lambda s: s.scalars.update({"features": [["a", "b"], ["a", "c"]]}), "twice"),
        (lambda s: s.scalars.update({"member0/kind": "half_space_trees"}), "does not learn from labels"),
        (lambda s: s.scalars.update({"member1/params": {"rate": "fast"}}), "rate"),
        (lambda s: s.arrays.update({"member0/columns": np.array([0, 9])}), "features that there are not"),
        (
            lambda s: s.arrays.update({"member0/scorer/feature": s.arrays["member0/scorer/feature"] + 50}),
            "fit",
        ),
        (lambda s: s.arrays.update(weights=-s.arrays["weights"]), "weights"),
        (lambda s: s.arrays.update(table=s.arrays["table"][::-1].copy()), "sorted numbers 'table'"),
        (lambda s: s.arrays.update(table=np.array([np.nan])), "'table'"),
        (lambda s: s.arrays.update(chances=s.arrays["chances"] + 2.0), "probabilities"),
        (lambda s: s.arrays.pop("edges"), "'edges'"),
    ],
)
def test_a_file_with_anything_out_of_bounds_is_refused(
    small: bytes, change: Callable[[Arrays], object], complaint: str
) -> None:
    state = unpack(small)
    altered = Arrays(dict(state.arrays), dict(state.scalars))
    change(altered)
    with pytest.raises(ValueError, match=complaint):
        TrainedModel.unpack(pack(altered))


def test_any_truncation_is_refused(model: TrainedModel) -> None:
    blob = model.pack()
    for cut in (0, 3, 8, 100, len(blob) // 2, len(blob) - 1):
        with pytest.raises(ValueError, match=r"snapshot|TGA1"):
            TrainedModel.unpack(blob[:cut])
    with pytest.raises(ValueError, match="after its last array"):
        TrainedModel.unpack(blob + b"x")
