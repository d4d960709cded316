"""The pipeline declaration as frozen records: what the YAML file says, after checking.

Durations are microseconds, money and other numbers are in whatever unit the events carry.
:mod:`domain.pipeline_file` reads and checks the file; nothing else builds these from user input.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any

import msgspec

from domain.pipeline_labels import ORPHANS_WAIT, LabelsSpec
from domain.pipeline_retraining import Retraining
from domain.pipeline_review import ReviewSpec

__all__ = [
    "COMBINERS",
    "LABELLED_KINDS",
    "Aggregate",
    "AggregateFeature",
    "Cost",
    "Decision",
    "DetectorSpec",
    "EventSpec",
    "Explore",
    "ExpressionFeature",
    "Feature",
    "Field",
    "FieldType",
    "Guards",
    "LatePolicy",
    "Pipeline",
    "Threshold",
    "UnknownFields",
    "ValueFeature",
]

COMBINERS = ("rank_average", "stacked")
"""How ranks become one score; ``stacked`` learns it from labels."""

LABELLED_KINDS = frozenset({"gradient_boosting", "logistic", "random_forest", "river_classifier"})
"""Kinds of detectors that learn from labels."""

DEFAULT_NUMBER_LIMIT = 1e15
"""Largest magnitude of a number field unless the file sets its own: keeps sums of squares finite."""

EXACT_INTEGERS = 2**53
"""Up to this magnitude a float64 holds every integer; fields of larger ones are names, not numbers."""


class FieldType(StrEnum):
    """Types of event fields."""

    STRING = "string"
    NUMBER = "number"
    INTEGER = "integer"
    BOOLEAN = "boolean"
    TIMESTAMP = "timestamp"


class LatePolicy(StrEnum):
    """What an event later than ``max_lateness`` does to features: it is scored and flagged either way."""

    COUNT = "count"
    IGNORE = "ignore"


class UnknownFields(StrEnum):
    """What a field that the schema does not name does to its event."""

    REJECT = "reject"
    IGNORE = "ignore"


class Aggregate(StrEnum):
    """Aggregates over an entity's events."""

    COUNT = "count"
    SUM = "sum"
    MEAN = "mean"
    STD = "std"
    MIN = "min"
    MAX = "max"
    LAST = "last"
    DISTINCT = "distinct"
    QUANTILE = "quantile"
    RATE = "rate"
    DECAYED_SUM = "decayed_sum"
    DECAYED_COUNT = "decayed_count"
    SECONDS_SINCE_LAST = "seconds_since_last"


class Field(msgspec.Struct, frozen=True, kw_only=True):
    """One field of the event. ``source`` is its name on the wire (or its column in a file)."""

    name: str
    type: FieldType
    source: str
    required: bool = True
    sensitive: bool = False
    minimum: float | None = None
    maximum: float | None = None
    max_length: int = 256
    values: tuple[str, ...] | None = None
    timezone: str | None = None
    """Timestamps only: the zone of values that carry none (an IANA name). None: such values are rejected."""
    unit: str = "iso"
    """Timestamps only: ``iso`` (RFC 3339 text), or ``s``, ``ms``, ``us`` (numbers since 1970, UTC)."""

    @property
    def numeric(self) -> bool:
        """Whether batches hold it as a column of numbers.

        Texts, sensitive fields and integers that a float64 cannot hold exactly are columns of texts.
        """
        if self.type is FieldType.STRING or self.sensitive:
            return False
        if self.type is not FieldType.INTEGER:
            return True
        if self.minimum is None or self.maximum is None:
            return False
        return self.minimum >= -EXACT_INTEGERS and self.maximum <= EXACT_INTEGERS


class EventSpec(msgspec.Struct, frozen=True, kw_only=True):
    """The event: which fields it has and which of them are its id, its time and its key."""

    id: str
    time: str
    key: str
    max_lateness: int
    max_future: int
    dedupe_window: int
    late: LatePolicy = LatePolicy.COUNT
    unknown_fields: UnknownFields = UnknownFields.REJECT
    max_bytes: int = 65_536
    fields: tuple[Field, ...]

    def field(self, name: str) -> Field:
        """The field called ``name``; KeyError when there is none."""
        for candidate in self.fields:
            if candidate.name == name:
                return candidate
        raise KeyError(name)


class ValueFeature(msgspec.Struct, frozen=True, kw_only=True, tag="value"):
    """A number, integer or boolean field as it is (booleans as 0 and 1)."""

    name: str
    field: str


class AggregateFeature(msgspec.Struct, frozen=True, kw_only=True, tag="aggregate"):
    """An aggregate over the past of one entity.

    ``of`` is the aggregated field (None for counts of events and seconds_since_last; for rate the word
    ``label``, which is no field). ``window`` None (only for last, seconds_since_last and decayed sums) looks
    back without limit. ``half_life`` (microseconds) belongs to decayed sums, ``q`` (between 0 and 1) to
    quantile. The window holds the tiles of width ``hop`` from the one in which ``t - delay - window`` falls;
    see docs/features.md for the exact edges. ``include_current`` tells whether the event itself counts
    (default: yes, except for last, seconds_since_last, rate and delayed windows).
    """

    name: str
    entity: str
    aggregate: Aggregate
    of: str | None = None
    window: int | None = None
    hop: int | None = None
    delay: int = 0
    half_life: int | None = None
    q: float | None = None
    include_current: bool = True


class ExpressionFeature(msgspec.Struct, frozen=True, kw_only=True, tag="expression"):
    """A CEL expression over event fields and features declared above it."""

    name: str
    expression: str


