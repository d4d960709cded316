"""Smaller and faster trees at a small loss: quantised, pruned, distilled.

*Quantised* trees compare numbers of edges instead of values: each column's thresholds are its edges (where
there are too many, neighbours become one), a row is coded once, and nodes hold one or two bytes for the
threshold and the leaf. Binned boosting knows at most 255 thresholds a column, so 8 bits lose only in the
leaves. *Pruned* trees lose subtrees whose leaves say almost the same. *Distilled*: few boosted trees are
fitted to what the model says of its own training rows (Bucila, Caruana and Niculescu-Mizil, "Model
compression", KDD 2006).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from detectors.arrays import Arrays
from detectors.kernels_quantised import walk_codes
from detectors.label_memory import TrainingRows
from detectors.packed_trees import FittedTrees, PackedTrees, Tree, boosted
from domain.batch import Floats

__all__ = [
    "Compression",
    "QuantisedTrees",
    "TreeModel",
    "compressed",
    "distilled",
    "pruned",
    "restored_model",
]


class TreeModel(Protocol):
    """What a fitted detector scores with."""

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays."""
        ...

    def score(self, x: Floats) -> Floats:
        """float64[n] for float64[n, F]."""
        ...

    def snapshot(self) -> Arrays:
        """All arrays."""
        ...


@dataclass(frozen=True, slots=True)
class Compression:
    """What to do to a fitted model; nothing by default.

    quantize  8 or 16 bits for thresholds and leaves
    prune     subtrees whose leaves differ by at most this share of the range of all leaves become one leaf
    distil    number of boosted trees to put in the model's place
    """

    quantize: int | None = None
    prune: float = 0.0
    distil: int | None = None


