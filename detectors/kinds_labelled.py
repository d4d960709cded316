"""Parameters of the kinds of detectors that learn from labels, as a pipeline file names them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from detectors.compressed_trees import Compression
from domain.durations import parse_duration

__all__ = [
    "CompressParams",
    "GradientBoostingParams",
    "LogisticParams",
    "RandomForestParams",
    "RiverClassifierParams",
]


class _LabelledParams(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What all of them have: how many labels they wait for."""

    min_labels: Annotated[int, Meta(ge=2, le=10_000_000)] = 500
    min_positive: Annotated[int, Meta(ge=1, le=1_000_000)] = 20

    def __post_init__(self) -> None:
        if self.min_labels < 2 * self.min_positive:
            raise ValueError(
                "min_labels must be at least twice min_positive, which counts labels of either kind"
            )


class CompressParams(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a fitted model is made smaller; see :class:`detectors.compressed_trees.Compression`."""

    quantize: Literal[8, 16] | None = None
    prune: Annotated[float, Meta(ge=0, le=0.5)] = 0.0
    distil: Annotated[int, Meta(ge=1, le=500)] | None = None


class _FittedParams(_LabelledParams, frozen=True, kw_only=True):
    """Those of :class:`detectors.label_trained.LabelTrained`."""

    memory: Annotated[int, Meta(ge=100, le=1_000_000)] = 20_000
    refit_every: Annotated[str, Meta(max_length=20)] = "1d"
    compress: CompressParams | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        parse_duration(self.refit_every)

    def converted(self) -> dict[str, Any]:
        """What the detector is given where the file says it in another way."""
        given = self.compress
        return {
            "refit_every": parse_duration(self.refit_every),
            "compress": None if given is None else Compression(given.quantize, given.prune, given.distil),
        }


class GradientBoostingParams(_FittedParams, frozen=True, kw_only=True):
    """Parameters of ``gradient_boosting``; see :class:`detectors.gradient_boosting.GradientBoosting`."""

    trees: Annotated[int, Meta(ge=1, le=1000)] = 100
    learning_rate: Annotated[float, Meta(gt=0, le=1)] = 0.05
    leaves: Annotated[int, Meta(ge=2, le=256)] = 8
    depth: Annotated[int, Meta(ge=1, le=16)] = 8
    min_leaf: Annotated[int, Meta(ge=1, le=10_000)] = 40
    l2: Annotated[float, Meta(ge=0, le=1e6)] = 10.0
    max_features: Annotated[float, Meta(gt=0, le=1)] = 0.5


class RandomForestParams(_FittedParams, frozen=True, kw_only=True):
    """Parameters of ``random_forest``; see :class:`detectors.random_forest.RandomForest`."""

    cuts: Literal["best", "random"] = "best"
    trees: Annotated[int, Meta(ge=1, le=1000)] = 100
    leaves: Annotated[int, Meta(ge=2, le=4096)] = 256
    depth: Annotated[int, Meta(ge=1, le=30)] = 12
    min_leaf: Annotated[int, Meta(ge=1, le=10_000)] = 10
    max_features: Annotated[float, Meta(gt=0, le=1)] = 0.5


class LogisticParams(_LabelledParams, frozen=True, kw_only=True):
    """Parameters of ``logistic``; see :class:`detectors.logistic.Logistic`."""

    rate: Annotated[float, Meta(gt=0, le=10)] = 0.1
    l2: Annotated[float, Meta(ge=0, le=10)] = 1e-4


class RiverClassifierParams(_LabelledParams, frozen=True, kw_only=True):
    """Parameters of ``river_classifier``; see :class:`detectors.river_classifier.RiverClassifier`."""

    model: Annotated[str, Meta(pattern=r"^[a-z_]+\.[A-Za-z0-9]+$")]
    params: dict[str, Any] = {}
    scale: Literal["standard", "minmax", "none"] = "none"
