"""A model trained offline: a pure function of what a verdict holds.

Members that learned from labels look at the feature vector; what each says becomes its rank among what it says of
ordinary rows; a learned mean of the tails of these ranks and of those of the pipeline's own detectors
(:func:`detectors.stacking.weighted_tail`) is placed once more among ordinary rows: that is the score, "the share of
recent traffic that looked less suspicious", as of the training. A calibrated map makes it a probability.

There is no state. A worker that shadows it, a recovery, a gate and a page of the console compute the same bits from one
verdict, however rows are cut into batches. :mod:`detectors.model_fit` makes models; as bytes they are arrays and JSON
(:mod:`detectors.arrays`), never code.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import msgspec
import numpy as np

from detectors.arrays import Arrays, child, merge, pack, unpack
from detectors.compressed_trees import TreeModel, restored_model
from detectors.kernels_ranks import place_all
from detectors.kinds import build
from detectors.logistic import Logistic
from detectors.stacking import weighted_tail
from domain.batch import Floats, Ints
from domain.pipeline import LABELLED_KINDS, DetectorSpec, Pipeline

__all__ = ["Member", "ModelScores", "TrainedModel", "inputs_of"]

_FORMAT = 1
_MOST = 1_000
"""Members, features or detectors that a file may name: bounds the work of reading it."""


@dataclass(frozen=True, slots=True)
class ModelScores:
    """What a model says of n rows.

    score        float64[n]: share of the traffic at its training that looked less suspicious; NaN: it can not say
    probability  float64[n]: of the label 1; NaN likewise
    """

    score: Floats
    probability: Floats


def inputs_of(pipeline: Pipeline) -> tuple[dict[str, str], dict[str, str]]:
    """Features and detectors of ``pipeline`` by name, in its order, each with a hash of how it is declared."""
    return (
        {feature.name: _digest(feature) for feature in pipeline.features},
        {spec.name: _digest(spec) for spec in pipeline.detectors},
    )


def placed(ordered: Floats, values: Floats) -> Floats:
    """The rank (above 0, below 1) of each of ``values`` among ``ordered`` (sorted, at least one); NaN stays NaN."""
    out = np.empty(len(values))
    place_all(ordered, len(ordered), 1, 0.0, np.ascontiguousarray(values), out)
    return out


@dataclass(frozen=True, slots=True, eq=False)
class Member:
    """One part that learned from labels.

    columns  int64[F']: the features that it sees, as columns of the vector
    ordered  float64[m]: what it says of ordinary rows, sorted
    scorer   trees or a logistic regression over those columns; ``params`` are those of the latter
    """

    name: str
    kind: str
    columns: Ints
    ordered: Floats
    scorer: TreeModel | Logistic
    params: Mapping[str, Any]

    def raw(self, x: Floats) -> Floats:
        """What it says of each row (float64[n, features])."""
        return self.scorer.score(np.ascontiguousarray(x[:, self.columns]))

    def rank(self, x: Floats) -> Floats:
        """The same as ranks among ordinary rows."""
        return placed(self.ordered, self.raw(x))

    def packed(self) -> Arrays:
        """All of it."""
        own = {"name": self.name, "kind": self.kind, "params": dict(self.params)}
        return merge(
            {"scorer": self.scorer.snapshot()},
            Arrays({"columns": self.columns, "ordered": self.ordered}, own),
        )

    @staticmethod
    def unpacked(state: Arrays, width: int) -> Member:
        """What :meth:`packed` made, over vectors of ``width`` features. Raises ValueError when it does not fit."""
        name, kind, params = (state.scalars.get(key) for key in ("name", "kind", "params"))
        if not isinstance(name, str) or not isinstance(kind, str) or not isinstance(params, dict):
            raise ValueError("a member of the model lacks 'name', 'kind' or 'params'")
        if kind not in LABELLED_KINDS:
            raise ValueError(
                f"member {name!r} of the model is of kind {kind!r}, which does not learn from labels"
            )
        columns = state.arrays.get("columns")
        if columns is None or columns.dtype != np.int64 or columns.ndim != 1 or not 0 < len(columns) <= width:
            raise ValueError(f"member {name!r} of the model lacks 'columns'")
        if not ((columns >= 0) & (columns < width)).all():
            raise ValueError(f"member {name!r} of the model looks at features that there are not")
        scorer: TreeModel | Logistic
        if kind == "logistic":
            built = build(
                DetectorSpec(name=name, kind=kind, params=params), tuple(str(column) for column in columns), 0
            )
            if not isinstance(built, Logistic):
                raise ValueError(f"member {name!r} of the model is no logistic regression")
            built.restore(child(state, "scorer"))
            scorer = built
        else:
            scorer = restored_model(child(state, "scorer"), len(columns))
        return Member(name, kind, columns, _sorted(state, "ordered"), scorer, params)


@dataclass(frozen=True, eq=False)
class TrainedModel:
    """Members, what each of the ranks is worth, and two maps: to the score, and to the probability.

    features, detectors  name to hash of the declaration (:func:`inputs_of`), of the pipeline it was trained for
    weights              float64[detectors + members], not negative, sum 1
    table                float64[m]: combinations of ordinary rows, sorted
    edges, chances       float64[k] each: the probability at each of these scores, a line between them
    facts                what the training knew of it, for people: JSON values by name
    """

    features: Mapping[str, str]
    detectors: Mapping[str, str]
    members: Sequence[Member]
    weights: Floats
    table: Floats
    edges: Floats
    chances: Floats
    facts: Mapping[str, Any]

    @cached_property
    def version(self) -> str:
        """Hash of all of it: the same training gives the same version."""
        return f"m-{hashlib.sha256(self.pack()).hexdigest()[:12]}"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, TrainedModel) and self.version == other.version

    def __hash__(self) -> int:
        return hash(self.version)

    @property
    def worth(self) -> dict[str, float]:
        """The weight of every detector (by its name) and member (``model.`` and its name)."""
        names = [*self.detectors, *(f"model.{member.name}" for member in self.members)]
        return dict(zip(names, self.weights.tolist(), strict=True))

    def mismatch(self, pipeline: Pipeline) -> str | None:
        """Why it can not score events of ``pipeline``; None: it can.

        It has to have the features and detectors that the model was trained with, declared alike and in that order;
        rules, thresholds and everything else may differ.
        """
        features, detectors = inputs_of(pipeline)
        for what, mine, theirs in (
            ("features", self.features, features),
            ("detectors", self.detectors, detectors),
        ):
            if tuple(mine.items()) != tuple(theirs.items()):
                changed = [
                    name for name in dict.fromkeys([*mine, *theirs]) if mine.get(name) != theirs.get(name)
                ]
                told = f"these differ: {', '.join(changed[:5])}" if changed else "their order differs"
                return f"was trained with other {what} than pipeline {pipeline.name!r} has ({told})"
        return None

    def score(self, x: Floats, ranks: Floats) -> ModelScores:
        """What it says of rows: vectors ``x`` (float64[n, F], NaN = missing) and the ranks that the pipeline's
        detectors gave (float64[n, D], NaN = none). Pure, each row by itself.
        """
        if x.ndim != 2 or x.shape[1] != len(self.features) or ranks.shape != (len(x), len(self.detectors)):
            raise ValueError(
                f"model {self.version} takes rows of {len(self.features)} features and {len(self.detectors)} ranks, "
                f"not arrays of shape {x.shape} and {ranks.shape}"
            )
        score = placed(self.table, self.combined(x, ranks))
        probability: Floats = np.interp(score, self.edges, self.chances)
        probability[np.isnan(score)] = np.nan
        return ModelScores(score, probability)

    def combined(self, x: Floats, ranks: Floats) -> Floats:
        """The learned mean of all tails, before it becomes a score."""
        said = [ranks, *(member.rank(x)[:, None] for member in self.members)]
        return weighted_tail(np.concatenate(said, axis=1), self.weights)

    def pack(self) -> bytes:
        """All of it as bytes: equal models give equal bytes."""
        return self._packed

    @cached_property
    def _packed(self) -> bytes:
        own = Arrays(
            {"weights": self.weights, "table": self.table, "edges": self.edges, "chances": self.chances},
            {
                "format": _FORMAT,
                # as lists: their order is that of the columns
                "features": [list(item) for item in self.features.items()],
                "detectors": [list(item) for item in self.detectors.items()],
                "members": len(self.members),
                "facts": dict(self.facts),
            },
        )
        return pack(merge({f"member{i}": member.packed() for i, member in enumerate(self.members)}, own))

    @staticmethod
    def unpack(blob: bytes) -> TrainedModel:
        """The model that :meth:`pack` wrote. Raises ValueError naming what is torn, foreign or out of bounds."""
        state = unpack(blob)
        own = state.scalars
        if own.get("format") != _FORMAT:
            raise ValueError(f"model has format {own.get('format')}, this code reads {_FORMAT}")
        features, detectors = (
            _names(own.get("features"), "features"),
            _names(own.get("detectors"), "detectors"),
        )
        count, facts = own.get("members"), own.get("facts")
        if not isinstance(count, int) or not 0 <= count <= _MOST or not isinstance(facts, dict):
            raise ValueError("model lacks 'members' or 'facts'")
        members = [Member.unpacked(child(state, f"member{i}"), len(features)) for i in range(count)]
        weights = _floats(state, "weights")
        if (
            len(weights) != len(detectors) + count
            or not (weights >= 0.0).all()
            or not 0.5 < weights.sum() < 2.0
        ):
            raise ValueError("model has weights that do not fit its detectors and members")
        edges, chances = _sorted(state, "edges"), _sorted(state, "chances")
        if len(edges) != len(chances) or chances[0] < 0.0 or chances[-1] > 1.0:
            raise ValueError("model has no map from scores to probabilities")
        return TrainedModel(
            features, detectors, members, weights, _sorted(state, "table"), edges, chances, facts
        )


def _digest(declared: msgspec.Struct) -> str:
    return hashlib.sha256(msgspec.json.encode(declared, order="deterministic")).hexdigest()[:8]


def _names(found: object, what: str) -> dict[str, str]:
    if not isinstance(found, list) or len(found) > _MOST:
        raise ValueError(f"model lacks its {what}")
    names: dict[str, str] = {}
    for item in found:
        if not isinstance(item, list) or len(item) != 2 or not all(isinstance(part, str) for part in item):
            raise ValueError(f"model lacks its {what}")
        names[item[0]] = item[1]
    if len(names) != len(found):
        raise ValueError(f"model names one of its {what} twice")
    return names


def _floats(state: Arrays, name: str) -> Floats:
    found = state.arrays.get(name)
    if found is None or found.dtype != np.float64 or found.ndim != 1 or not np.isfinite(found).all():
        raise ValueError(f"model lacks an array {name!r} of finite numbers")
    return found


def _sorted(state: Arrays, name: str) -> Floats:
    found = _floats(state, name)
    if not len(found) or (np.diff(found) < 0.0).any():
        raise ValueError(f"model lacks sorted numbers {name!r}")
    return found