Feature = ValueFeature | AggregateFeature | ExpressionFeature


class DetectorSpec(msgspec.Struct, frozen=True, kw_only=True):
    """One detector: its ``kind``, the features it sees (None: all) and its parameters, checked by its kind."""

    name: str
    kind: str
    features: tuple[str, ...] | None = None
    params: dict[str, Any] = {}


class Cost(msgspec.Struct, frozen=True, kw_only=True):
    """What mistakes cost, in the unit of the events' amounts.

    ``false_alarm``: an alert that was none. ``missed``: what is lost when fraud passes: a number, or the name of a
    feature. ``per_day``: the alerts that reviewers can take a day, None: as many as pay.
    """

    false_alarm: float
    missed: float | str
    per_day: float | None = None


class Threshold(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Where a decision begins; exactly one of these is set.

    ``budget``: the share of traffic (0 to 1) that may reach it. ``precision``: the share of its alerts that must be
    right. ``cost``: where an alert costs less than no alert. ``per_day``: the alerts that reviewers can take a day.
    """

    budget: float | None = None
    precision: float | None = None
    cost: Cost | None = None
    per_day: float | None = None


class Explore(msgspec.Struct, frozen=True, kw_only=True):
    """Of what would be blocked, the ``share`` (0 to 1) that gets the decision ``instead``, by lot."""

    share: float
    instead: str = "review"


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    """How detectors become one score and one decision."""

    combine: str = "rank_average"
    review: Threshold | None = None
    block: Threshold | None = None
    explore: Explore | None = None

    @property
    def thresholds(self) -> tuple[tuple[int, Threshold], ...]:
        """(decision code, threshold) of each that is declared, review before block."""
        both = ((1, self.review), (2, self.block))
        return tuple((code, threshold) for code, threshold in both if threshold is not None)

    @property
    def budgets(self) -> tuple[tuple[int, float], ...]:
        """(decision code, share) of the thresholds that are alert budgets."""
        return tuple((code, t.budget) for code, t in self.thresholds if t.budget is not None)


class Guards(msgspec.Struct, frozen=True, kw_only=True):
    """What protects detectors from those they judge.

    ``teach_per_entity``: a value of the key entity may teach the detectors at most so many times as often as values do
    on average; None: as often as it comes.
    """

    teach_per_entity: float | None = 4.0


class Pipeline(msgspec.Struct, frozen=True, kw_only=True):
    """The whole declaration.

    ``digest`` is the SHA-256 (hex) of its canonical JSON without the digest, ``retraining``, ``labels``,
    ``rules`` and ``review``, which change no verdict by themselves: nobody shall lose what detectors have learned for
    another cool-down. ``rules`` are files, beside the pipeline's, with the rules to begin with.
    """

    name: str
    version: int
    event: EventSpec
    features: tuple[Feature, ...]
    detectors: tuple[DetectorSpec, ...]
    decision: Decision
    guards: Guards = Guards()
    seed: int = 0
    digest: str = ""
    retraining: Retraining | None = None
    labels: LabelsSpec | None = None
    review: ReviewSpec | None = None
    rules: tuple[str, ...] = ()

    @property
    def entities(self) -> tuple[str, ...]:
        """Fields that features aggregate over, key field first, each once, in order of first use.

        The key field is always there: duplicates are recognised in its state.
        """
        names = [self.event.key]
        names += [f.entity for f in self.features if isinstance(f, AggregateFeature)]
        return tuple(dict.fromkeys(names))

    @property
    def feature_names(self) -> tuple[str, ...]:
        """Names of the feature columns, in the order of the vector."""
        return tuple(f.name for f in self.features)

    @property
    def label_fed(self) -> bool:
        """Whether labels change features, so that ``labels.joined`` has to be followed."""
        return any(isinstance(f, AggregateFeature) and f.aggregate is Aggregate.RATE for f in self.features)

    @property
    def learns(self) -> bool:
        """Whether detectors, what combines them or thresholds learn from labels."""
        return (
            self.decision.combine == "stacked"
            or any(d.kind in LABELLED_KINDS for d in self.detectors)
            or any(t.precision is not None or t.cost is not None for _, t in self.decision.thresholds)
        )

    @property
    def follows_labels(self) -> bool:
        """Whether ``labels.joined`` has to be followed, for features or for what learns."""
        return self.label_fed or self.learns

    @property
    def label_sources(self) -> tuple[str, ...]:
        """Who may say what events turned out to be, earlier ones believed first; empty: anybody, the latest word."""
        return () if self.labels is None else self.labels.sources

    @property
    def orphans_wait(self) -> int:
        """How long a label waits for its event's verdict, microseconds."""
        return ORPHANS_WAIT if self.labels is None else self.labels.orphans_wait

    @property
    def reviewing(self) -> ReviewSpec:
        """How alerts become cases, with what the file leaves to us: the key, and a number field called ``amount``."""
        given = self.review or ReviewSpec()
        amount = given.amount or next((f.name for f in self.event.fields if _is_amount(f)), None)
        return msgspec.structs.replace(given, amount=amount, group_by=given.group_by or self.event.key)

    def topic(self, name: str) -> str:
        """The full name of one of the pipeline's topics, for example ``payments.events``."""
        return f"{self.name}.{name}"


def _is_amount(field: Field) -> bool:
    return field.name == "amount" and field.type in (FieldType.NUMBER, FieldType.INTEGER) and field.numeric
