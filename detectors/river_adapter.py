"""Any unsupervised anomaly model of River as a detector: row by row, slow, and without pickle."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from river import anomaly, base

from detectors.arrays import Arrays
from detectors.river_model import RiverModel, Scale
from domain.batch import Floats

__all__ = ["MODELS", "RiverDetector"]

MODELS: Mapping[str, type] = {
    f"anomaly.{name}": getattr(anomaly, name)
    for name in sorted(anomaly.__all__)
    if issubclass(getattr(anomaly, name), base.AnomalyDetector)
}
"""What ``model`` can name: models that score and learn one row without a target."""


class RiverDetector:
    """River's ``model`` over the columns ``features``; a missing value is absent from the row's dict.

    model    a name in :data:`MODELS`, for example ``anomaly.OneClassSVM``
    params   its constructor's arguments (plain values); ``seed`` is passed when it takes one
    scale    a scaler before it, learned first as in River's pipelines: ``standard``, ``minmax``, ``none``
    warm_up  rows it learns before it scores
    invert   turn its score's sign, for models whose high scores mean normal

    A row that the model fails on is not scored (NaN; ``last_failure``), and the next one is tried again.
    Raises ValueError for a model or argument that River does not know, and for a model whose state cannot be
    stored: it learns a few random rows at construction to find that out.
    """

    def __init__(
        self,
        features: Sequence[str],
        *,
        seed: int,
        model: str,
        params: Mapping[str, Any] | None = None,
        scale: Scale = "none",
        warm_up: int = 500,
        invert: bool = False,
    ) -> None:
        if model not in MODELS:
            raise ValueError(f"unknown River model {model!r}; known are {', '.join(MODELS)}")
        self._warm_up = warm_up
        self._sign = -1.0 if invert else 1.0
        given = dict(params or {})
        identity = [list(features), seed, model, sorted(given.items()), scale, warm_up, invert]
        digest = hashlib.sha256(json.dumps(identity).encode()).hexdigest()
        self._version = f"river-{digest[:8]}"
        self._seen = 0
        self._last_failure: str | None = None
        self._river = RiverModel(
            model, given, scale, features, seed=seed, known=MODELS.get, try_row=_score_and_learn
        )

    @property
    def ready(self) -> bool:
        """Whether it has learned ``warm_up`` rows."""
        return self._seen >= self._warm_up

    @property
    def abstains_because(self) -> str | None:
        """Why it is not ready; None when it is."""
        return None if self.ready else f"warming up: needs {self._warm_up} events"

    @property
    def last_failure(self) -> str | None:
        """Type of the newest error of the model; None when there never was one."""
        return self._last_failure

    @property
    def version(self) -> str:
        """Hash of features, model, parameters and seed."""
        return self._version

    def next_change(self) -> int | None:
        """Rows until it is ready; None after it."""
        return None if self.ready else self._warm_up - self._seen

    def score(self, x: Floats) -> Floats:
        """Scores (float64[n]) without learning; NaN during the warm-up."""
        if not self.ready:
            return np.full(x.shape[0], np.nan)
        return np.array([self._score_row(self._river.named(row)) for row in x.tolist()], dtype=np.float64)

    def step(self, x: Floats) -> Floats:
        """Score each row, then learn it."""
        out = np.full(x.shape[0], np.nan)
        for i, values in enumerate(x.tolist()):
            row = self._river.named(values)
            if self.ready:
                out[i] = self._score_row(row)
            self._seen += 1
            try:
                self._river.model.learn_one(self._river.scaled_after(row))
            except Exception as error:  # the model's own fault: told, and the stream goes on
                self._last_failure = type(error).__name__
        return out

    def fit(self, x: Floats) -> None:
        """Learn past rows, oldest first."""
        self.step(x)

    def snapshot(self) -> Arrays:
        """The model's whole content as JSON; see :mod:`detectors.river_state`."""
        return Arrays(
            {},
            {
                "version": self._version,
                "seen": self._seen,
                "failure": self._last_failure,
                "model": self._river.nodes(),
            },
        )

    def restore(self, state: Arrays) -> None:
        """Take over a snapshot. Raises ValueError when it has other parameters or is not readable."""
        found = state.scalars
        if found.get("version") != self._version or not isinstance(found.get("seen"), int):
            raise ValueError(f"snapshot is of {found.get('version')}, this is {self._version}")
        self._river.restore(found.get("model"))
        self._seen = found["seen"]
        self._last_failure = found.get("failure")

    def _score_row(self, row: dict[str, float]) -> float:
        try:
            score = self._sign * float(self._river.model.score_one(self._river.scaled(row)))
        except Exception as error:  # the model's own fault: told, and the stream goes on
            self._last_failure = type(error).__name__
            return math.nan
        if not math.isfinite(score):
            self._last_failure = "score not finite"
            return math.nan
        return score


def _score_and_learn(model: Any, row: dict[str, float], _: int) -> None:
    model.score_one(row)
    model.learn_one(row)
