"""The kinds of detectors a pipeline file can name, with their parameters."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from detectors.entity_profile import EntityProfile, Profile
from detectors.gradient_boosting import GradientBoosting
from detectors.half_space_trees import HalfSpaceTrees
from detectors.isolation_forest import IsolationForest
from detectors.kinds_labelled import (
    GradientBoostingParams,
    LogisticParams,
    RandomForestParams,
    RiverClassifierParams,
)
from detectors.logistic import Logistic
from detectors.one_class_svm import OneClassSVM
from detectors.online_isolation_forest import OnlineIsolationForest
from detectors.protocol import Detector
from detectors.random_forest import RandomForest
from detectors.robust_half_spaces import RobustHalfSpaceTrees
from domain.pipeline import DetectorSpec

__all__ = [
    "PARAMS",
    "EntityProfileParams",
    "HalfSpaceTreesParams",
    "IsolationForestParams",
    "OneClassSVMParams",
    "OnlineIsolationForestParams",
    "RiverParams",
    "build",
]


class _Params(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Parameters of one kind; anything else in the file is a mistake."""


class HalfSpaceTreesParams(_Params, frozen=True, kw_only=True):
    """Parameters of ``half_space_trees``; those left out are set as the mode's class says.

    ``robust``: :class:`detectors.robust_half_spaces.RobustHalfSpaceTrees`; ``river``: the original algorithm,
    :class:`detectors.half_space_trees.HalfSpaceTrees`.
    """

    mode: Literal["robust", "river"] = "robust"
    trees: Annotated[int, Meta(ge=1, le=500)] | None = None
    height: Annotated[int, Meta(ge=1, le=12)] | None = None
    window: Annotated[int, Meta(ge=10, le=100_000)] | None = None
    refit_every: Annotated[int, Meta(ge=100, le=100_000_000)] | None = None
    reservoir: Annotated[int, Meta(ge=16, le=65_536)] | None = None
    limits: dict[str, tuple[float, float]] | None = None
    scale: Literal["minmax", "none"] | None = None

    def __post_init__(self) -> None:
        for name, (low, high) in (self.limits or {}).items():
            if not low < high:
                raise ValueError(f"limits of {name!r} must be [low, high] with low below high")
        foreign = ("refit_every", "reservoir") if self.mode == "river" else ("limits", "scale")
        for name in foreign:
            if getattr(self, name) is not None:
                other = "robust" if self.mode == "river" else "river"
                raise ValueError(f"{name} belongs to the other mode: leave it out, or say mode: {other}")


class IsolationForestParams(_Params, frozen=True, kw_only=True):
    """Parameters of ``isolation_forest``; see :class:`detectors.isolation_forest.IsolationForest`."""

    trees: Annotated[int, Meta(ge=1, le=1000)] = 100
    samples: Annotated[int, Meta(ge=2, le=1024)] = 256
    warm_up: Annotated[int, Meta(ge=2, le=1_000_000)] = 32
    refit_every: Annotated[int, Meta(ge=100, le=100_000_000)] = 50_000
    reservoir: Annotated[int, Meta(ge=16, le=65_536)] = 4096
    max_features: Annotated[float, Meta(gt=0, le=1)] = 0.7


class OnlineIsolationForestParams(_Params, frozen=True, kw_only=True):
    """Parameters of ``online_isolation_forest``; see
    :class:`detectors.online_isolation_forest.OnlineIsolationForest`.
    """

    trees: Annotated[int, Meta(ge=1, le=500)] = 32
    window: Annotated[int, Meta(ge=16, le=65_536)] = 2048
    memory: Annotated[int, Meta(ge=16, le=10_000_000)] = 20_000
    leaf: Annotated[int, Meta(ge=4, le=512)] = 32
    warm_up: Annotated[int, Meta(ge=8, le=1024)] = 256

    def __post_init__(self) -> None:
        for name in ("window", "warm_up"):
            if getattr(self, name) < 2 * self.leaf:
                raise ValueError(
                    f"{name} must be at least twice leaf ({2 * self.leaf}): no leaf is cut before"
                )


