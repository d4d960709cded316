"""Every detector against the contract suite."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from detectors.kinds import build
from detectors.protocol import Detector
from domain.pipeline import DetectorSpec
from tests.contract.check_detector import CHECKS, COLUMNS, LABELLED_CHECKS, Build, outliers_score_higher

SMALL_WINDOW = {"trees": 10, "height": 6, "window": 100}

CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "half_space_trees": ("half_space_trees", {**SMALL_WINDOW, "refit_every": 250, "reservoir": 256}),
    "half_space_trees_river": ("half_space_trees", {**SMALL_WINDOW, "mode": "river"}),
    "half_space_trees_unscaled": (
        "half_space_trees",
        {
            **SMALL_WINDOW,
            "mode": "river",
            "scale": "none",
            "limits": {"delta": [-4.0, 4.0], "alpha": [0.0, 2000.0]},
        },
    ),
    "isolation_forest": (
        "isolation_forest",
        {"trees": 20, "samples": 64, "warm_up": 300, "refit_every": 250, "reservoir": 256},
    ),
    "isolation_forest_subspaces": (
        "isolation_forest",
        {"trees": 20, "samples": 50, "warm_up": 300, "reservoir": 128, "max_features": 0.5},
    ),
    "online_isolation_forest": (
        "online_isolation_forest",
        {"trees": 10, "window": 400, "leaf": 8, "warm_up": 100},
    ),
    "one_class_svm": ("one_class_svm", {"components": 32, "warm_up": 300}),
    "entity_profile": (
        "entity_profile",
        {
            "profiles": [
                {"value": "delta", "mean": "bravo", "std": "charlie"},
                {
                    "value": "alpha",
                    "mean": "bravo",
                    "std": "charlie",
                    "count": "charlie",
                    "suspicious": "both",
                },
            ],
            "warm_up": 200,
        },
    ),
    "river_half_space_trees": (
        "river",
        {
            "model": "anomaly.HalfSpaceTrees",
            "params": {"n_trees": 3, "height": 4, "window_size": 100},
            "scale": "minmax",
            "warm_up": 100,
        },
    ),
    "river_one_class_svm": ("river", {"model": "anomaly.OneClassSVM", "scale": "standard", "warm_up": 100}),
    "river_local_outlier_factor": (
        "river",
        {
            "model": "anomaly.LocalOutlierFactor",
            "params": {"n_neighbors": 3},
            "scale": "standard",
            "warm_up": 100,
        },
    ),
    "river_loda": (
        "river",
        {"model": "anomaly.LODA", "params": {"n_random_cuts": 5}, "scale": "standard", "warm_up": 100},
    ),
}

FITTED = {"min_labels": 200, "min_positive": 20, "memory": 256, "refit_every": "150s"}

LABELLED: dict[str, tuple[str, dict[str, Any]]] = {
    "gradient_boosting": ("gradient_boosting", {**FITTED, "trees": 10, "leaves": 8, "min_leaf": 5}),
    "random_forest": ("random_forest", {**FITTED, "trees": 8, "leaves": 16}),
    "random_forest_compressed": (
        "random_forest",
        {**FITTED, "trees": 8, "leaves": 16, "compress": {"quantize": 8, "prune": 0.02, "distil": 5}},
    ),
    "logistic": ("logistic", {"min_labels": 200, "min_positive": 20}),
    "river_naive_bayes": (
        "river_classifier",
        {"model": "naive_bayes.GaussianNB", "min_labels": 200, "min_positive": 20},
    ),
    "river_logistic": (
        "river_classifier",
        {
            "model": "linear_model.LogisticRegression",
            "params": {"optimizer": {"model": "optim.Adam", "params": {"lr": 0.01}}},
            "scale": "standard",
            "min_labels": 200,
            "min_positive": 20,
        },
    ),
}

UNDIRECTED = {"river_one_class_svm"}
"""Linear, without kernel features: its score grows along one direction and falls along the other."""


PAIRS = [
    pytest.param(name, check, id=f"{name}-{check.__name__}")
    for name in CASES
    for check in CHECKS
    if not (name in UNDIRECTED and check is outliers_score_higher)
] + [
    pytest.param(name, check, id=f"{name}-{check.__name__}")
    for name in LABELLED
    for check in (*CHECKS, *LABELLED_CHECKS)
]


@pytest.mark.parametrize(("name", "check"), PAIRS)
def test_contract(name: str, check: Callable[[Build], None]) -> None:
    check(_builder(*{**CASES, **LABELLED}[name]))


def _builder(kind: str, params: dict[str, Any]) -> Build:
    def make(seed: int) -> Detector:
        return build(DetectorSpec(name="checked", kind=kind, params=params), COLUMNS, seed)

    return make
