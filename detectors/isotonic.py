"""Shares that do not fall: the one isotonic regression behind probabilities and thresholds."""

from __future__ import annotations

import numpy as np

from domain.batch import Floats

__all__ = ["isotonic"]


def isotonic(hits: Floats, total: Floats) -> Floats:
    """Shares hits / total (float64[n]) made non-decreasing by pooling; where total is 0, that of the place below.

    The fit with the least weighted squares, by pooling adjacent violators (Ayer, Brunk, Ewing, Reid, Silverman, Annals
    of Mathematical Statistics 26, 1955). Pooled places have equal bits.

    >>> isotonic(np.array([1.0, 0.0, 2.0, 0.0]), np.array([2.0, 2.0, 2.0, 0.0])).tolist()
    [0.25, 0.25, 1.0, 1.0]
    """
    blocks: list[tuple[float, float, int]] = []
    for h, n in zip(hits.tolist(), total.tolist(), strict=True):
        block = (h, n, 1)
        if n <= 0.0:
            # nothing known: belongs to what is below it
            last = blocks.pop() if blocks else (0.0, 0.0, 0)
            blocks.append((last[0], last[1], last[2] + 1))
            continue
        while blocks and blocks[-1][0] * block[1] >= block[0] * blocks[-1][1]:
            last = blocks.pop()
            block = (last[0] + block[0], last[1] + block[1], last[2] + block[2])
        blocks.append(block)
    return np.repeat([h / n if n > 0.0 else 0.0 for h, n, _ in blocks], [size for _, _, size in blocks])