class OneClassSVMParams(_Params, frozen=True, kw_only=True):
    """Parameters of ``one_class_svm``; see :class:`detectors.one_class_svm.OneClassSVM`."""

    nu: Annotated[float, Meta(ge=0.001, le=1)] = 0.5
    gamma: Annotated[float, Meta(gt=0, le=1000)] | None = None
    components: Annotated[int, Meta(ge=8, le=1024)] = 128
    memory: Annotated[int, Meta(ge=100, le=10_000_000)] = 20_000
    warm_up: Annotated[int, Meta(ge=100, le=1024)] = 500


class EntityProfileParams(_Params, frozen=True, kw_only=True):
    """Parameters of ``entity_profile``; see :class:`detectors.entity_profile.EntityProfile`."""

    profiles: Annotated[tuple[Profile, ...], Meta(min_length=1, max_length=32)]
    prior: Annotated[float, Meta(gt=0, le=1000)] = 20.0
    warm_up: Annotated[int, Meta(ge=10, le=1024)] = 500

    def named_features(self) -> list[tuple[str, str]]:
        """Parameter and feature, for each feature it names: the pipeline file is checked against them."""
        return [("profiles", name) for profile in self.profiles for name in profile.named()]


class RiverParams(_Params, frozen=True, kw_only=True):
    """Parameters of ``river``; see :class:`detectors.river_adapter.RiverDetector`."""

    model: Annotated[str, Meta(pattern=r"^anomaly\.[A-Za-z]+$")]
    params: dict[str, bool | int | float | str | None] = {}
    scale: Literal["standard", "minmax", "none"] = "none"
    warm_up: Annotated[int, Meta(ge=0, le=1_000_000)] = 500
    invert: bool = False


PARAMS: Mapping[str, type[msgspec.Struct]] = {
    "entity_profile": EntityProfileParams,
    "half_space_trees": HalfSpaceTreesParams,
    "isolation_forest": IsolationForestParams,
    "one_class_svm": OneClassSVMParams,
    "online_isolation_forest": OnlineIsolationForestParams,
    "river": RiverParams,
    "gradient_boosting": GradientBoostingParams,
    "random_forest": RandomForestParams,
    "logistic": LogisticParams,
    "river_classifier": RiverClassifierParams,
}
"""The parameters of each kind, as the pipeline file is checked against them."""


def build(spec: DetectorSpec, feature_names: Sequence[str], seed: int) -> Detector:
    """The detector that ``spec`` declares over columns ``feature_names``.

    Its randomness comes from ``seed`` and its name, so detectors of one pipeline differ and adding one
    changes no other. Raises ValueError naming the detector when kind or parameters are wrong.
    """
    params: Any
    try:
        params = msgspec.convert(spec.params, PARAMS[spec.kind], strict=True)
    except KeyError:
        raise ValueError(
            f"detector {spec.name!r}: unknown kind {spec.kind!r}; known are {', '.join(PARAMS)}"
        ) from None
    except msgspec.ValidationError as error:
        raise ValueError(f"detector {spec.name!r}: {error}") from error
    own_seed = int.from_bytes(hashlib.sha256(f"{seed}:{spec.name}".encode()).digest()[:4], "little")
    arguments = {name: getattr(params, name) for name in params.__struct_fields__}
    made: Any
    if isinstance(params, GradientBoostingParams | RandomForestParams):
        arguments.update(params.converted())
    if isinstance(params, HalfSpaceTreesParams):
        mode = arguments.pop("mode")
        arguments = {name: value for name, value in arguments.items() if value is not None}
        made = RobustHalfSpaceTrees if mode == "robust" else HalfSpaceTrees
    else:
        made = _maker(spec.kind)
    detector: Detector = made(tuple(feature_names), seed=own_seed, **arguments)
    return detector


_MAKERS: Mapping[str, Any] = {
    "half_space_trees": HalfSpaceTrees,
    "isolation_forest": IsolationForest,
    "entity_profile": EntityProfile,
    "one_class_svm": OneClassSVM,
    "online_isolation_forest": OnlineIsolationForest,
    "gradient_boosting": GradientBoosting,
    "random_forest": RandomForest,
    "logistic": Logistic,
}


def _maker(kind: str) -> Any:
    if kind in _MAKERS:
        return _MAKERS[kind]
    # loading River takes a second, and few pipelines use it
    if kind == "river_classifier":
        from detectors.river_classifier import RiverClassifier

        return RiverClassifier
    from detectors.river_adapter import RiverDetector

    return RiverDetector
