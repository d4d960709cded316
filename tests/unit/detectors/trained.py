"""A small pipeline, rows with labels, and models trained on them."""

from __future__ import annotations

from typing import Any

import numpy as np

from detectors.model_fit import FitSettings, fit_model
from detectors.trained_model import TrainedModel
from domain.examples import Examples
from domain.pipeline import Decision, DetectorSpec, EventSpec, Pipeline, Threshold, ValueFeature

DAY = 86_400_000_000
NAMES = ("amount", "count", "ratio")
SETTINGS = FitSettings(memory=2_000, table=500)
BOOSTING = DetectorSpec(
    name="boosting",
    kind="gradient_boosting",
    features=("ratio", "amount"),
    params={"trees": 5, "min_leaf": 5},
)
LOGISTIC = DetectorSpec(name="line", kind="logistic")
HST = DetectorSpec(name="hst", kind="half_space_trees", params={"trees": 3, "height": 3, "window": 50})


def pipeline(*detectors: DetectorSpec, **changes: Any) -> Pipeline:
    fields: dict[str, Any] = {
        "name": "payments",
        "version": 1,
        "event": EventSpec(
            id="id", time="at", key="account", max_lateness=0, max_future=0, dedupe_window=0, fields=()
        ),
        "features": tuple(ValueFeature(name=name, field=name) for name in NAMES),
        "detectors": detectors,
        "decision": Decision(combine="stacked", review=Threshold(budget=0.05)),
        "digest": "d1",
    }
    return Pipeline(**{**fields, **changes})


def examples(n: int, detectors: int, *, seed: int = 1, unlabelled: int = 0, holes: bool = True) -> Examples:
    """Fraud has a high ``ratio``; the newest ``unlabelled`` rows have no label yet; each detector half knows."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, len(NAMES)))
    y = (x[:, 2] + 0.3 * rng.normal(size=n) > 1.3).astype(np.float64)
    ranks = np.clip(rng.random((n, detectors)) + 0.3 * y[:, None], 0.0, 0.999)
    if holes:
        x[::17, 1] = np.nan
        ranks[: n // 10] = np.nan
    y[n - unlabelled :] = np.nan
    times = np.arange(n, dtype=np.int64) * (DAY // 100)
    return Examples(x, y, ranks, np.full(n, np.nan), times, times + DAY)


def trained(*detectors: DetectorSpec, n: int = 1_000, seed: int = 1) -> TrainedModel:
    rows = examples(n, len(detectors), seed=seed)
    return fit_model(pipeline(*detectors), rows, now=20 * DAY, seed=7, settings=SETTINGS)
