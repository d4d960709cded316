"""Parameters of the kinds of detectors that learn from labels, as a pipeline file names them."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from domain.durations import parse_duration

__all__ = ["GradientBoostingParams", "LogisticParams", "RandomForestParams"]


class _LabelledParams(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What all of them have: how many labels they wait for."""

    min_labels: Annotated[int, Meta(ge=2, le=10_000_000)] = 500
    min_positive: Annotated[int, Meta(ge=1, le=1_000_000)] = 20

    def __post_init__(self) -> None:
        if self.min_labels < 2 * self.min_positive:
            raise ValueError(
                "min_labels must be at least twice min_positive, which counts labels of either kind"
            )


class _FittedParams(_LabelledParams, frozen=True, kw_only=True):
    """Those of :class:`detectors.label_trained.LabelTrained`."""

    memory: Annotated[int, Meta(ge=100, le=1_000_000)] = 20_000
    refit_every: Annotated[str, Meta(max_length=20)] = "1d"

    def __post_init__(self) -> None:
        super().__post_init__()
        parse_duration(self.refit_every)


class GradientBoostingParams(_FittedParams, frozen=True, kw_only=True):
    """Parameters of ``gradient_boosting``; see :class:`detectors.gradient_boosting.GradientBoosting`."""

    trees: Annotated[int, Meta(ge=1, le=1000)] = 100
    learning_rate: Annotated[float, Meta(gt=0, le=1)] = 0.1
    leaves: Annotated[int, Meta(ge=2, le=256)] = 31
    depth: Annotated[int, Meta(ge=1, le=16)] = 8
    min_leaf: Annotated[int, Meta(ge=1, le=10_000)] = 20
    l2: Annotated[float, Meta(ge=0, le=1e6)] = 1.0


class RandomForestParams(_FittedParams, frozen=True, kw_only=True):
    """Parameters of ``random_forest``; see :class:`detectors.random_forest.RandomForest`."""

    trees: Annotated[int, Meta(ge=1, le=1000)] = 100
    leaves: Annotated[int, Meta(ge=2, le=4096)] = 256
    min_leaf: Annotated[int, Meta(ge=1, le=10_000)] = 5
    max_features: Annotated[float, Meta(gt=0, le=1)] = 0.4


class LogisticParams(_LabelledParams, frozen=True, kw_only=True):
    """Parameters of ``logistic``; see :class:`detectors.logistic.Logistic`."""

    rate: Annotated[float, Meta(gt=0, le=10)] = 0.1
    l2: Annotated[float, Meta(ge=0, le=10)] = 1e-4
