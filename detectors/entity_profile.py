"""Distance of an event from its entity's own past.

What is usual for an entity is state of that entity, and lives with all other such state in the feature store:
the detector reads features such as the mean, standard deviation and count of the entity's earlier values, and
keeps only what is usual for the population. Entities with few events are judged mostly by the population,
those with many by themselves (empirical Bayes: Efron, Morris, "Data analysis using Stein's estimator and its
generalizations", JASA 70, 1975).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

import msgspec
import numpy as np
from msgspec import Meta

from detectors.arrays import Arrays, child, merge
from detectors.kernels_profile import score_rows
from detectors.online import OnlineDetector
from detectors.scaling import RobustScale
from domain.batch import Floats

__all__ = ["EntityProfile", "Profile"]

_ASSUMED = 10.0
"""Events an entity counts as having when no count is declared: enough for its mean, too few for its spread."""

_SMALLEST = 1e-60
"""Smaller spreads count as this: their squares must not vanish."""

_SIDES = {"above": 1, "below": -1, "both": 0}

_Name = Annotated[str, Meta(min_length=1, max_length=64)]


class Profile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Features that describe one value and its entity's past; ``suspicious`` says on which side it is odd."""

    value: _Name
    mean: _Name
    std: _Name
    count: _Name | None = None
    suspicious: Literal["above", "below", "both"] = "above"

    def named(self) -> list[str]:
        """The features it names."""
        return [self.value, self.mean, self.std, *([] if self.count is None else [self.count])]


class EntityProfile(OnlineDetector):
    """Compares values with their entities' own past over the columns ``features``.

    profiles  which features belong together; all must be among ``features``
    prior     how many events of its own the population's spread is worth for an entity; many, as odd values
              in its past widen an entity's spread, and few events with heavy tails say little about it
    warm_up   rows before it scores; until then only the population is learned

    The score is the root mean square, over the profiles whose value is there, of the standardised distances
    on the suspicious side; 0 when no value is there. Raises ValueError for a feature that is not there.
    """

    def __init__(
        self,
        features: Sequence[str],
        *,
        seed: int,
        profiles: Sequence[Profile],
        prior: float = 20.0,
        warm_up: int = 500,
    ) -> None:
        if not profiles:
            raise ValueError("entity_profile needs at least one entry in profiles")
        names = list(features)
        for profile in profiles:
            for name in profile.named():
                if name not in names:
                    raise ValueError(f"profiles name {name!r}, which is no feature of this detector")
        described = [[*profile.named(), profile.suspicious] for profile in profiles]
        super().__init__("entity_profile", warm_up, [names, seed, described, prior, warm_up])
        self._columns = np.array(
            [
                [
                    *(names.index(name) for name in (p.value, p.mean, p.std)),
                    -1 if p.count is None else names.index(p.count),
                ]
                for p in profiles
            ],
            dtype=np.int32,
        )
        self._sides = np.array([_SIDES[p.suspicious] for p in profiles], dtype=np.int32)
        self._prior = float(prior)
        self._read = np.concatenate([self._columns[:, 1], self._columns[:, 2]])
        self._scale = RobustScale(self._read.size, seed, warm_up)

    def score(self, x: Floats) -> Floats:
        """Distances (float64[n], 0 or more) without learning; NaN during the warm-up."""
        out = np.full(x.shape[0], np.nan)
        if self.ready:
            self._score(x, out)
        return out

    def step(self, x: Floats) -> Floats:
        """Score each row, then learn what is usual for the population."""
        n = x.shape[0]
        out = np.full(n, np.nan)
        at = 0
        while at < n:
            stop = min(n, at + self._scale.until_refresh())
            if self.ready:
                self._score(x[at:stop], out[at:stop])
            self._scale.add(np.ascontiguousarray(x[at:stop, self._read]))
            self._seen += stop - at
            at = stop
        return out

    def snapshot(self) -> Arrays:
        """The population's sample."""
        return merge({"scale": self._scale.snapshot()}, Arrays({}, self._scalars()))

    def restore(self, state: Arrays) -> None:
        """Take over a snapshot. Raises ValueError when it has other parameters."""
        seen = self._checked(state)
        self._scale.restore(child(state, "scale"))
        self._seen = seen

    def _score(self, x: Floats, out: Floats) -> None:
        count = self._sides.size
        usual = self._scale.center[:count]
        between = np.maximum(self._scale.scale[:count], _SMALLEST)
        within = self._scale.center[count:]
        # no entity has a spread yet, or most have none: then that of the means must do
        within = np.where(within > _SMALLEST, within, between)
        rows = np.ascontiguousarray(x)
        score_rows(rows, self._columns, self._sides, usual, between, within, self._prior, _ASSUMED, out)
