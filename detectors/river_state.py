"""River models as JSON, without pickle.

River's models have no serial form but pickle, which runs code of whoever wrote the bytes. This walks the
attributes of a model instead: plain values, containers, random generators and objects of River's own classes
are written down, with shared references kept; anything else is refused by name. Reading makes River objects
by ``object.__new__`` and sets their attributes, and imports nothing outside River.
"""

from __future__ import annotations

import copy
import functools
import importlib
import random
from collections import Counter, defaultdict, deque
from collections.abc import Callable
from typing import Any

from river.utils.vectordict import VectorDict

__all__ = ["UnsupportedError", "decode", "encode"]

_BUILTINS: dict[str, Callable[..., Any]] = {
    thing.__name__: thing
    for thing in (bool, dict, float, int, list, set, str, tuple, Counter, defaultdict, deque, copy.deepcopy)
}
"""What River's models hold of Python itself; none of them does harm when it is called."""


class UnsupportedError(ValueError):
    """A model holds something that cannot be written down."""


def encode(model: object) -> list[Any]:
    """``model`` as JSON-able nodes, itself first. Raises UnsupportedError naming a foreign type."""
    return _Encoder().run(model)


def decode(nodes: list[Any]) -> Any:
    """The object that :func:`encode` wrote. Raises ValueError when the nodes are not of its making."""
    try:
        return _Decoder(nodes).node(0)
    except (LookupError, TypeError, AttributeError, ImportError, OverflowError, RecursionError) as error:
        raise ValueError(f"state of a River model unreadable: {type(error).__name__}: {error}") from error


class _Encoder:
    """One walk; ``kept`` holds visited objects so that their ids stay theirs."""

    def __init__(self) -> None:
        self._nodes: list[Any] = []
        self._places: dict[int, int] = {}
        self._kept: list[object] = []

    def run(self, model: object) -> list[Any]:
        try:
            self._value(model)
        except RecursionError:
            raise UnsupportedError(f"{type(model).__name__} is nested too deeply to be stored") from None
        return self._nodes

    def _value(self, value: Any) -> Any:
        """Plain values as they are, everything else as a reference to its node."""
        if value is None or type(value) in (bool, int, float, str):
            return value
        place = self._places.get(id(value))
        if place is None:
            place = len(self._nodes)
            self._places[id(value)] = place
            self._kept.append(value)
            self._nodes.append(None)
            self._nodes[place] = self._node(value)
        return {"$": place}

    def _node(self, value: Any) -> list[Any]:
        kind = type(value)
        if kind in (list, tuple):
            return [kind.__name__, [self._value(v) for v in value]]
        if kind in (set, frozenset):
            # in an order that does not change with the process
            return [kind.__name__, [self._value(v) for v in sorted(value, key=repr)]]
        if kind is dict:
            return ["dict", self._pairs(value)]
        if kind is Counter:
            return ["counter", self._pairs(value)]
        if kind is defaultdict:
            return ["defaultdict", self._value(value.default_factory), self._pairs(value)]
        if kind is deque:
            return ["deque", value.maxlen, [self._value(v) for v in value]]
        if kind is functools.partial:
            return ["partial", *(self._value(v) for v in (value.func, value.args, value.keywords))]
        if kind is random.Random:
            return ["random", self._value(value.getstate())]
        if kind is VectorDict:
            content, *others = value.__reduce_ex__(2)[1]
            if others[:2] == [None, None]:
                return ["vectordict", self._pairs(content)]
        if isinstance(value, type) or (callable(value) and hasattr(value, "__qualname__")):
            name = str(getattr(value, "__name__", ""))
            if _BUILTINS.get(name) is value:
                return ["type", name]
            return ["named", *_name(value)]
        return ["object", *_name(kind), self._pairs(_attributes(value))]

    def _pairs(self, content: dict[Any, Any]) -> list[Any]:
        return [[self._value(key), self._value(value)] for key, value in content.items()]


