"""The ``retraining:`` section of a pipeline file: when to train, and what a new model has to prove.

The section changes no verdict by itself, so the pipeline's digest leaves it out. Durations are microseconds of stream
time (event time), shares lie between 0 and 1. docs/training.md tells what each setting does.
"""

from __future__ import annotations

from typing import Any

import msgspec

from domain.durations import format_duration, parse_duration
from domain.pipeline_reader import Section, did_you_mean

__all__ = [
    "RETRAINING_SCHEMA",
    "GateRules",
    "GuardRules",
    "Retraining",
    "ShadowRules",
    "read_retraining",
]

_HOUR, _DAY = parse_duration("1h"), parse_duration("1d")
EXAMPLE = "retraining: {schedule: 7d, label_maturity: 7d}"


class GateRules(msgspec.Struct, frozen=True, kw_only=True):
    """What a challenger has to show on the later slice before it may see live traffic.

    ``test``: the newest share of the matured positives, kept from fitting. ``margin``: how far the lower end of the
    interval of the difference in average precision may lie below zero; 0 asks for a proof that it is better.
    ``level`` of that interval; ``replicates`` of the bootstrap. ``min_positive``: positives in the slice.
    ``max_ratio``: of false alarms of a group to those of the others. ``max_prevalence_ratio``: by how much the share
    of positives may differ between both slices before the labels themselves are doubted. ``leaks``: whether a
    feature that tells the label refuses (``refuse``) or is only written on the card (``warn``).
    """

    test: float = 0.3
    margin: float = 0.0
    level: float = 0.9
    replicates: int = 400
    min_positive: int = 20
    max_ratio: float = 1.25
    max_prevalence_ratio: float = 5.0
    leaks: str = "refuse"


class ShadowRules(msgspec.Struct, frozen=True, kw_only=True):
    """What it has to show beside the champion: at least ``events`` scored and ``time`` of stream time.

    ``max_failures``: share of events on which it gave no score though the champion did. ``max_alert_ratio``: how many
    times the champion's alerts (or how few: one over it) it would have raised above the champion's present limit.
    ``patience``: stream time after which a shadow that never got its events is given up.
    """

    events: int = 5_000
    time: int = _DAY
    max_failures: float = 0.001
    max_alert_ratio: float = 3.0
    patience: int = 14 * _DAY


class GuardRules(msgspec.Struct, frozen=True, kw_only=True):
    """What would undo a promotion, watched for ``time`` of stream time after it, from ``events`` events on.

    ``max_alert_ratio``: alert rate against that before the promotion, either way. ``max_failures``: share of events
    that the champion could not score. ``max_latency_ratio``: median time from event to verdict against before.
    ``min_precision_ratio``: precision among matured alerts against before.
    """

    events: int = 1_000
    time: int = 7 * _DAY
    max_alert_ratio: float = 3.0
    max_failures: float = 0.001
    max_latency_ratio: float = 3.0
    min_precision_ratio: float = 0.5


class Retraining(msgspec.Struct, frozen=True, kw_only=True):
    """When the trainer trains and on what.

    ``schedule``: so long after the last run began (None: never by the clock). ``on_drift``: when a monitor raises an
    alarm. ``cool_down``: the least time between two runs that nobody asked for. ``min_labels``, ``min_positive``:
    matured labels below which it waits. ``label_maturity``: younger events are not used at all, as the absence of a
    label does not yet mean anything. ``window``: how far back. ``max_rows``: above it rows are sampled. ``search``:
    whether a small search chooses hyper-parameters. ``group_by``: the entity or feature by which the fairness gate
    tells groups apart. ``split``: the share of key entities for which a challenger decides already in shadow.
    ``promote``: ``auto``, or ``person`` when somebody has to say ``tidegate models promote``.
    """

    schedule: int | None = None
    on_drift: bool = True
    cool_down: int = _DAY
    min_labels: int = 1_000
    min_positive: int = 100
    label_maturity: int = 7 * _DAY
    window: int = 90 * _DAY
    max_rows: int = 500_000
    search: bool = False
    group_by: str | None = None
    split: float = 0.0
    promote: str = "auto"
    gate: GateRules = GateRules()
    shadow: ShadowRules = ShadowRules()
    guards: GuardRules = GuardRules()


_KEYS = tuple(Retraining.__struct_fields__)


