"""Verdicts and labels for tests of the offline store; no tests in here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from domain.label_codec import JoinedLabel
from domain.pipeline import Decision, DetectorSpec, EventSpec, Field, FieldType, Pipeline, ValueFeature
from domain.verdict import DecisionName, DetectorOutput, Flag, Source, Verdict, Versions
from featurestore.offline_port import LogRecord

__all__ = ["DAY", "LOG", "NOON", "label", "scored", "small", "verdict_of"]

DAY = 86_400_000_000
NOON = 1_700_049_600_000_000
"""2023-11-15 12:00 UTC."""
LOG = "small.verdicts/1"
_VERSIONS = Versions(code="0.1", pipeline=1, pipeline_digest="d", models={})


def small(*features: str, name: str = "small") -> Pipeline:
    """A pipeline with these features, the detectors hst and forest, and the key entity account."""
    return Pipeline(
        name=name,
        version=1,
        event=EventSpec(
            id="id",
            time="time",
            key="account",
            max_lateness=0,
            max_future=0,
            dedupe_window=0,
            fields=(
                Field(name="id", type=FieldType.STRING, source="id"),
                Field(name="time", type=FieldType.TIMESTAMP, source="time"),
                Field(name="account", type=FieldType.STRING, source="account"),
                Field(name="amount", type=FieldType.NUMBER, source="amount"),
            ),
        ),
        features=tuple(ValueFeature(name=feature, field="amount") for feature in features),
        detectors=tuple(DetectorSpec(name=n, kind="half_space_trees") for n in ("hst", "forest")),
        decision=Decision(),
    )


def verdict_of(
    offset: int,
    *,
    partition: int = 0,
    event_id: str | None = None,
    time: int | None = None,
    features: Mapping[str, float | None] | None = None,
    ranks: tuple[float | None, float | None] = (0.5, None),
    repeat_of: int | None = None,
    **changes: Any,
) -> Verdict:
    """The verdict on the event at ``offset``, which happened ``offset`` seconds after NOON unless told otherwise."""
    topic = "small.events"
    fields: dict[str, Any] = {
        "id": event_id or f"e{partition}-{offset}",
        "event_time": NOON + offset * 1_000_000 if time is None else time,
        "scored_at": NOON + offset,
        "entities": {"account": f"a{offset % 3}", "merchant": "Café {1}"},
        "score": 0.25 + offset / 1e6,
        "decision": DecisionName.ALLOW,
        "reasons": [],
        "features": None if repeat_of is not None else dict(features or {"amount": offset / 3, "tip": None}),
        "detectors": {
            "hst": DetectorOutput(1.5, ranks[0]),
            "forest": DetectorOutput(None, ranks[1], None if ranks[1] is not None else "warming up"),
        },
        "flags": [] if repeat_of is None else [Flag.DUPLICATE],
        "versions": _VERSIONS,
        "source": Source(topic, partition, offset),
        "first": None if repeat_of is None else Source(topic, partition, repeat_of),
    }
    return Verdict(**{**fields, **changes})


def scored(offset: int, **options: Any) -> LogRecord:
    """The same as a record of the topic ``verdicts``, at the event's own offset."""
    made = verdict_of(offset, **options)
    return LogRecord(made.source.partition, offset, msgspec.json.encode(made))


def label(
    offset: int, about: Verdict, known_at: int, value: int | None, previous: int | None = None
) -> LogRecord:
    """A record of ``labels.joined``."""
    record = JoinedLabel(
        id=about.id,
        event_time=about.event_time,
        known_at=known_at,
        label=value,  # type: ignore[arg-type]
        previous=previous,  # type: ignore[arg-type]
        entities=about.entities,
    )
    return LogRecord(about.source.partition, offset, msgspec.json.encode(record))
