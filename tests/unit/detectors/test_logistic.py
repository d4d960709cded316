from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.preprocessing import StandardScaler

from detectors.arrays import pack
from detectors.logistic import Logistic
from domain.batch import Floats

NAMES = ("a", "b", "c", "d")


def examples(n: int, seed: int) -> tuple[Floats, Floats]:
    """Rare positives that depend on two columns of very different scale; one constant column."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 4))
    odds = -4.5 + 1.5 * x[:, 0] - x[:, 1]
    x[:, 1] = 1e6 + 1e5 * x[:, 1]
    x[:, 3] = 7.0
    return x, (rng.random(n) < 1.0 / (1.0 + np.exp(-odds))).astype(np.float64)


def learned(x: Floats, y: Floats, cut: int) -> Logistic:
    detector = Logistic(NAMES, seed=1)
    for at in range(0, len(x), cut):
        part = slice(at, at + cut)
        detector.learn_labels(x[part], y[part], np.zeros(len(y[part]), dtype=np.int64), at)
    return detector


def test_it_ranks_nearly_like_a_fitted_model_after_one_pass() -> None:
    x, y = examples(20_000, 1)
    later, truth = examples(20_000, 2)
    detector = learned(x, y, 1000)
    scaler = StandardScaler().fit(x)
    fitted = LogisticRegression().fit(scaler.transform(x), y)
    best = roc_auc_score(truth, fitted.decision_function(scaler.transform(later)))
    assert roc_auc_score(truth, detector.score(later)) > best - 0.01


def test_its_log_odds_are_those_of_the_stream_although_classes_have_the_same_say() -> None:
    x, y = examples(40_000, 3)
    detector = learned(x, y, 1000)
    later, truth = examples(20_000, 4)
    said = 1.0 / (1.0 + np.exp(-detector.score(later)))
    assert said.mean() == pytest.approx(truth.mean(), rel=0.35)


def test_how_labels_are_cut_changes_nothing() -> None:
    x, y = examples(2000, 5)
    x[::5, 0] = np.nan
    x[::31, 1] = np.inf
    assert pack(learned(x, y, 2000).snapshot()) == pack(learned(x, y, 17).snapshot())


def test_missing_has_a_weight_of_its_own() -> None:
    x, y = examples(5000, 6)
    x[:, 2] = np.where(y == 1.0, np.nan, x[:, 2])
    detector = learned(x, y, 500)
    there, missing = x[:1].copy(), x[:1].copy()
    there[0, 2], missing[0, 2] = 0.0, np.nan
    assert detector.score(missing)[0] > detector.score(there)[0] + 1.0