def read_retraining(top: Section, declared: list[str], entities: list[str]) -> Retraining | None:
    """The section, None when there is none; its mistakes are reported.

    ``declared`` are the names of the features, ``entities`` of those fields of the event that verdicts carry.
    """
    if not top.has("retraining"):
        return None
    section = top.section("retraining", EXAMPLE)
    if section is None:
        return None
    section.only(_KEYS)
    usual = Retraining()
    schedule = section.duration("schedule", None, low=_HOUR)
    cool_down = section.duration_or("cool_down", format_duration(usual.cool_down))
    if schedule is not None and schedule < cool_down:
        section.wrong(
            "schedule",
            f"{format_duration(schedule)} is shorter than the cool_down of {format_duration(cool_down)}.",
            "Lengthen the schedule, or shorten cool_down.",
        )
    maturity = section.duration_or("label_maturity", format_duration(usual.label_maturity))
    window = section.duration("window", usual.window, low=_HOUR) or usual.window
    if window <= maturity:
        section.wrong(
            "window" if section.has("window") else "label_maturity",
            f"a window of {format_duration(window)} holds no label that is {format_duration(maturity)} old.",
            "Make the window several times as long as label_maturity.",
        )
    min_labels = section.integer("min_labels", 100, 100_000_000, usual.min_labels)
    min_positive = section.integer("min_positive", 20, 10_000_000, usual.min_positive)
    if min_labels < 2 * min_positive:
        section.wrong(
            "min_positive" if section.has("min_positive") else "min_labels",
            f"{min_positive:,} of {min_labels:,} labels would have to be positive.",
            "Make min_labels at least twice min_positive.",
        )
    return Retraining(
        schedule=schedule,
        on_drift=section.flag("on_drift", usual.on_drift),
        cool_down=cool_down,
        min_labels=min_labels,
        min_positive=min_positive,
        label_maturity=maturity,
        window=window,
        max_rows=section.integer("max_rows", 1_000, 10_000_000, usual.max_rows),
        search=section.flag("search", usual.search),
        group_by=_group_by(section, declared, entities),
        split=_number(section, "split", 0.0, 0.5, usual.split),
        promote=section.choice_or("promote", ("auto", "person"), usual.promote),
        gate=_gate(section),
        shadow=_shadow(section),
        guards=_guards(section),
    )


def _number(section: Section, key: str, low: float, high: float, usual: float) -> float:
    found = section.number(key, low, high, usual)
    return usual if found is None else found


def _inner(section: Section, key: str, known: tuple[str, ...]) -> Section | None:
    if not section.has(key):
        return None
    inner = section.section(key, f"{key}: {{{known[0]}: ...}}")
    if inner is not None:
        inner.only(known)
    return inner


def _gate(section: Section) -> GateRules:
    usual = GateRules()
    inner = _inner(section, "gate", GateRules.__struct_fields__)
    if inner is None:
        return usual
    return GateRules(
        test=_number(inner, "test", 0.1, 0.7, usual.test),
        margin=_number(inner, "margin", 0.0, 0.5, usual.margin),
        level=_number(inner, "level", 0.5, 0.999, usual.level),
        replicates=inner.integer("replicates", 100, 10_000, usual.replicates),
        min_positive=inner.integer("min_positive", 10, 1_000_000, usual.min_positive),
        max_ratio=_number(inner, "max_ratio", 1.0, 100.0, usual.max_ratio),
        max_prevalence_ratio=_number(inner, "max_prevalence_ratio", 1.1, 1_000.0, usual.max_prevalence_ratio),
        leaks=inner.choice_or("leaks", ("refuse", "warn"), usual.leaks),
    )


def _shadow(section: Section) -> ShadowRules:
    usual = ShadowRules()
    inner = _inner(section, "shadow", ShadowRules.__struct_fields__)
    if inner is None:
        return usual
    time = inner.duration_or("time", format_duration(usual.time))
    patience = inner.duration("patience", max(usual.patience, 2 * time), low=_HOUR) or usual.patience
    if patience <= time:
        inner.wrong(
            "patience",
            f"{format_duration(patience)} is not longer than time, {format_duration(time)}.",
            "Make patience several times as long as time.",
        )
    return ShadowRules(
        events=inner.integer("events", 100, 100_000_000, usual.events),
        time=time,
        max_failures=_number(inner, "max_failures", 0.0, 1.0, usual.max_failures),
        max_alert_ratio=_number(inner, "max_alert_ratio", 1.1, 1_000.0, usual.max_alert_ratio),
        patience=patience,
    )


