"""Compiled growing, forgetting and scoring of online isolation trees.

A tree of at most D levels of cuts lies in one row of arrays: the children of node i are 2i+1 and 2i+2, and a
leaf has feature -1. What lies below a leaf is stale and is written anew when the leaf is cut.

When a leaf is cut, the rows in it are not looked up again; they are spread over the two halves as if they
lay evenly in its box (the paper). We go one step further and remember them as *ghosts*: a row that is older
than the cut leaves as one ghost of either half, a younger one by its values. So each half holds exactly the
rows that were counted in it, and after one window the guess is gone; without that, the difference between
guess and truth would stay in the counts for as long as the cut does.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from detectors.kernels_sampling import mix
from detectors.kernels_scaling import squash_row
from domain.batch import Floats, Ints
from domain.compiled import compiled

__all__ = ["score_rows", "step_rows"]

Int32s = npt.NDArray[np.int32]


@compiled
def _unit(draws: Ints, tree: int, seed: np.uint64) -> float:
    """The next random number in [0, 1) of a tree: a function of seed, tree and how many it has drawn."""
    index = (np.uint64(tree + 1) << np.uint64(40)) + np.uint64(draws[tree])
    draws[tree] += 1
    return np.float64(mix(seed, index) >> np.uint64(11)) * 2.0**-53


@compiled
def _depth(row: Floats, feature: Int32s, cut: Floats, size: Int32s, depth_of: Floats) -> float:
    """Depth of the leaf of ``row`` in one tree, and how much deeper its rows could be cut."""
    node = 0
    depth = 0
    while feature[node] >= 0:
        node = 2 * node + (2 if row[feature[node]] >= cut[node] else 1)
        depth += 1
    return depth + float(depth_of[size[node]])


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
    columns = low.shape[1]
    varying = 0
    for j in range(columns):
        varying += high[node, j] > low[node, j]
    if varying == 0:
        return
    chosen = int(_unit(draws, tree, seed) * varying)
    column = 0
    for j in range(columns):
        if high[node, j] > low[node, j]:
            if chosen == 0:
                column = j
                break
            chosen -= 1
    share = _unit(draws, tree, seed)
    at = low[node, column] + share * (high[node, column] - low[node, column])
    left = 2 * node + 1
    right = left + 1
    for child in (left, right):
        feature[child] = -1
        for j in range(columns):
            low[child, j] = low[node, j]
            high[child, j] = high[node, j]
    high[left, column] = at
    low[right, column] = at
    below = int(share * size[node] + _unit(draws, tree, seed))
    size[left] = below
    size[right] = size[node] - below
    ghosts[left] = size[left]
    ghosts[right] = size[right]
    feature[node] = column
    cut[node] = at
    births[node] = born


@compiled
def _learn(
    row: Floats,
    index: int,
    tree: int,
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
    """Count ``row`` along its way; cut its leaf when that has become full."""
    node = 0
    full = leaf  # leaf * 2**depth rows fill a leaf at that depth ...
    worth = leaf  # ... and leaf * 4**depth must be less than all rows (depth below log4(rows / leaf))
    while True:
        size[node] += 1
        for j in range(row.shape[0]):
            low[node, j] = min(low[node, j], row[j])
            high[node, j] = max(high[node, j], row[j])
        if feature[node] < 0:
            if size[node] >= full and worth < size[0]:
                _split(node, index + 1, tree, feature, cut, size, ghosts, births, low, high, draws, seed)
            return
        node = 2 * node + (2 if row[feature[node]] >= cut[node] else 1)
        full *= 2
        worth *= 4


@compiled
def _forget(
    row: Floats,
    index: int,
    tree: int,
    leaf: int,
    feature: Int32s,
    cut: Floats,
    size: Int32s,
    ghosts: Int32s,
    births: Ints,
    draws: Ints,
    seed: np.uint64,
) -> None:
    """Take the row with number ``index`` out again; a node that has become too small is a leaf again."""
    node = 0
    full = leaf
    while True:
        size[node] -= 1
        if feature[node] < 0:
            return
        if size[node] < full:
            feature[node] = -1
            return
        left = 2 * node + 1
        if index >= births[node]:
            node = left + (row[feature[node]] >= cut[node])
        else:
            among = ghosts[left] + ghosts[left + 1]
            node = left + (_unit(draws, tree, seed) * among >= ghosts[left])
            ghosts[node] -= 1
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
    trees = feature.shape[0]
    row = np.empty(x.shape[1])
    for i in range(x.shape[0]):
        squash_row(x[i], center, scale, row)
        total = 0.0
        for t in range(trees):
            total += _depth(row, feature[t], cut[t], size[t], depth_of)
        out[i] = 2.0 ** (-total / (trees * depth_of[size[0, 0]]))


@compiled
def step_rows(
    x: Floats,
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
    depth_of: Floats,
    score: bool,
    out: Floats,
) -> None:
    """Score each row of ``x`` (only when ``score``), learn it, and forget the one that leaves the window.

    ``learned`` rows came before; row number r is kept in window[r % len(window)].
    """
    trees = feature.shape[0]
    length = window.shape[0]
    row = np.empty(x.shape[1])
    for i in range(x.shape[0]):
        squash_row(x[i], center, scale, row)
        total = 0.0
        index = learned + i
        kept = window[index % length]
        for t in range(trees):
            if score:
                total += _depth(row, feature[t], cut[t], size[t], depth_of)
        if score:
            out[i] = 2.0 ** (-total / (trees * depth_of[size[0, 0]]))
        for t in range(trees):
            _learn(
                row,
                index,
                t,
                leaf,
                feature[t],
                cut[t],
                size[t],
                ghosts[t],
                births[t],
                low[t],
                high[t],
                draws,
                seed,
            )
            if index >= length:
                _forget(
                    kept,
                    index - length,
                    t,
                    leaf,
                    feature[t],
                    cut[t],
                    size[t],
                    ghosts[t],
                    births[t],
                    draws,
                    seed,
                )
        kept[:] = row
