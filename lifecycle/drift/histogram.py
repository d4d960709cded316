"""Histograms over bins that stay as they are, so that counts of hours, partitions and days simply add up.

Bin 0 counts missing values. PSI: Siddiqi, "Credit Risk Scorecards" (2006). KS is the two-sample statistic of Kolmogorov
and Smirnov on the bins, missing values first: the largest difference of cumulated shares.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from domain.batch import Floats, Ints

__all__ = ["digitise", "edges_of", "ks", "mean_rank", "mid_ranks", "psi", "width_of"]

_HALF = 0.5
"""Added to each bin before shares are taken, so that an empty one is improbable and not impossible (Jeffreys)."""


def edges_of(sample: Floats, bins: int) -> Floats:
    """Borders of about ``bins`` bins that hold like many of the finite values of ``sample``, ascending.

    A value that fills half a bin or more by itself gets a bin of its own, so that a column of few values (or only one)
    shows when another comes. Empty when there is no finite value: then all values share a bin.

    >>> edges_of(np.array([1.0, 2.0, 3.0, 4.0]), 2).tolist()
    [2.0, 2.0000000000000004]
    """
    finite = np.sort(sample[np.isfinite(sample)])
    if not len(finite):
        return np.empty(0)
    cuts = np.unique(np.quantile(finite, np.arange(1, bins) / bins, method="lower"))
    count = np.searchsorted(finite, cuts, "right") - np.searchsorted(finite, cuts, "left")
    own = cuts[count * 2 * bins >= len(finite)]
    return np.unique(np.concatenate([cuts, np.nextafter(own, np.inf)]))


def width_of(edges: Sequence[Floats]) -> int:
    """How many bins the widest column has, the one of missing values included."""
    return max((len(own) for own in edges), default=0) + 2


def digitise(x: Floats, edges: Sequence[Floats]) -> Ints:
    """The bin of each value of ``x`` (float64[n, columns]): 0 missing, then 1 + how many edges are not above it."""
    out = np.empty(x.shape, dtype=np.int64)
    for column, own in enumerate(edges):
        values = x[:, column]
        out[:, column] = np.where(np.isnan(values), 0, 1 + np.searchsorted(own, values, "right"))
    return out


def mid_ranks(counts: Floats) -> Floats:
    """For each column (``counts``: float64[columns, bins]) the mid-rank of each bin among the values counted, 0 to 1.

    0.5 everywhere in a column without values; bin 0 (missing) has none, it is 0.
    """
    values = counts[:, 1:]
    total = values.sum(axis=1, keepdims=True)
    below = np.cumsum(values, axis=1) - values
    ranks = np.full(counts.shape, 0.5)
    np.divide(below + _HALF * values, total, out=ranks[:, 1:], where=total > 0)
    ranks[:, 0] = 0.0
    return ranks


def mean_rank(counts: Floats, mids: Floats, least: float = 1.0) -> Floats:
    """Mean of ``mids`` over the values counted (float64[..., columns, bins]); NaN below ``least`` values."""
    total = counts[..., 1:].sum(axis=-1)
    weighted = (counts[..., 1:] * mids[:, 1:]).sum(axis=-1)
    out = np.full(total.shape, np.nan)
    np.divide(weighted, total, out=out, where=total >= max(least, 1e-9))
    return out


def psi(current: Floats, expected: Floats, used: Floats) -> Floats:
    """Population stability index over the last axis. ``used`` (0 or 1, same last axes) are the bins that exist."""
    p, q = _smoothed(current, used), _smoothed(expected, used)
    ratio = np.log(np.divide(p, q, out=np.ones_like(p), where=q > 0), out=np.zeros_like(p), where=p > 0)
    result: Floats = ((p - q) * ratio).sum(axis=-1)
    return result


def ks(current: Floats, expected: Floats) -> Floats:
    """Largest difference of cumulated shares over the last axis; 0 where one side is empty."""
    here, there = current.sum(axis=-1, keepdims=True), expected.sum(axis=-1, keepdims=True)
    both = (here > 0) & (there > 0)
    p = np.divide(current, here, out=np.zeros_like(current), where=both)
    q = np.divide(expected, there, out=np.zeros_like(expected), where=both)
    result: Floats = np.abs(np.cumsum(p - q, axis=-1)).max(axis=-1)
    return result


def _smoothed(counts: Floats, used: Floats) -> Floats:
    raised: Floats = np.maximum(counts, 0.0) + _HALF * used
    raised /= raised.sum(axis=-1, keepdims=True)
    return raised
