"""When a model that follows a stream is fitted anew: at row counts, never at times or batches."""

from __future__ import annotations

__all__ = ["next_fit"]


def next_fit(seen: int, first: int, every: int) -> int:
    """Row count of the fit after ``seen`` rows: ``first``, then whenever the stream has doubled, at most ``every`` on.

    A uniform sample of the past changes by at most half while its stream doubles, so early fits must be
    close and later ones need not be: a short file gets many, and a long one is not stopped all the time.

    >>> [next_fit(seen, 64, 400) for seen in (0, 63, 64, 128, 512, 912)]
    [64, 64, 128, 256, 912, 1312]
    """
    return first if seen < first else seen + min(seen, every)
