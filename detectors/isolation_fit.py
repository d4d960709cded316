"""Fitting the trees of an isolation forest by scikit-learn, without what its ensemble costs around them.

``sklearn.ensemble.IsolationForest.fit`` spends three quarters of its time on cloning estimators and checking
parameters, which stalls a stream for as long. This draws the same numbers in the same order and has each tree
grown by scikit-learn's ExtraTreeRegressor: the forests have the same bits (tests compare them).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from detectors.kernels_trees import Float32s
from domain.batch import Floats

__all__ = ["isolation_trees"]

_MOST = np.iinfo(np.int32).max


def isolation_trees(
    x: Float32s, *, trees: int, samples: int, max_features: float, seed: int
) -> Iterator[tuple[Any, npt.NDArray[np.intp]]]:
    """scikit-learn's tree and the columns it is about, for each of ``trees``.

    x             float32[rows, columns], finite
    samples       rows each tree is grown from, at most all
    max_features  share of the columns that each tree sees, at least one
    """
    # imported where it is needed: loading scikit-learn takes seconds, and only fitting needs it
    from sklearn import config_context
    from sklearn.tree import ExtraTreeRegressor
    from sklearn.utils.random import sample_without_replacement

    rows, width = x.shape
    samples = min(samples, rows)
    columns = max(1, int(max_features * width))
    depth = int(np.ceil(np.log2(max(samples, 2))))
    # an existing generator is seeded anew: to make one asks the system for entropy first
    draws, of_tree = np.random.RandomState(seed), np.random.RandomState(0)
    y: Floats = np.asarray(draws.uniform(size=rows))
    draws.seed(seed)
    seeds = draws.randint(_MOST, size=trees)
    with config_context(assume_finite=True, skip_parameter_validation=True):
        for own in seeds.tolist():
            draws.seed(own)
            of_tree.seed(draws.randint(_MOST))
            draws.seed(own)
            drawn = sample_without_replacement(width, columns, random_state=draws)
            seen = np.arange(width) if columns == width else drawn
            sample = np.sort(sample_without_replacement(rows, samples, random_state=draws))
            tree = ExtraTreeRegressor(
                max_features=1, splitter="random", max_depth=depth, random_state=of_tree
            )
            part = x[sample] if columns == width else np.ascontiguousarray(x[sample][:, seen])
            tree.fit(part, y[sample], check_input=False)
            yield tree.tree_, seen
