"""What live verdicts say of the models in force, summed up: the evidence of shadow and guards.

A tally is a pure fold over verdicts. Whoever restarts reads them again from the same place and has the same tally.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec
import numpy as np

from domain.pipeline import Pipeline
from domain.verdict import DecisionName, Flag

__all__ = ["OWN", "LiveTally", "ModelSay", "Seen", "Side", "alert_share", "decode_seen"]

OWN = "own"
"""Stands for the pipeline's own ensemble where a model's version could."""
_LATENCIES = 4_096
"""Of latencies so many are kept, by turns: enough for a median."""


def alert_share(pipeline: Pipeline) -> float:
    """The share of traffic that may be alerts: the pipeline's budget for reviews, 1 % where it declares another aim."""
    for _, threshold in pipeline.decision.thresholds:
        if threshold.budget is not None:
            return threshold.budget
    return 0.01


class ModelSay(msgspec.Struct, frozen=True, gc=False):
    """What one model said of an event; None: it could not say."""

    role: str
    score: float | None = None
    probability: float | None = None


class RuleSay(msgspec.Struct, frozen=True, gc=False):
    """Whether a rule that hit made the decision."""

    decided: bool = False


class Seen(msgspec.Struct, frozen=True, gc=False):
    """What is needed of a verdict."""

    event_time: int
    scored_at: int
    score: float | None
    decision: DecisionName
    flags: list[str]
    models: dict[str, ModelSay] = {}
    rules: list[RuleSay] = []

    @property
    def alert(self) -> bool:
        """Whether the model's score made it one: what a rule stops is no fault of the model."""
        return self.decision is not DecisionName.ALLOW and not any(rule.decided for rule in self.rules)

    @property
    def decider(self) -> str:
        """Whose score was to decide: the champion's version, or ``own``."""
        for version, say in self.models.items():
            if say.role == "champion":
                return version
        return OWN


_decode = msgspec.json.Decoder(Seen).decode


def decode_seen(value: bytes) -> Seen | None:
    """A verdict off the topic; None for what is none, and for repeats, which nobody scored."""
    try:
        seen = _decode(value)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return None
    return None if Flag.DUPLICATE in seen.flags else seen


class Side:
    """Counts of the events that one model, as decider or challenger, was asked about."""

    def __init__(self) -> None:
        self.events = 0
        self.failures = 0
        """It gave no score though the ensemble or the other model did."""
        self.high = 0
        """It placed the event within the budget's share."""
        self.alerts = 0
        """The verdict was a review or a block, and not by a rule (deciders only)."""
        self.first: int | None = None
        self.last: int | None = None
        """Event times of the oldest and newest event."""
        self._latencies: list[int] = []

    def add(
        self, seen: Seen, score: float | None, others: float | None, limit: float, *, decides: bool
    ) -> None:
        """Count one event; ``others`` is what somebody else scored it."""
        self.first = seen.event_time if self.first is None else min(self.first, seen.event_time)
        self.last = seen.event_time if self.last is None else max(self.last, seen.event_time)
        if decides:
            latency = seen.scored_at - seen.event_time
            if len(self._latencies) < _LATENCIES:
                self._latencies.append(latency)
            else:
                self._latencies[self.events % _LATENCIES] = latency
            self.alerts += seen.alert
        self.events += 1
        self.failures += score is None and others is not None
        self.high += score is not None and score >= limit

    @property
    def latency(self) -> int | None:
        """Median of the newest latencies, microseconds from the event's time to its verdict."""
        return round(float(np.median(self._latencies))) if self._latencies else None

    def summary(self) -> dict[str, Any]:
        """As JSON values: what a run keeps."""
        return {
            "events": self.events,
            "failures": self.failures,
            "high": self.high,
            "alerts": self.alerts,
            "first": self.first,
            "last": self.last,
            "latency": self.latency,
        }


class LiveTally:
    """Sides by who decided, and those of a challenger beside its champion.

    ``budget``: the share of traffic that may be alerts; a score within it counts as high.
    """

    def __init__(self, budget: float) -> None:
        self._limit = 1.0 - budget
        self.now: int | None = None
        """Stream time: the newest event time seen."""
        self.deciders: dict[str, Side] = {}
        self.challengers: dict[str, Side] = {}
        self.beside: dict[str, Side] = {}
        """By challenger: what decided the same events."""

    def add(self, verdicts: Iterable[Seen]) -> None:
        """Count verdicts in."""
        for seen in verdicts:
            self.now = seen.event_time if self.now is None else max(self.now, seen.event_time)
            own = seen.models.get(OWN)
            fallback = seen.score if own is None else own.score
            decider = seen.decider
            # without what rules added to it
            said = fallback if decider == OWN else seen.models[decider].score
            self.deciders.setdefault(decider, Side()).add(seen, said, fallback, self._limit, decides=True)
            for version, say in seen.models.items():
                if say.role == "challenger":
                    challenger = self.challengers.setdefault(version, Side())
                    challenger.add(
                        seen, say.score, said if said is not None else fallback, self._limit, decides=False
                    )
                    beside = self.beside.setdefault(version, Side())
                    beside.add(seen, said, say.score, self._limit, decides=False)