class _Decoder:
    """Makes each node once; containers are known before their content, so cycles close."""

    def __init__(self, nodes: list[Any]) -> None:
        self._nodes = nodes
        self._made: dict[int, Any] = {}

    def node(self, place: int) -> Any:
        if place not in self._made:
            self._make(place, *self._nodes[place])
        return self._made[place]

    def _value(self, value: Any) -> Any:
        return self.node(value["$"]) if isinstance(value, dict) else value

    def _make(self, place: int, kind: str, *rest: Any) -> None:
        made: Any
        if kind == "object":
            made = object.__new__(_resolve(rest[0], rest[1], want_class=True))
            self._made[place] = made
            for key, value in rest[2]:
                object.__setattr__(made, key, self._value(value))
            return
        if kind in _EMPTY:
            made = self._made[place] = _EMPTY[kind]()
            if kind == "defaultdict":
                made.default_factory = self._value(rest[0])
            if kind == "list":
                made.extend(self._value(v) for v in rest[0])
            elif kind == "set":
                made.update(self._value(v) for v in rest[0])
            else:
                # Not update(): a Counter would count instead of taking over.
                for key, value in rest[-1]:
                    made[self._value(key)] = self._value(value)
            return
        if kind == "deque":
            made = self._made[place] = deque(maxlen=rest[0])
            made.extend(self._value(v) for v in rest[1])
            return
        self._made[place] = self._immutable(kind, rest)

    def _immutable(self, kind: str, rest: tuple[Any, ...]) -> Any:
        if kind == "tuple":
            return tuple(self._value(v) for v in rest[0])
        if kind == "frozenset":
            return frozenset(self._value(v) for v in rest[0])
        if kind == "partial":
            function, args, keywords = (self._value(v) for v in rest)
            return functools.partial(function, *args, **keywords)
        if kind == "random":
            generator = random.Random()  # noqa: S311  (not for secrets)
            generator.setstate(self._value(rest[0]))
            return generator
        if kind == "type":
            return _BUILTINS[rest[0]]
        if kind == "named":
            return _resolve(rest[0], rest[1], want_class=False)
        raise ValueError(f"state of a River model has an unknown node {kind!r}")


_EMPTY: dict[str, Callable[[], Any]] = {
    "list": list,
    "set": set,
    "dict": dict,
    "counter": Counter,
    "defaultdict": defaultdict,
    "vectordict": VectorDict,
}


def _name(thing: Any) -> tuple[str, str]:
    """Module and name under which ``thing`` of River is found again; UnsupportedError when it is not."""
    module, name = str(getattr(thing, "__module__", "")), thing.__qualname__
    try:
        if _resolve(module, name, want_class=isinstance(thing, type)) is thing:
            return module, name
    except (ValueError, AttributeError, ImportError):
        pass
    raise UnsupportedError(f"it holds {module}.{name}, which a snapshot cannot hold")


def _resolve(module: str, name: str, *, want_class: bool) -> Any:
    """A class or function of River by module and name; ValueError for anything else."""
    parts = name.split(".")
    if not (isinstance(module, str) and module.startswith("river.")) or not all(
        p.isidentifier() for p in parts
    ):
        raise ValueError(f"{module}.{name} is not part of River")
    # a function of a class of that module has the class's name before its own
    found: Any = importlib.import_module(module)
    for part in parts:
        found = getattr(found, part)
    if want_class and not isinstance(found, type):
        raise ValueError(f"{module}.{name} is not a class")
    # A module's own names only: what River imports from elsewhere is not River's.
    if not str(found.__module__).startswith("river."):
        raise ValueError(f"{module}.{name} is not part of River")
    return found


def _attributes(value: Any) -> dict[str, Any]:
    """All attributes of an object: its dict and its slots."""
    slots = [s for base in type(value).__mro__ for s in _slots(base)]
    if not hasattr(value, "__dict__") and not slots:
        name = f"{type(value).__module__}.{type(value).__qualname__}"
        raise UnsupportedError(f"it holds {name}, whose content is hidden in compiled code")
    found = {name: getattr(value, name) for name in slots if hasattr(value, name)}
    found = {**found, **getattr(value, "__dict__", {})}
    if type(value).__module__.startswith("river.proba.") and "_rng" in found:
        # distributions draw samples from a generator that nobody seeds; no model's score comes from it
        found["_rng"] = random.Random(0)  # noqa: S311  (not for secrets)
    return found


def _slots(base: type) -> list[str]:
    slots = vars(base).get("__slots__", ())
    names = [slots] if isinstance(slots, str) else list(slots)
    return [name for name in names if name not in ("__dict__", "__weakref__")]
