"""Compiled growing, forgetting and scoring of online isolation trees.

A tree of at most D levels of cuts lies in one row of arrays: the children of node i are 2i+1 and 2i+2, and a
leaf has feature -1. What lies below a leaf is stale and is written anew when the leaf is cut. Only leaves keep
their box (``low`` to ``high``) up to date; joined again, they give it to their parent.

When a leaf is cut, the rows in it are not looked up again; they are spread over the two halves as if they
lay evenly in its box (the paper). We go one step further and remember them as *ghosts*: a row that is older
than the cut leaves as one ghost of either half, a younger one by its values. So each half holds exactly the
rows that were counted in it, and after one window the guess is gone; without that, the difference between
guess and truth would stay in the counts for as long as the cut does.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from detectors.kernels_sampling import unit
from detectors.kernels_scaling import squash_row
from domain.batch import Floats, Ints
from domain.compiled import compiled

__all__ = ["replant", "score_rows", "step_rows"]

Int32s = npt.NDArray[np.int32]


@compiled
def _unit(draws: Ints, tree: int, seed: np.uint64) -> float:
    """The next random number in [0, 1) of a tree: a function of seed, tree and how many it has drawn."""
    index = (np.uint64(tree + 1) << np.uint64(40)) + np.uint64(draws[tree])
    draws[tree] += 1
    return unit(seed, index)


@compiled
def _further(rows: int, depth_of: Floats) -> float:
    """How much deeper ``rows`` could be cut. A count that cannot be (a foreign snapshot) reads no foreign memory."""
    return float(depth_of[min(max(rows, 0), depth_of.shape[0] - 1)])


@compiled
def _score(row: Floats, feature: Int32s, cut: Floats, size: Int32s, depth_of: Floats) -> float:
    """2 to the power of minus the mean depth of ``row``, in units of the depth expected for all rows.

    A leaf counts as deeper by as much as its rows could still be cut.
    """
    total = 0.0
    for tree in range(feature.shape[0]):
        node = 0
        while feature[tree, node] >= 0:
            node = 2 * node + (2 if row[feature[tree, node]] >= cut[tree, node] else 1)
            total += 1.0
        total += _further(size[tree, node], depth_of)
    return float(2.0 ** (-total / (feature.shape[0] * _further(size[0, 0], depth_of))))


@compiled
def _split(
    node: int,
    born: int,
    tree: int,
    feature: Int32s,
    cut: Floats,
    size: Int32s,
    ghosts: Int32s,
    births: Ints,
    low: Floats,
    high: Floats,
    draws: Ints,
    seed: np.uint64,
) -> None:
    """Cut a leaf at a random place of a random feature that varies in it; leave it when none does."""
    columns = low.shape[2]
    varying = 0
    for j in range(columns):
        varying += high[tree, node, j] > low[tree, node, j]
    if varying == 0:
        return
    chosen = int(_unit(draws, tree, seed) * varying)
    column = 0
    for j in range(columns):
        if high[tree, node, j] > low[tree, node, j]:
            if chosen == 0:
                column = j
                break
            chosen -= 1
    share = _unit(draws, tree, seed)
    at = low[tree, node, column] + share * (high[tree, node, column] - low[tree, node, column])
    left = 2 * node + 1
    right = left + 1
    for child in (left, right):
        feature[tree, child] = -1
        for j in range(columns):
            low[tree, child, j] = low[tree, node, j]
            high[tree, child, j] = high[tree, node, j]
    high[tree, left, column] = at
    low[tree, right, column] = at
    below = int(share * size[tree, node] + _unit(draws, tree, seed))
    size[tree, left] = below
    size[tree, right] = size[tree, node] - below
    ghosts[tree, left] = size[tree, left]
    ghosts[tree, right] = size[tree, right]
    feature[tree, node] = column
    cut[tree, node] = at
    births[tree, node] = born


@compiled
def _learn(
    row: Floats,
    index: int,
    leaf: int,
    feature: Int32s,
    cut: Floats,
    size: Int32s,
    ghosts: Int32s,
    births: Ints,
    low: Floats,
    high: Floats,
    draws: Ints,
    seed: np.uint64,
) -> None:
    """Count ``row`` along its way in each tree; cut its leaf when that has become full."""
    for tree in range(feature.shape[0]):
        node = 0
        full = leaf  # leaf * 2**depth rows fill a leaf at that depth ...
        worth = leaf  # ... and leaf * 4**depth must be less than all rows (depth below log4(rows / leaf))
        size[tree, 0] += 1
        while feature[tree, node] >= 0:
            node = 2 * node + (2 if row[feature[tree, node]] >= cut[tree, node] else 1)
            size[tree, node] += 1
            full *= 2
            worth *= 4
        for j in range(row.shape[0]):
            if row[j] < low[tree, node, j]:
                low[tree, node, j] = row[j]
            if row[j] > high[tree, node, j]:
                high[tree, node, j] = row[j]
        if size[tree, node] >= full and worth < size[tree, 0]:
            _split(node, index + 1, tree, feature, cut, size, ghosts, births, low, high, draws, seed)


@compiled
def _forget(
    row: Floats,
    index: int,
    leaf: int,
    feature: Int32s,
    cut: Floats,
    size: Int32s,
    ghosts: Int32s,
    births: Ints,
    low: Floats,
    high: Floats,
    draws: Ints,
    seed: np.uint64,
) -> None:
    """Take the row with number ``index`` out of each tree; a node that has become too small is a leaf again."""
    for tree in range(feature.shape[0]):
        node = 0
        full = leaf
        size[tree, 0] -= 1
        while feature[tree, node] >= 0:
            left = 2 * node + 1
            if size[tree, node] < full:
                # both halves are leaves, as they hold fewer rows still and would need twice as many
                feature[tree, node] = -1
                for j in range(row.shape[0]):
                    low[tree, node, j] = min(low[tree, left, j], low[tree, left + 1, j])
                    high[tree, node, j] = max(high[tree, left, j], high[tree, left + 1, j])
                break
            if index >= births[tree, node]:
                node = left + (row[feature[tree, node]] >= cut[tree, node])
            else:
                among = ghosts[tree, left] + ghosts[tree, left + 1]
                node = left + (_unit(draws, tree, seed) * among >= ghosts[tree, left])
                ghosts[tree, node] -= 1
            size[tree, node] -= 1
            full *= 2


@compiled
def score_rows(
    x: Floats,
    center: Floats,
    scale: Floats,
    feature: Int32s,
    cut: Floats,
    size: Int32s,
    depth_of: Floats,
    out: Floats,
) -> None:
    """Write to out[i] the anomaly score of x[i]; nothing is learned."""
    row = np.empty(x.shape[1])
    for i in range(x.shape[0]):
        squash_row(x[i], center, scale, row)
        out[i] = _score(row, feature, cut, size, depth_of)


@compiled
def _chosen(seen: int, length: int, memory: int, seed: np.uint64) -> bool:
    """Whether row number ``seen`` of the stream is learned: the first ones are, then one in so many."""
    among = min(seen + 1, memory)
    return bool(unit(seed, np.uint64(seen)) * among < length)


@compiled
def step_rows(
    x: Floats,
    center: Floats,
    scale: Floats,
    window: Floats,
    seen: int,
    learned: Ints,
    memory: int,
    leaf: int,
    feature: Int32s,
    cut: Floats,
    size: Int32s,
    ghosts: Int32s,
    births: Ints,
    low: Floats,
    high: Floats,
    draws: Ints,
    seed: np.uint64,
    depth_of: Floats,
    score: bool,
    out: Floats,
) -> None:
    """Score each row of ``x`` (only when ``score``); learn those that are chosen, and forget what leaves the window.

    ``seen`` rows came before, ``learned[0]`` of them were learned; the one with number r among these is kept,
    unscaled, in window[r % len(window)].
    """
    length = window.shape[0]
    row = np.empty(x.shape[1])
    old = np.empty(x.shape[1])
    for i in range(x.shape[0]):
        squash_row(x[i], center, scale, row)
        if score:
            out[i] = _score(row, feature, cut, size, depth_of)
        if not _chosen(seen + i, length, memory, seed):
            continue
        index = learned[0]
        learned[0] += 1
        kept = window[index % length]
        _learn(row, index, leaf, feature, cut, size, ghosts, births, low, high, draws, seed)
        if index >= length:
            squash_row(kept, center, scale, old)
            _forget(old, index - length, leaf, feature, cut, size, ghosts, births, low, high, draws, seed)
        kept[:] = x[i]


@compiled
def replant(
    center: Floats,
    scale: Floats,
    window: Floats,
    learned: int,
    leaf: int,
    feature: Int32s,
    cut: Floats,
    size: Int32s,
    ghosts: Int32s,
    births: Ints,
    low: Floats,
    high: Floats,
    draws: Ints,
    seed: np.uint64,
) -> None:
    """Grow all trees anew from the window, oldest row first: their cuts were made in other coordinates."""
    length = window.shape[0]
    feature[:] = -1
    size[:] = 0
    low[:] = np.inf
    high[:] = -np.inf
    row = np.empty(window.shape[1])
    for index in range(max(0, learned - length), learned):
        squash_row(window[index % length], center, scale, row)
        _learn(row, index, leaf, feature, cut, size, ghosts, births, low, high, draws, seed)
