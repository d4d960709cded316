"""When a model that follows a stream is fitted anew, and which rows it may learn: by row counts, never by time.

Both are functions of the number of rows so far, so batches and restarts have no part in them.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["PROBATION", "next_fit", "rows_until", "trusted"]

PROBATION = 2_000
"""Newest rows that nothing learns from yet (see :func:`trusted`): longer than bursts usually are."""


def next_fit(seen: int, first: int, every: int) -> int:
    """Row count of the fit after ``seen`` rows: ``first``, then each time the stream has doubled, at most ``every`` on.

    A uniform sample of the past changes by half while its stream doubles, so early fits must be close and
    later ones need not be: a short file gets many, and a long one is not stopped all the time.

    >>> [next_fit(seen, 64, 400) for seen in (0, 63, 64, 128, 512, 912)]
    [64, 64, 128, 256, 912, 1312]
    """
    return first if seen < first else seen + min(seen, every)


def rows_until(teach: npt.NDArray[np.bool_] | None, at: int, stop: int, count: int) -> int:
    """The row after the ``count``-th that teaches, from row ``at`` on; ``stop`` when there are fewer before it.

    ``teach`` marks the rows that teach; None: all do.

    >>> rows_until(np.array([True, False, True, False]), 0, 4, 2)
    3
    """
    if teach is None:
        return min(stop, at + count)
    taught = np.flatnonzero(teach[at:stop])
    return at + int(taught[count - 1]) + 1 if len(taught) >= count else stop


def trusted(seen: int, first: int) -> int:
    """Rows with an index below this may be learned when ``seen`` have come; the newer ones are on probation.

    A burst of attacks that is learned while it lasts becomes what is usual, and hides itself. So three
    quarters of the stream, at most the newest :data:`PROBATION` rows, wait; the ``first`` rows never do,
    or there would be nothing to begin with. A change that lasts gets through once it is older than that.

    >>> [trusted(seen, 64) for seen in (10, 64, 256, 1024, 50_000)]
    [64, 64, 64, 256, 48000]
    """
    return max(first, seen - min(PROBATION, seen * 3 // 4))