def _guards(section: Section) -> GuardRules:
    usual = GuardRules()
    inner = _inner(section, "guards", GuardRules.__struct_fields__)
    if inner is None:
        return usual
    return GuardRules(
        events=inner.integer("events", 100, 100_000_000, usual.events),
        time=inner.duration("time", usual.time, low=_HOUR // 60) or usual.time,
        max_alert_ratio=_number(inner, "max_alert_ratio", 1.1, 1_000.0, usual.max_alert_ratio),
        max_failures=_number(inner, "max_failures", 0.0, 1.0, usual.max_failures),
        max_latency_ratio=_number(inner, "max_latency_ratio", 1.1, 1_000.0, usual.max_latency_ratio),
        min_precision_ratio=_number(inner, "min_precision_ratio", 0.0, 1.0, usual.min_precision_ratio),
    )


def _group_by(section: Section, declared: list[str], entities: list[str]) -> str | None:
    if not section.has("group_by"):
        return None
    known = [*declared, *entities]
    name = section.text("group_by", "Name a feature or an entity, or remove it.")
    if name is None or name in known:
        return name
    section.wrong(
        "group_by",
        f"{name[:80]!r} is neither a feature nor an entity whose values may be shown.",
        did_you_mean(name, known, "groups"),
    )
    return None


_SPAN = {"anyOf": [{"const": 0}, {"$ref": "#/$defs/duration"}]}
_SHARE = {"type": "number", "minimum": 0, "maximum": 1}
_RATIO = {"type": "number", "minimum": 1, "maximum": 1000}
_COUNT = {"type": "integer", "minimum": 10, "maximum": 100_000_000}


def _mapping(properties: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "additionalProperties": False}


RETRAINING_SCHEMA: dict[str, Any] = _mapping(
    {
        "schedule": {"$ref": "#/$defs/duration", "description": "train so long after the last run"},
        "on_drift": {"type": "boolean", "default": True},
        "cool_down": _SPAN | {"default": "1d"},
        "min_labels": {"type": "integer", "minimum": 100, "maximum": 100_000_000, "default": 1000},
        "min_positive": {"type": "integer", "minimum": 20, "maximum": 10_000_000, "default": 100},
        "label_maturity": _SPAN | {"default": "7d", "description": "younger events are not learned from"},
        "window": {"$ref": "#/$defs/duration", "default": "90d"},
        "max_rows": {"type": "integer", "minimum": 1_000, "maximum": 10_000_000, "default": 500_000},
        "search": {"type": "boolean", "default": False},
        "group_by": {"$ref": "#/$defs/name", "description": "feature or entity of the fairness gate"},
        "split": {"type": "number", "minimum": 0, "maximum": 0.5, "default": 0},
        "promote": {"enum": ["auto", "person"], "default": "auto"},
        "gate": _mapping(
            {
                "test": {"type": "number", "minimum": 0.1, "maximum": 0.7, "default": 0.3},
                "margin": {"type": "number", "minimum": 0, "maximum": 0.5, "default": 0},
                "level": {"type": "number", "minimum": 0.5, "maximum": 0.999, "default": 0.9},
                "replicates": {"type": "integer", "minimum": 100, "maximum": 10_000, "default": 400},
                "min_positive": _COUNT | {"default": 20},
                "max_ratio": _RATIO | {"default": 1.25},
                "max_prevalence_ratio": _RATIO | {"default": 5},
                "leaks": {"enum": ["refuse", "warn"], "default": "refuse"},
            }
        ),
        "shadow": _mapping(
            {
                "events": _COUNT | {"default": 5_000},
                "time": _SPAN | {"default": "1d"},
                "max_failures": _SHARE | {"default": 0.001},
                "max_alert_ratio": _RATIO | {"default": 3},
                "patience": {"$ref": "#/$defs/duration", "default": "14d"},
            }
        ),
        "guards": _mapping(
            {
                "events": _COUNT | {"default": 1_000},
                "time": {"$ref": "#/$defs/duration", "default": "7d"},
                "max_alert_ratio": _RATIO | {"default": 3},
                "max_failures": _SHARE | {"default": 0.001},
                "max_latency_ratio": _RATIO | {"default": 3},
                "min_precision_ratio": _SHARE | {"default": 0.5},
            }
        ),
    }
)
"""For :func:`domain.pipeline_schema.json_schema`."""
