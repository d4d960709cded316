"""Thresholds that keep the declared rate of false alarms over all columns and monitors together.

Every monitor gets the same chance of a false alarm in a month: its threshold is the same quantile of the largest
statistic it reached in each simulated month. Which quantile, follows from what is to hold of all of them: the mean
number of alarms in a month, where a column raises at most one in each *spell*, as long as the cool-down. It is
estimated crosswise, on those simulated months that did not set the threshold (as the thresholds are extremes, they
would look better on their own months). Compare Westfall and Young, "Resampling-based multiple testing" (1993). Monitors
of one column that fire together are one alarm, so they are not corrected for as if they were independent.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from domain.batch import Floats
from lifecycle.drift.expectation import Expectation, standardised
from lifecycle.drift.paths import KINDS, WINDOWED, in_spells, largest_sequential, window_statistics
from lifecycle.drift.settings import MONTH, Cadence
from lifecycle.drift.streams import resampled

__all__ = ["MARGIN", "Calibration", "calibrate", "largest_in_months", "thresholds_for"]

MARGIN = 0.5
"""Thresholds are set for this part of the declared rate. Four weeks do not hold all that a stationary stream can do: in
benchmarks/drift.py thresholds for one simulated alarm a month let 1.6 pass in 30 days of fresh traffic."""
_CHUNK = 16
"""Columns that are simulated at once: about 100 MB for 200 months of hours."""
_TAIL = 0.1
"""Share of the months from which the tail is extrapolated, where the months are too few."""


@dataclass(frozen=True, slots=True)
class Calibration:
    """Thresholds (float64[columns, kinds]; a monitor fires when it *exceeds* its own) and what they are worth.

    ``chance`` is each monitor's chance of a false alarm in a simulated month; ``per_month`` how many alarms they raised
    together in 30 simulated days. ``extrapolated``: the months were too few to see such rare alarms.
    """

    thresholds: Floats
    chance: float
    per_month: float
    extrapolated: bool


def calibrate(
    counts: Floats,
    first: int,
    expected: Expectation,
    used: Floats,
    cadence: Cadence,
    *,
    least: float,
    spells: int,
    per_month: float,
    simulations: int,
    seed: int,
) -> Calibration:
    """Simulate months like the reference ``counts`` and choose thresholds for ``per_month`` false alarms in 30 days.

    With a margin, see :data:`MARGIN`. Windows of fewer than ``least`` events are not compared
    (:func:`lifecycle.drift.paths.least_events`). A month has ``spells``, in each of which a column is counted once.
    """
    largest = largest_in_months(
        counts, first, expected, used, cadence, least=least, spells=spells, simulations=simulations, seed=seed
    )
    months = cadence.horizon * cadence.cell / MONTH
    found = thresholds_for(largest, MARGIN * per_month * months)
    thresholds = found.thresholds
    windowed = slice(0, len(WINDOWED))
    thresholds[:, windowed] = np.maximum(thresholds[:, windowed], cadence.floor)
    thresholds[:, KINDS.index("page_hinkley")] = np.maximum(
        thresholds[:, KINDS.index("page_hinkley")], cadence.sway
    )
    return Calibration(thresholds, found.chance, found.per_month / months, found.extrapolated)


def largest_in_months(
    counts: Floats,
    first: int,
    expected: Expectation,
    used: Floats,
    cadence: Cadence,
    *,
    least: float,
    spells: int,
    simulations: int,
    seed: int,
) -> Floats:
    """The largest statistics of each part of each month, float64[simulations, spells, columns, kinds]."""
    columns = counts.shape[1]
    out = np.empty((simulations, spells, columns, len(KINDS)))
    prime = cadence.prime
    for start in range(0, columns, _CHUNK):
        part = slice(start, min(start + _CHUNK, columns))
        z = np.empty((prime + cadence.horizon, simulations, part.stop - part.start))
        streams = resampled(
            counts, first, expected, used, cadence, count=simulations, seed=seed, columns=part
        )
        for number, stream in enumerate(streams):
            statistics = window_statistics(
                stream.counts, stream.slots, stream.expected, used[part], cadence, least
            )
            for kind, path in enumerate(statistics):
                out[number, :, part, kind] = in_spells(path[prime:], spells)
            z[:, number] = standardised(stream.counts, stream.slots, stream.expected, cadence)
        largest = largest_sequential(z, cadence, seed, spells)
        out[:, :, part, len(WINDOWED) :] = largest.transpose(1, 0, 2, 3)
    return out


def thresholds_for(largest: Floats, alarms: float) -> Calibration:
    """The lowest thresholds that raise at most ``alarms`` in a month.

    ``largest`` are the largest statistics, float64[months, spells, columns, kinds].
    ``per_month`` of the answer is per simulated month.
    """
    months = len(largest)
    halves = (largest[0::2], largest[1::2])
    half = min(len(part) for part in halves)
    held, rank, before = 0.0, 0, 0.0
    while rank < half and held <= alarms:
        rank, before = rank + 1, held
        held = (_raised(*halves, rank) + _raised(*halves[::-1], rank)) / 2.0
    # between two ranks the alarms grow evenly, as far as anybody can tell
    part = 1.0 if held <= alarms else (alarms - before) / (held - before)
    chance = (rank - 1 + part) / (half + 1)
    ordered = -np.sort(-largest.max(axis=1), axis=0)
    place = chance * months
    if place >= 1.0:
        low = min(int(place), months - 1)
        share = place - int(place)
        thresholds = ordered[low - 1] + share * (ordered[low] - ordered[low - 1])
        return Calibration(thresholds, chance, min(held, alarms), False)
    # rarer than these months can show: an exponential tail beyond the largest tenth of them
    tail = max(2, round(_TAIL * months))
    base = ordered[tail]
    beyond = (ordered[:tail] - base).mean(axis=0)
    return Calibration(base + beyond * math.log(tail / place), chance, alarms, True)


def _raised(own: Floats, others: Floats, rank: int) -> float:
    """Alarms a month in ``others`` under the ``rank``-th largest of ``own``."""
    threshold = -np.sort(-own.max(axis=1), axis=0)[rank - 1]
    return float((others > threshold).any(axis=3).sum(axis=(1, 2)).mean())
