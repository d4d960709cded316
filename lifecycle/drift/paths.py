"""How far each kind of monitor goes on a stream: the largest statistic, for many streams and columns at once.

The sequential ones are computed here a second time, for thousands of streams side by side; tests hold them against
River's classes. ADWIN is River's own.
"""

from __future__ import annotations

import random

import numpy as np

from domain.batch import Floats, Ints
from lifecycle.drift.expectation import Expectation
from lifecycle.drift.histogram import ks, psi
from lifecycle.drift.sequential import FORGETTING, LADDER, adwin_level, strengths
from lifecycle.drift.settings import Cadence

__all__ = [
    "KINDS",
    "WINDOWED",
    "in_spells",
    "largest_kswin",
    "largest_sequential",
    "least_events",
    "page_hinkley",
    "window_statistics",
]

WINDOWED = ("psi", "ks")
KINDS = (*WINDOWED, "page_hinkley", "adwin", "kswin")


def window_statistics(
    counts: Floats, slots: Ints, expected: Expectation, used: Floats, cadence: Cadence, least: float
) -> tuple[Floats, Floats]:
    """PSI and KS (float64[cells, columns]) of the ``window`` cells that end with each cell; 0 below ``least`` events.

    What is expected of a window are the shares of its slots, each weighed with the events that its cell held.
    """
    due = expected.shares[slots] * counts.sum(axis=2, keepdims=True)
    current, reference = _rolling(counts, cadence.window), _rolling(due, cadence.window)
    current = np.maximum(current, 0.0)
    enough = reference.sum(axis=2) >= least
    return (
        np.where(enough, psi(current, reference, used), 0.0),
        np.where(enough, ks(current, reference), 0.0),
    )


def least_events(counts: Floats, cadence: Cadence) -> float:
    """How many events a window must hold to be compared: half of what the emptiest window of the reference held.

    Shares of fewer events scatter more than those from which the thresholds come.
    """
    held = _rolling(counts[:, 0].sum(axis=1), cadence.window)[cadence.window - 1 :]
    return max(float(cadence.min_window), 0.5 * float(held.min()))


def _rolling(cells: Floats, window: int) -> Floats:
    total = np.cumsum(cells, axis=0)
    out: Floats = total.copy()
    out[window:] -= total[:-window]
    return out


def page_hinkley(z: Floats, slack: float) -> Floats:
    """River's Page-Hinkley statistic (float64[cells, ...]) after each cell of ``z`` (float64[cells, ...])."""
    mean, up, down = (np.zeros(z.shape[1:]) for _ in range(3))
    lowest, highest = np.full(z.shape[1:], np.inf), np.full(z.shape[1:], -1.0)
    out = np.empty_like(z)
    for at, value in enumerate(z):
        mean = mean + (value - mean) / (at + 1)
        off = value - mean
        up, down = FORGETTING * up + off - slack, FORGETTING * down + off + slack
        lowest, highest = np.minimum(lowest, up), np.maximum(highest, down)
        out[at] = np.maximum(up - lowest, highest - down)
    return out


def in_spells(path: Floats, spells: int) -> Floats:
    """The largest values of ``path`` (float64[cells, ...]) in each of ``spells`` equally long parts of it."""
    parts: Floats = np.stack([part.max(axis=0) for part in np.array_split(path, spells)])
    return parts


def largest_kswin(z: Floats, cadence: Cadence, seed: int, spells: int) -> Floats:
    """The largest strengths (-log10 p) that KSWIN finds in ``z`` (float64[prime + cells, n]) after ``prime`` cells.

    float64[spells, n]
    """
    size, latest = cadence.recent, cadence.latest
    rng = random.Random(seed)  # noqa: S311  (River draws so)
    most = np.zeros((len(z) - cadence.prime, z.shape[1]), dtype=np.int64)
    step = np.concatenate([np.full(latest, -1), np.full(latest, 1)])
    for end in range(size, len(z) + 1):
        drawn = rng.sample(range(size - latest), latest)
        if end <= cadence.prime:
            continue
        window = z[end - size : end]
        both = np.concatenate([window[drawn], window[size - latest :]])
        order = np.argsort(both, axis=0, kind="stable")
        sums = np.cumsum(step[order], axis=0)
        ranked = np.take_along_axis(both, order, axis=0)
        # within equal values the cumulated shares are not those of any value
        last = np.vstack([ranked[1:] != ranked[:-1], np.ones((1, z.shape[1]), dtype=np.bool_)])
        most[end - 1 - cadence.prime] = (np.abs(sums) * last).max(axis=0)
    return in_spells(np.array(strengths(latest))[most], spells)


def largest_sequential(z: Floats, cadence: Cadence, seed: int, spells: int) -> Floats:
    """Of each path in ``z`` (float64[prime + horizon, streams, columns]) the largest statistics after ``prime``.

    float64[spells, streams, columns, 3], in the order of :data:`lifecycle.drift.sequential.SEQUENTIAL`. ADWIN's class
    does not tell when it came closest: its largest stands in the first spell.
    """
    length, streams, columns = z.shape
    out = np.empty((spells, streams, columns, 3))
    out[..., 0] = in_spells(page_hinkley(z, cadence.slack)[cadence.prime :], spells)
    flat = z.reshape(length, -1)
    out[..., 1] = LADDER[0] - 1.0
    levels = [adwin_level(path, cadence.prime) for path in flat.T.tolist()]
    out[0, ..., 1] = np.reshape(levels, (streams, columns))
    out[..., 2] = largest_kswin(flat, cadence, seed, spells).reshape(spells, streams, columns)
    return out
