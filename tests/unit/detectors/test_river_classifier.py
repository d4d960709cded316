from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from river import linear_model, naive_bayes, preprocessing

from detectors.arrays import pack, unpack
from detectors.river_classifier import RiverClassifier
from domain.batch import Floats

NAMES = ("a", "b")


def labelled(n: int, seed: int) -> tuple[Floats, Floats]:
    """Positives lie higher in ``a``; ``b`` says nothing and is missing now and then."""
    rng = np.random.default_rng(seed)
    y = (rng.random(n) < 0.2).astype(np.float64)
    x = rng.normal(size=(n, 2))
    x[:, 0] += 2.0 * y
    x[rng.random(n) < 0.1, 1] = np.nan
    return x, y


def learn(detector: RiverClassifier, x: Floats, y: Floats) -> None:
    detector.learn_labels(x, y, np.zeros(len(y), dtype=np.int64), 0)


def rows(x: Floats) -> list[dict[Any, float]]:
    return [{k: v for k, v in zip(NAMES, r, strict=True) if v == v} for r in x.tolist()]


def test_it_says_what_river_says() -> None:
    x, y = labelled(300, 1)
    detector = RiverClassifier(NAMES, seed=1, model="naive_bayes.GaussianNB", min_labels=50, min_positive=5)
    river: Any = getattr(naive_bayes, "GaussianNB")()  # noqa: B009  (untyped)
    for row, label in zip(rows(x), y.tolist(), strict=True):
        river.learn_one(row, label == 1.0)
    learn(detector, x, y)
    later, _ = labelled(50, 2)
    assert detector.score(later).tolist() == [river.predict_proba_one(row)[True] for row in rows(later)]


def test_the_scale_is_learned_from_labelled_rows_first() -> None:
    x, y = labelled(300, 3)
    detector = RiverClassifier(
        NAMES,
        seed=1,
        model="linear_model.LogisticRegression",
        scale="standard",
        min_labels=50,
        min_positive=5,
    )
    river: Any = preprocessing.StandardScaler() | linear_model.LogisticRegression()
    for row, label in zip(rows(x), y.tolist(), strict=True):
        river.learn_one(row, label == 1.0)
    learn(detector, x, y)
    later, _ = labelled(50, 4)
    assert detector.score(later).tolist() == [river.predict_proba_one(row)[True] for row in rows(later)]


def test_a_model_of_models_is_kept_with_all_its_parts() -> None:
    params = {
        "model": {"model": "tree.HoeffdingTreeClassifier", "params": {"grace_period": 20}},
        "n_models": 3,
    }
    made = [
        RiverClassifier(NAMES, seed=5, model="ensemble.AdaBoostClassifier", params=params) for _ in range(2)
    ]
    x, y = labelled(800, 5)
    learn(made[0], x, y)
    made[1].restore(unpack(pack(made[0].snapshot())))
    for detector in made:
        learn(detector, *labelled(200, 6))
    later, truth = labelled(200, 7)
    scores = made[0].score(later)
    assert np.array_equal(scores, made[1].score(later))
    assert scores[truth == 1.0].mean() > scores[truth == 0.0].mean()


@pytest.mark.parametrize(
    ("model", "params", "told"),
    [
        ("naive_bayes.Gaussian", {}, "unknown River model"),
        ("os.system", {}, "unknown River model"),
        ("anomaly.LODA", {}, "it is no classifier"),
        ("linear_model.LinearRegression", {}, "it is no classifier"),
        ("forest.ARFClassifier", {"n_models": 1}, "cannot be kept"),
        ("naive_bayes.GaussianNB", {"power": 3}, "unexpected keyword"),
        ("ensemble.AdaBoostClassifier", {"model": {"model": "os.system"}}, "unknown River model 'os.system'"),
    ],
)
def test_what_cannot_be_used_is_refused_at_once(model: str, params: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        RiverClassifier(NAMES, seed=1, model=model, params=params)
