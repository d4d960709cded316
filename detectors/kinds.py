"""The kinds of detectors a pipeline file can name, with their parameters."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from detectors.half_space_trees import HalfSpaceTrees
from detectors.isolation_forest import IsolationForest
from detectors.protocol import Detector
from detectors.robust_half_spaces import RobustHalfSpaceTrees
from domain.pipeline import DetectorSpec

__all__ = ["PARAMS", "HalfSpaceTreesParams", "IsolationForestParams", "RiverParams", "build"]


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


class RiverParams(_Params, frozen=True, kw_only=True):
    """Parameters of ``river``; see :class:`detectors.river_adapter.RiverDetector`."""

    model: Annotated[str, Meta(pattern=r"^anomaly\.[A-Za-z]+$")]
    params: dict[str, bool | int | float | str | None] = {}
    scale: Literal["standard", "minmax", "none"] = "none"
    warm_up: Annotated[int, Meta(ge=0, le=1_000_000)] = 500
    invert: bool = False


PARAMS: Mapping[str, type[msgspec.Struct]] = {
    "half_space_trees": HalfSpaceTreesParams,
    "isolation_forest": IsolationForestParams,
    "river": RiverParams,
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
    if isinstance(params, HalfSpaceTreesParams):
        mode = arguments.pop("mode")
        arguments = {name: value for name, value in arguments.items() if value is not None}
        made: Any = RobustHalfSpaceTrees if mode == "robust" else HalfSpaceTrees
    else:
        made = _maker(spec.kind)
    detector: Detector = made(tuple(feature_names), seed=own_seed, **arguments)
    return detector


def _maker(kind: str) -> Any:
    if kind == "isolation_forest":
        return IsolationForest
    # loading River takes a second, and few pipelines use it
    from detectors.river_adapter import RiverDetector

    return RiverDetector