class QuantisedTrees:
    """Trees of whole numbers; the score is ``offset + scale * sum``. Arrays as in :func:`walk_codes`."""

    def __init__(self, arrays: dict[str, npt.NDArray[Any]], offset: float, scale: float) -> None:
        self.arrays = {name: arrays[name] for name in _SHAPES}
        self.offset = offset
        self.scale = scale
        self._width = len(arrays["ends"]) - 1

    @classmethod
    def of(cls, model: PackedTrees, bits: int) -> QuantisedTrees:
        """``model`` with thresholds and leaves of ``bits`` (8 or 16) bits."""
        kind, signed = (np.uint8, np.int8) if bits == 8 else (np.uint16, np.int16)
        a = model.arrays
        leaf = a["left"] == np.arange(len(a["left"]))
        most = int(np.iinfo(kind).max)
        code = np.full(len(leaf), most, dtype=kind)
        columns = a["feature"] % model.width
        edges: list[npt.NDArray[np.float32]] = []
        for column in range(model.width):
            here = np.flatnonzero(~leaf & (columns == column))
            kept = _edges(a["threshold"][here], most)
            code[here] = _nearest(kept, a["threshold"][here])
            edges.append(kept)
        skip = a["left"].astype(np.int64) - np.arange(len(leaf))
        if skip.max(initial=0) > np.iinfo(np.uint16).max:
            raise ValueError("a tree has too many nodes to be quantised; choose fewer leaves")
        leaves = a["value"][leaf]
        low, high = float(leaves.min()), float(leaves.max())
        steps = 2.0 * np.iinfo(signed).max
        scale = (high - low) / steps if high > low else 1.0
        middle = (low + high) / 2.0
        value = np.where(leaf, np.rint((a["value"] - middle) / scale), 0.0)
        arrays: dict[str, npt.NDArray[Any]] = {
            "edges": np.concatenate(edges),
            "ends": np.cumsum([0, *(len(kept) for kept in edges)]).astype(np.int32),
            "feature": a["feature"].astype(np.uint8 if 2 * model.width <= 256 else np.uint16),
            "code": code,
            "skip": skip.astype(np.uint16),
            "value": value.astype(signed),
            "root": a["root"],
            "depth": a["depth"],
        }
        trees = len(a["root"])
        return cls(arrays, (model.base + trees * middle) / model.divisor, scale / model.divisor)

    @classmethod
    def restored(cls, state: Arrays, width: int) -> QuantisedTrees:
        """The trees of a snapshot. Raises ValueError when its arrays would lead the kernel astray."""
        for name, types in _SHAPES.items():
            found = state.arrays.get(name)
            if found is None or found.dtype.type not in types or found.ndim != 1:
                raise ValueError(f"snapshot of quantised trees lacks a fitting array {name!r}")
        a = {name: state.arrays[name] for name in _SHAPES}
        offset, scale = state.scalars.get("offset"), state.scalars.get("scale")
        nodes, ends = len(a["feature"]), a["ends"].astype(np.int64)
        leaf = a["skip"] == 0
        fits = (
            len(a["root"]) == len(a["depth"]) > 0
            and len(a["code"]) == len(a["skip"]) == len(a["value"]) == nodes
            and len(ends) == width + 1
            and ends[0] == 0
            and ends[-1] == len(a["edges"])
            and bool((np.diff(ends) >= 0).all())
            and bool((np.diff(ends) <= np.iinfo(a["code"].dtype).max).all())
            and bool((a["feature"] < 2 * width).all())
            and bool((a["root"] < nodes).all())
            and bool((leaf | (a["skip"] + np.arange(nodes) + 1 < nodes)).all())
            and bool((a["code"][leaf] == np.iinfo(a["code"].dtype).max).all())
            and bool(((a["depth"] >= 0) & (a["depth"] < max(nodes, 1))).all())
        )
        if not fits or not isinstance(offset, float) or not isinstance(scale, float):
            raise ValueError(
                "snapshot of quantised trees has arrays that do not fit together or this detector"
            )
        return cls(a, offset, scale)

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays."""
        return sum(array.nbytes for array in self.arrays.values())

    def score(self, x: Floats) -> Floats:
        """float64[n]: nearly what the trees said before they were quantised."""
        out = np.empty(x.shape[0])
        a = self.arrays
        room = np.empty((min(x.shape[0], 256), 2 * self._width), dtype=a["code"].dtype)
        walk_codes(
            np.ascontiguousarray(x),
            a["edges"],
            a["ends"],
            a["feature"],
            a["code"],
            a["skip"],
            a["value"],
            a["root"],
            a["depth"],
            room,
            out,
        )
        return self.offset + self.scale * out

    def snapshot(self) -> Arrays:
        """All arrays; they are never written to again."""
        return Arrays(dict(self.arrays), {"offset": self.offset, "scale": self.scale})


_SHAPES: dict[str, tuple[type[np.generic], ...]] = {
    "edges": (np.float32,),
    "ends": (np.int32,),
    "feature": (np.uint8, np.uint16),
    "code": (np.uint8, np.uint16),
    "skip": (np.uint16,),
    "value": (np.int8, np.int16),
    "root": (np.uint32,),
    "depth": (np.int32,),
}


def restored_model(state: Arrays, width: int) -> TreeModel:
    """The model of a snapshot, quantised or not. Raises ValueError when it does not fit."""
    if "edges" in state.arrays:
        return QuantisedTrees.restored(state, width)
    return PackedTrees.restored(state, width)


def compressed(fitted: FittedTrees, rows: TrainingRows, how: Compression, seed: int) -> TreeModel:
    """What scores in the place of ``fitted``: distilled, then pruned, then quantised, each if asked for."""
    width = rows.x.shape[1]
    if how.distil is not None:
        fitted = distilled(PackedTrees.packed(fitted, width), rows, how.distil, seed)
    if how.prune > 0.0:
        fitted = FittedTrees(pruned(fitted.trees, how.prune), fitted.base, fitted.divisor)
    packed = PackedTrees.packed(fitted, width)
    return packed if how.quantize is None else QuantisedTrees.of(packed, how.quantize)


def distilled(teacher: PackedTrees, rows: TrainingRows, trees: int, seed: int) -> FittedTrees:
    """``trees`` boosted trees that say nearly what ``teacher`` says of ``rows``."""
    # imported where they are needed: loading scikit-learn takes seconds, and only fitting needs it
    from sklearn.ensemble import HistGradientBoostingRegressor
    from threadpoolctl import threadpool_limits

    student = HistGradientBoostingRegressor(
        max_iter=trees, learning_rate=0.3, max_depth=8, early_stopping=False, random_state=seed
    )
    # sums over several threads depend on how many there are
    with threadpool_limits(limits=1):
        student.fit(rows.x, teacher.score(rows.x.astype(np.float64)))
    return boosted(student)


def pruned(trees: Sequence[Tree], tolerance: float) -> list[Tree]:
    """``trees`` without subtrees whose leaves differ by at most ``tolerance`` times the range of all leaves.

    What takes the place of such a subtree says the middle of its leaves.
    """
    leaves = np.concatenate([tree.value[tree.left < 0] for tree in trees])
    width = tolerance * float(leaves.max() - leaves.min())
    return [_pruned(tree, width) for tree in trees]


def _pruned(tree: Tree, width: float) -> Tree:
    low, high = tree.value.copy(), tree.value.copy()
    left, value = np.array(tree.left, dtype=np.int64), tree.value.copy()
    pending = [(0, False)]
    while pending:
        node, below_done = pending.pop()
        if tree.left[node] < 0:
            continue
        children = [int(tree.left[node]), int(tree.right[node])]
        if not below_done:
            pending.append((node, True))
            pending.extend((child, False) for child in children)
            continue
        low[node], high[node] = low[children].min(), high[children].max()
        if high[node] - low[node] <= width:
            left[node] = -1
            value[node] = (low[node] + high[node]) / 2.0
    return Tree(tree.feature, tree.threshold, left, tree.right, tree.missing_left, value)


def _edges(thresholds: npt.NDArray[np.float32], most: int) -> npt.NDArray[np.float32]:
    """At most ``most`` of the thresholds, sorted, so that each stands for about as many nodes."""
    found = np.unique(thresholds)
    if len(found) <= most:
        return found
    ordered = np.sort(thresholds)
    return np.unique(ordered[np.linspace(0, len(ordered) - 1, most).round().astype(np.int64)])


def _nearest(edges: npt.NDArray[np.float32], thresholds: npt.NDArray[np.float32]) -> npt.NDArray[np.int64]:
    """The number of the edge that lies nearest to each threshold."""
    above = np.clip(np.searchsorted(edges, thresholds), 0, max(len(edges) - 1, 0))
    below = np.maximum(above - 1, 0)
    if not len(edges):
        return above
    exact = edges.astype(np.float64)
    nearer_below = np.abs(exact[below] - thresholds) < np.abs(exact[above] - thresholds)
    return np.where(nearer_below, below, above)
