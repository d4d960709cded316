"""A model of River with its scaler: made by name, fed rows as dicts, and kept as JSON without pickle."""

from __future__ import annotations

import importlib
import inspect
import math
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from river import preprocessing

from detectors.river_state import UnsupportedError, decode, encode

__all__ = ["RiverModel", "Scale", "public_class"]

Scale = Literal["standard", "minmax", "none"]

_SCALERS: Mapping[str, type] = {
    "standard": preprocessing.StandardScaler,
    "minmax": preprocessing.MinMaxScaler,
}
_LARGEST = 1e30
_TRIAL_ROWS = 30


class RiverModel:
    """River's class ``name`` (``module.Class``, which ``known`` must hold) and the scaler before it.

    ``params`` are the constructor's arguments: plain values, or ``{model: module.Class, params: {...}}`` for a model
    inside a model; ``seed`` is passed to each that takes one. ``try_row`` feeds a model one random row, with a
    number that tells which; it is called at construction, so that a model that cannot be used or kept fails then.

    Raises ValueError, naming model and reason.
    """

    def __init__(
        self,
        name: str,
        params: Mapping[str, Any],
        scale: Scale,
        features: Sequence[str],
        *,
        seed: int,
        known: Callable[[str], type | None],
        try_row: Callable[[Any, dict[str, float], int], None],
    ) -> None:
        self._features = list(features)
        self.model: Any = None
        self._scaler: Any = None

        def tried() -> tuple[list[Any], list[Any]]:
            """The model as it is made, and after some random rows."""
            self.model = _made(name, params, seed, known)
            self._scaler = None if scale == "none" else _SCALERS[scale]()
            new = self.nodes()
            chance = random.Random(seed)  # noqa: S311  (not for secrets)
            for number in range(_TRIAL_ROWS):
                try_row(self.model, self.scaled_after({f: chance.random() for f in self._features}), number)
            return new, self.nodes()

        try:
            fresh = tried()
            if tried() != fresh:
                raise UnsupportedError(
                    "made anew it is another one: it draws from a generator without a seed"
                )
        except UnsupportedError as error:
            raise ValueError(f"River model {name} cannot be kept: {error}") from error
        except Exception as error:
            told = f"{type(error).__name__}: {error}"
            raise ValueError(f"River model {name} with {dict(params)}: {told}") from error
        self.model, self._scaler = decode(fresh[0])

    def named(self, values: Sequence[float]) -> dict[str, float]:
        """A row as River takes it: a missing value is absent, an infinite one is very large."""
        pairs = zip(self._features, values, strict=True)
        return {name: min(max(value, -_LARGEST), _LARGEST) for name, value in pairs if not math.isnan(value)}

    def scaled(self, row: dict[str, float]) -> dict[str, float]:
        """``row`` by the scale learned so far."""
        if self._scaler is None:
            return row
        found: dict[str, float] = self._scaler.transform_one(row)
        return found

    def scaled_after(self, row: dict[str, float]) -> dict[str, float]:
        """``row`` by the scale that has learned it too, as in River's pipelines."""
        if self._scaler is not None:
            self._scaler.learn_one(row)
        return self.scaled(row)

    def nodes(self) -> list[Any]:
        """Everything as JSON-able nodes; see :mod:`detectors.river_state`."""
        return encode([self.model, self._scaler])

    def restore(self, nodes: Any) -> None:
        """Take over what :meth:`nodes` gave. Raises ValueError when it is unreadable or of other classes."""
        content = decode(nodes if isinstance(nodes, list) else [])
        kinds = [type(self.model), type(self._scaler)]
        if not isinstance(content, list) or [type(part) for part in content] != kinds:
            raise ValueError("snapshot of a River model holds other classes than its parameters say")
        self.model, self._scaler = content


def _made(name: str, params: Mapping[str, Any], seed: int, known: Callable[[str], type | None]) -> Any:
    kind = known(name)
    if kind is None:
        raise ValueError(f"unknown River model {name!r}")
    arguments = {key: _argument(value, seed, known) for key, value in params.items()}
    if "seed" in inspect.signature(kind).parameters:
        arguments.setdefault("seed", seed)
    return kind(**arguments)


def _argument(value: Any, seed: int, known: Callable[[str], type | None]) -> Any:
    if isinstance(value, Mapping) and value.keys() <= {"model", "params"} and "model" in value:
        return _made(str(value["model"]), value.get("params", {}), seed, known)
    return value


def public_class(name: str) -> type | None:
    """The class of River called ``module.Class``, if that module lists it in its ``__all__``; None otherwise."""
    module_name, _, class_name = name.partition(".")
    if not module_name.isidentifier() or not class_name.isidentifier():
        return None
    try:
        module = importlib.import_module(f"river.{module_name}")
    except ImportError:
        return None
    found = getattr(module, class_name, None) if class_name in getattr(module, "__all__", ()) else None
    return found if isinstance(found, type) else None
