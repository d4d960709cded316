"""Trained models that look at one feature, made without training: quick, and their mind is known."""

from __future__ import annotations

import numpy as np

from detectors.logistic import Logistic
from detectors.stacking import weighted_tail
from detectors.trained_model import Member, TrainedModel, inputs_of, placed
from domain.batch import Floats
from domain.pipeline import Pipeline

__all__ = ["line_model"]


def line_model(
    pipeline: Pipeline, feature: str, *, low: float = 0.0, high: float = 100.0, own: float = 0.0
) -> TrainedModel:
    """Suspects high values of ``feature``, whose ordinary values lie evenly between ``low`` and ``high``.

    ``own`` is the weight that the pipeline's detectors have together.
    """
    params = {"min_labels": 2, "min_positive": 1}
    column = np.array([pipeline.feature_names.index(feature)])
    scorer = Logistic((str(column[0]),), seed=0, min_labels=2, min_positive=1)
    values: Floats = np.linspace(low, high, 400)[:, None]
    order = np.random.default_rng(3).permutation(400)
    y = (values[:, 0] > low + 0.8 * (high - low)).astype(np.float64)
    scorer.learn_labels(values[order], y[order], np.zeros(400, dtype=np.int64), 0)
    ordered = np.sort(scorer.score(values))
    detectors = len(pipeline.detectors)
    weights = np.array([own / max(detectors, 1)] * detectors + [1.0 - own])
    features, declared = inputs_of(pipeline)
    member = Member("line", "logistic", column, ordered, scorer, params)
    ranks = np.full((400, detectors + 1), np.nan)
    ranks[:, -1] = placed(ordered, scorer.score(values))
    table = np.sort(weighted_tail(ranks, weights))
    edges, chances = np.array([0.0, 0.9, 1.0]), np.array([0.01, 0.05, 0.9])
    return TrainedModel(features, declared, [member], weights, table, edges, chances, {"of": feature})
