"""A pipeline whose drift monitors need minutes of event time and little work."""

from __future__ import annotations

import msgspec
import numpy as np

from domain.label_codec import JoinedLabel, Said
from domain.pipeline import Pipeline
from domain.verdict import DecisionName, Source, Verdict, Versions
from lifecycle.drift.settings import Cadence, DriftSettings
from tests.unit.domain.samples import payments

__all__ = ["MINUTE", "START", "labels", "pipeline", "settings", "verdicts"]

MINUTE = 60_000_000
START = 1_700_000_040_000_000
"""A minute's beginning."""
assert START % MINUTE == 0

_TINY = Cadence(
    cell=MINUTE,
    cycle=1,
    season=1,
    warm_up=3,
    reference=24,
    window=4,
    block=4,
    horizon=60,
    prime=12,
    recent=12,
    latest=4,
    min_window=20,
    floor=0.3,
)


def settings(**changes: object) -> DriftSettings:
    """Minutes, for both banks; no lateness, and labels mature in ten minutes."""
    fields = {
        "traffic": _TINY,
        "labels": _TINY,
        "per_month": 60.0,  # a month has 720 of their horizons
        "simulations": 20,
        "cool_down": 60 * MINUTE,
        "maturity": 10 * MINUTE,
        "lateness": 0,
    }
    return DriftSettings(**{**fields, **changes})  # type: ignore[arg-type]


def pipeline(name: str = "payments") -> Pipeline:
    """With the features amount and shop_count."""
    return msgspec.structs.replace(payments(), name=name)


def verdicts(
    made_by: Pipeline, minutes: range, *, partitions: int = 2, each: int = 20, shift: float = 0.0
) -> list[Verdict]:
    """``each`` verdicts a minute, in order of event time and spread over partitions; ``shift`` moves the amount."""
    versions = Versions(code="0.1", pipeline=1, pipeline_digest=made_by.digest, models={})
    made = []
    for minute in minutes:
        rng = np.random.default_rng([7, minute])
        for number in range(each):
            serial = minute * each + number
            place = Source(
                topic=f"{made_by.name}.events", partition=serial % partitions, offset=serial // partitions
            )
            made.append(
                Verdict(
                    id=f"e{serial}",
                    event_time=START + minute * MINUTE + number * MINUTE // each,
                    scored_at=START,
                    entities={},
                    score=float(rng.random()),
                    decision=DecisionName.ALLOW if number else DecisionName.REVIEW,
                    reasons=[],
                    features={"amount": float(rng.normal()) + shift, "shop_count": 1.0},
                    detectors={},
                    flags=[],
                    versions=versions,
                    source=place,
                )
            )
    return made


def labels(minutes: range, *, each: int = 10, score: float = 0.9) -> list[JoinedLabel]:
    """Events that turned out to be fraud, known five minutes later; ``score`` is what they got, about."""
    made = []
    for minute in minutes:
        rng = np.random.default_rng([8, minute])
        for number in range(each):
            said = Said(features={}, ranks={}, score=float(np.clip(score + rng.normal(0, 0.05), 0, 1)))
            at = START + minute * MINUTE + number * MINUTE // each
            made.append(
                JoinedLabel(
                    id=f"e{minute}-{number}",
                    event_time=at,
                    known_at=at + 5 * MINUTE,
                    label=1,
                    entities={},
                    said=said,
                )
            )
    return made
