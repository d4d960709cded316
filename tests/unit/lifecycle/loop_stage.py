"""Rows, verdicts and a clock for tests of the closed loop; no tests in here.

A stream of two features whose fraud is told by the first of them, and from ``turn`` on by the second. The pipeline's
own ensemble only knows the first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from detectors.model_fit import FitSettings
from domain.examples import Examples
from domain.pipeline import Decision, DetectorSpec, EventSpec, Pipeline, Threshold, ValueFeature
from domain.pipeline_retraining import GateRules, GuardRules, Retraining, ShadowRules
from domain.verdict import DecisionName
from featurestore.offline_port import ExampleCounts, Pin
from lifecycle.live import OWN, ModelSay, Seen
from lifecycle.loop_parts import Vault
from lifecycle.model_keys import ModelKey, TrustedKeys

DAY = 86_400_000_000
HOUR = DAY // 24
START = 1_700_000_000_000_000
PER_DAY = 400
KEY = ModelKey.parse("22" * 32)
VAULT = Vault(KEY, TrustedKeys.parse(KEY.public))
FIT = FitSettings(memory=4_000, table=1_000)

RULES = Retraining(
    schedule=7 * DAY,
    cool_down=DAY,
    min_labels=200,
    min_positive=40,
    label_maturity=2 * DAY,
    window=30 * DAY,
    gate=GateRules(replicates=100, min_positive=20),
    shadow=ShadowRules(events=200, time=6 * HOUR, patience=5 * DAY),
    guards=GuardRules(events=200, time=12 * HOUR),
)

PIPELINE = Pipeline(
    name="payments",
    version=1,
    event=EventSpec(
        id="id", time="at", key="account", max_lateness=0, max_future=0, dedupe_window=0, fields=()
    ),
    features=tuple(ValueFeature(name=name, field=name) for name in ("first", "second")),
    detectors=(DetectorSpec(name="hst", kind="half_space_trees"),),
    decision=Decision(review=Threshold(budget=0.05)),
    digest="d1",
)
LEARNING = Pipeline(
    **{
        **{name: getattr(PIPELINE, name) for name in ("name", "version", "event", "features", "digest")},
        "detectors": (*PIPELINE.detectors, DetectorSpec(name="line", kind="logistic")),
        "decision": Decision(combine="stacked", review=Threshold(budget=0.05)),
    }
)
"""With a detector that learns from labels, and quickly."""


def stream(days: int, *, turn: float | None = None, seed: int = 0, shuffled: bool = False) -> Examples:
    """``days`` of traffic, all labelled a day after the event."""
    rng = np.random.default_rng(seed)
    n = days * PER_DAY
    times = START + (np.arange(n, dtype=np.int64) * DAY) // PER_DAY
    fraud = rng.random(n) < 0.06
    x = rng.normal(size=(n, 2))
    new = (
        times >= START + round((np.inf if turn is None else turn) * DAY)
        if turn is not None
        else np.zeros(n, bool)
    )
    x[fraud & ~new, 0] += 3.0
    x[fraud & new, 1] += 3.0
    own = 1.0 / (1.0 + np.exp(-x[:, 0]))
    ranks = np.column_stack([own, np.full(n, np.nan)])
    y = fraud.astype(np.float64)
    if shuffled:
        y = rng.permutation(y)
    return Examples(x, y, ranks, own, times, times + DAY)


@dataclass
class MemoryRows:
    """:class:`lifecycle.training.TrainingRows` over one array; a pin is how many rows there were."""

    all: Examples
    there: int = -1

    def pin(self) -> Pin:
        return Pin(len(self.all) if self.there < 0 else self.there, 0)

    def _which(self, pin: Pin, start: int, stop: int) -> npt.NDArray[np.intp]:
        times = self.all.times[: pin.verdicts]
        return np.flatnonzero((times >= start) & (times < stop))

    def count(self, pin: Pin, start: int, stop: int, as_of: int) -> ExampleCounts:
        found = self.examples(pin, start, stop, as_of)
        known = ~np.isnan(found.y)
        return ExampleCounts(len(found), int(known.sum()), int((found.y == 1.0).sum()))

    def examples(self, pin: Pin, start: int, stop: int, as_of: int, *, share: float = 1.0) -> Examples:
        which = self._which(pin, start, stop)
        found = self.all.take(which[which % 1000 < share * 1000])
        y = np.where(found.known_at <= as_of, found.y, np.nan)
        return Examples(found.x, y, found.ranks, found.score, found.times, found.known_at)

    def entity(
        self, pin: Pin, start: int, stop: int, as_of: int, name: str, *, share: float = 1.0
    ) -> list[str | None]:
        which = self._which(pin, start, stop)
        return [f"{name}-{row % 97}" for row in which[which % 1000 < share * 1000].tolist()]


def seen(
    at: int,
    *,
    champion: str | None = None,
    challenger: str | None = None,
    own: float | None = 0.5,
    says: Mapping[str, float | None] | None = None,
    alert: bool = False,
    latency: int = 50_000,
) -> Seen:
    """A verdict of the moment ``at``; ``says`` gives scores by version (default 0.5)."""
    says = says or {}
    models: dict[str, ModelSay] = {}
    score = own
    if champion is not None or challenger is not None:
        models[OWN] = ModelSay("own", own)
    if champion is not None:
        said = says.get(champion, 0.5)
        models[champion] = ModelSay("champion", said)
        score = own if said is None else said
    if challenger is not None:
        models[challenger] = ModelSay("challenger", says.get(challenger, 0.5))
    decision = DecisionName.REVIEW if alert else DecisionName.ALLOW
    return Seen(at, at + latency, score, decision, [], models)


@dataclass
class MemoryLive:
    """:class:`lifecycle.loop_parts.LiveVerdicts` over a list; each process has its own, over the same list."""

    log: list[Seen] = field(default_factory=list)
    at: int = 0

    def position(self) -> dict[str, int]:
        return {"0": self.at}

    def rewind(self, position: Mapping[str, int]) -> None:
        self.at = position["0"]

    def read(self) -> Sequence[Seen]:
        found = self.log[self.at :]
        self.at = len(self.log)
        return found
