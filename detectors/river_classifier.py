"""Any classifier of River that gives probabilities, as a detector that learns each label as it becomes known."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np
from river import base

from detectors.arrays import Arrays
from detectors.river_model import RiverModel, Scale, public_class
from domain.batch import Floats, Ints

__all__ = ["RiverClassifier"]


class RiverClassifier:
    """River's ``model`` on the columns ``features``; its score is the probability that it gives the label 1.

    model         ``module.Class`` of River, for example ``naive_bayes.GaussianNB``
    params        its constructor's arguments: plain values, or ``{model: ..., params: {...}}`` for a model inside
    scale         a scaler before it, learned first as in River's pipelines: ``standard``, ``minmax``, ``none``
    min_labels    labels before it scores, and
    min_positive  how many of them must be 1, and how many 0

    A missing value is absent from the row. A label that the model fails on teaches nothing, a row that it fails on
    is not scored (NaN; ``last_failure``). Raises ValueError for a model that River does not have, that gives no
    probability, or whose state cannot be stored (:class:`detectors.river_model.RiverModel` tries that out).
    """

    def __init__(
        self,
        features: Sequence[str],
        *,
        seed: int,
        model: str,
        params: Mapping[str, Any] | None = None,
        scale: Scale = "none",
        min_labels: int = 500,
        min_positive: int = 20,
    ) -> None:
        given = dict(params or {})
        self._min_labels = min_labels
        self._min_positive = min_positive
        self._labels = [0, 0]
        self._last_failure: str | None = None
        identity = [list(features), seed, model, given, scale, min_labels, min_positive]
        digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
        self._version = f"river_classifier-{digest[:8]}"
        self._river = RiverModel(
            model, given, scale, features, seed=seed, known=_classifier, try_row=_learn_and_ask
        )

    @property
    def ready(self) -> bool:
        """Whether enough labels of both kinds have been learned."""
        return sum(self._labels) >= self._min_labels and min(self._labels) >= self._min_positive

    @property
    def abstains_because(self) -> str | None:
        """Why it is not ready; None when it is."""
        if self.ready:
            return None
        return f"warming up: needs {self._min_labels} labels, {self._min_positive} of each kind"

    @property
    def last_failure(self) -> str | None:
        """Type of the newest error of the model; None when there never was one."""
        return self._last_failure

    @property
    def version(self) -> str:
        """Hash of features, model, parameters and seed."""
        return self._version

    def next_change(self) -> int | None:
        """None: only labels change it, and they come between batches."""
        return None

    def score(self, x: Floats) -> Floats:
        """Probability of the label 1 (float64[n]) as the model sees it; NaN while there are too few labels."""
        if not self.ready:
            return np.full(x.shape[0], np.nan)
        return np.array([self._score_row(row) for row in x.tolist()], dtype=np.float64)

    def step(self, x: Floats) -> Floats:
        """Scores; rows without labels teach nothing."""
        return self.score(x)

    def fit(self, x: Floats) -> None:
        """Learns nothing: past rows without labels."""

    def learn_labels(self, x: Floats, y: Floats, known_at: Ints, now: int) -> None:
        """Learn rows whose labels became known, in order.

        x float64[m, F], the vectors as they were scored; y float64[m], 0 or 1, or NaN: unknown again, which teaches
        nothing; the times have no say.
        """
        for values, label in zip(x.tolist(), y.tolist(), strict=True):
            if math.isnan(label):  # unknown again
                continue
            try:
                row = self._river.scaled_after(self._river.named(values))
                self._river.model.learn_one(row, label == 1.0)
            except Exception as error:  # the model's own fault: told, and the stream goes on
                self._last_failure = type(error).__name__
            else:
                self._labels[int(label == 1.0)] += 1

    def snapshot(self) -> Arrays:
        """The model's whole content as JSON; see :mod:`detectors.river_state`."""
        return Arrays(
            {},
            {
                "version": self._version,
                "labels": list(self._labels),
                "failure": self._last_failure,
                "model": self._river.nodes(),
            },
        )

    def restore(self, state: Arrays) -> None:
        """Take over a snapshot. Raises ValueError when it has other parameters or is not readable."""
        found = state.scalars
        labels = found.get("labels")
        if found.get("version") != self._version or not isinstance(labels, list) or len(labels) != 2:
            raise ValueError(f"snapshot is of {found.get('version')}, this is {self._version}")
        self._river.restore(found.get("model"))
        self._labels = [int(count) for count in labels]
        self._last_failure = found.get("failure")

    def _score_row(self, values: list[float]) -> float:
        try:
            said = self._river.model.predict_proba_one(self._river.scaled(self._river.named(values)))
            score = float(said.get(True, 0.0))
        except Exception as error:  # the model's own fault: told, and the stream goes on
            self._last_failure = type(error).__name__
            return math.nan
        if not math.isfinite(score):
            self._last_failure = "score not finite"
            return math.nan
        return score


def _classifier(name: str) -> type | None:
    """A classifier of River, or any estimator of it that a classifier may be made of."""
    found = public_class(name)
    return found if found is not None and issubclass(found, base.Base) else None


def _learn_and_ask(model: Any, row: dict[str, float], number: int) -> None:
    if not isinstance(model, base.Classifier):
        raise TypeError("it is no classifier")
    model = cast(Any, model)  # whose rows have keys of any kind
    model.learn_one(row, number % 3 == 0)
    model.predict_proba_one(row)
