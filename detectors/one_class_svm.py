"""One-class support vector machine, learned row by row on random Fourier features.

The boundary is that of Schölkopf, Platt, Shawe-Taylor, Smola, Williamson, "Estimating the support of a
high-dimensional distribution", Neural Computation 13(7), 2001. The kernel is replaced by the random features
of Rahimi and Recht (NIPS 2007), on which the machine is linear, and the objective is followed by stochastic
gradient steps (Pegasos: Shalev-Shwartz, Singer, Srebro, Cotter, 2011).

The kernel is the rational quadratic one, 1 / (1 + gamma |a - b|^2): Gaussians of all widths, mixed. A single
Gaussian must be as wide as the data, or rows far away from it all look alike; this one needs no such choice.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from detectors.arrays import Arrays, child, merge
from detectors.kernels_svm import score_rows, step_rows
from detectors.online import OnlineDetector, take_over
from detectors.scaling import RobustScale
from domain.batch import Floats

__all__ = ["OneClassSVM"]

_PASSES = 5
"""Times the rows of the warm-up are learned: one pass of a few hundred steps is far from the optimum."""


class OneClassSVM(OnlineDetector):
    """A one-class support vector machine over the columns ``features``.

    nu          share of rows that may lie outside of the boundary
    gamma       of the kernel 1 / (1 + gamma |a - b|^2) on scaled rows; None: 1 / number of features
    components  random frequencies, each a cosine and a sine; the kernel's error falls with their square root
    memory      rows over which it forgets; the step size does not fall below 1 / memory
    warm_up     rows before it scores; they give the first scale and are then learned

    Values are scaled by median and interquartile range and compressed far out (:mod:`detectors.scaling`; a new
    scale is taken over only when the old one is far off); a missing value lies at the median. The score is the
    distance by which the row lies outside of the boundary, in units of the kernel: negative inside.
    """

    def __init__(
        self,
        features: Sequence[str],
        *,
        seed: int,
        nu: float = 0.5,
        gamma: float | None = None,
        components: int = 128,
        memory: int = 20_000,
        warm_up: int = 500,
    ) -> None:
        if not features:
            raise ValueError("one_class_svm needs at least one feature")
        identity = [list(features), seed, nu, gamma, components, memory, warm_up]
        super().__init__("one_class_svm", warm_up, identity)
        width = len(features)
        rng = np.random.default_rng(seed)
        # frequencies of one Gaussian are normal; the widths of the mixture are exponential
        spread = np.sqrt(2.0 * (1.0 / width if gamma is None else gamma) * rng.exponential(size=components))
        self._frequencies = rng.normal(size=(width, components)) * spread
        self._nu = nu
        self._start = 10.0 / nu  # the first step moves the boundary by a tenth at most
        self._memory = max(float(memory), self._start)
        self._scale = RobustScale(width, seed, warm_up, anchored=True, horizon=memory)
        self._weights = np.zeros(2 * components)
        self._rho = np.zeros(1)

    def score(self, x: Floats) -> Floats:
        """Distance outside of the boundary (float64[n]) without learning; NaN during the warm-up."""
        out = np.full(x.shape[0], np.nan)
        if self.ready:
            score_rows(
                np.ascontiguousarray(x),
                self._scale.center,
                self._scale.scale,
                self._frequencies,
                self._weights,
                self._rho,
                out,
            )
        return out

    def step(self, x: Floats) -> Floats:
        """Score each row, then learn it."""
        n = x.shape[0]
        out = np.full(n, np.nan)
        at = 0
        while at < n:
            stop = min(n, at + self._scale.until_refresh())
            part = np.ascontiguousarray(x[at:stop])
            if self.ready:
                self._learn(part, self._seen + (_PASSES - 1) * self._warm_up, out[at:stop])
            self._scale.add(part)
            was_ready = self.ready
            self._seen += stop - at
            if self.ready and not was_ready:
                for turn in range(_PASSES):
                    self._learn(self._scale.rows, turn * self._warm_up, np.empty(self._warm_up))
            at = stop
        return out

    def snapshot(self) -> Arrays:
        """Weights, boundary and scale; the frequencies follow from the parameters."""
        own = Arrays({name: array.copy() for name, array in self._arrays().items()}, self._scalars())
        return merge({"scale": self._scale.snapshot()}, own)

    def restore(self, state: Arrays) -> None:
        """Take over a snapshot. Raises ValueError when it has other parameters."""
        seen = self._checked(state)
        self._scale.restore(child(state, "scale"))
        take_over(self._arrays(), state, "one_class_svm")
        self._seen = seen

    def _arrays(self) -> dict[str, npt.NDArray[Any]]:
        return {"weights": self._weights, "rho": self._rho}

    def _learn(self, x: Floats, learned: int, out: Floats) -> None:
        step_rows(
            x,
            self._scale.center,
            self._scale.scale,
            self._frequencies,
            self._weights,
            self._rho,
            learned,
            self._nu,
            self._start,
            self._memory,
            out,
        )
