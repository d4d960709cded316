"""What comes out: verdicts, alerts, and the reasons in them. Public contract, encoded as JSON by msgspec."""

from __future__ import annotations

from enum import StrEnum
from typing import Any

import msgspec

from domain.rule_records import RuleAction, RuleMode

__all__ = [
    "Alert",
    "DecisionName",
    "DetectorOutput",
    "Flag",
    "ModelOutput",
    "ModelRole",
    "Reason",
    "RuleOutput",
    "Source",
    "Verdict",
    "Versions",
]


class DecisionName(StrEnum):
    """What to do with the event."""

    ALLOW = "allow"
    REVIEW = "review"
    BLOCK = "block"


DECISIONS = (DecisionName.ALLOW, DecisionName.REVIEW, DecisionName.BLOCK)
"""Index = the engine's decision code."""


class Flag(StrEnum):
    """Circumstances a reader of the verdict must know."""

    DUPLICATE = "duplicate"
    LATE = "late"
    DEGRADED = "degraded"
    WARMING_UP = "warming_up"
    REPLAYED = "replayed"
    OUT_OF_RANGE = "out_of_range"
    EXPLORED = "explored"
    """It would have been blocked, and was spared by lot (``decision.explore``)."""
    RULE_FAILED = "rule_failed"
    """A rule could not be evaluated on it, which counts as no hit."""


class Source(msgspec.Struct, frozen=True, gc=False):
    """Where the event came from."""

    topic: str
    partition: int
    offset: int


class Reason(msgspec.Struct, frozen=True, gc=False):
    """One reason for an alert.

    ``value`` is the event's, ``usual_low`` and ``usual_high`` the 5th and 95th percentile of recent traffic,
    ``contribution`` by how much the score (0 to 1) falls when the value is replaced by its usual median, averaged over
    orders in which all values are replaced one after the other. Of a rule (``code`` "rule:<id>") ``feature`` is empty,
    the values are null, and ``contribution`` is what it added to the score.
    """

    code: str
    feature: str
    value: float | None
    usual_low: float | None
    usual_high: float | None
    contribution: float
    text: str


class DetectorOutput(msgspec.Struct, frozen=True, gc=False):
    """One detector's say: its raw ``score`` and its ``rank`` (share of recent traffic below), or why it abstained."""

    score: float | None
    rank: float | None
    abstained: str | None = None


class ModelRole(StrEnum):
    """What a model is to a verdict."""

    OWN = "own"
    """The pipeline's own detectors, which learn in every worker."""
    CHAMPION = "champion"
    """The trained model in force."""
    CHALLENGER = "challenger"
    """A trained model that has to prove itself."""


class ModelOutput(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """What one model said of the event: ``score`` and ``probability`` as in the verdict, null: it could not say.

    ``decided`` is there, and true, where it is the model whose score is that of the verdict.
    """

    role: ModelRole
    score: float | None
    probability: float | None
    decided: bool = False


class RuleOutput(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """A rule, or the band of a typology, that hit the event.

    ``effect`` is what it adds to the score, ``decided`` is there, and true, where it made the decision. ``score`` is
    that of a typology: the sum of the weights of its rules that hit. In mode ``shadow`` none of this had an effect.
    """

    id: str
    version: int
    mode: RuleMode
    action: RuleAction
    effect: float
    decided: bool = False
    score: float | msgspec.UnsetType = msgspec.UNSET


class Versions(msgspec.Struct, frozen=True, gc=False):
    """Versions of everything that made the verdict; ``models["champion"]`` is the registry's model in force, if any.

    ``rules`` and ``lists`` are those in force, null where no rules are.
    """

    code: str
    pipeline: int
    pipeline_digest: str
    models: dict[str, str]
    rules: str | None = None
    lists: str | None = None


class Verdict(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """The one answer to one event.

    ``features`` holds the vector as scored (null: missing, or a duplicate). ``score`` is the share of recent
    traffic that looked less suspicious (0 to 1); null while every detector warms up. Times are UTC
    microseconds. For a ``duplicate``, score and decision are the first occurrence's, ``first`` says where it is.
    ``labels_offset``, where features count labels: the first offset in the same partition of ``labels.joined``
    that they do not reflect. ``probability``, where labels are learned from: that the event is what labels call 1,
    as of the labels known then; null while they are too few. ``out_of_range``, with the flag of that name: features
    whose value lies far outside of what recent traffic had, so that what the detectors say of it is extrapolated.
    ``models``, where models from the registry are in force: what each said, by version, and the pipeline's own
    detectors under ``own``. One of them decided: its score is ``score``, unless rules moved that (then ``own`` is there
    without models from the registry too). Absent for a duplicate. ``rules``: those that hit, absent where none did.
    """

    id: str
    event_time: int
    scored_at: int
    entities: dict[str, str]
    score: float | None
    decision: DecisionName
    reasons: list[Reason]
    features: Any
    detectors: dict[str, DetectorOutput]
    flags: list[Flag]
    versions: Versions
    source: Source
    first: Source | None = None
    labels_offset: int | msgspec.UnsetType = msgspec.UNSET
    probability: float | msgspec.UnsetType | None = msgspec.UNSET
    out_of_range: list[str] | msgspec.UnsetType = msgspec.UNSET
    models: dict[str, ModelOutput] | msgspec.UnsetType = msgspec.UNSET
    rules: list[RuleOutput] | msgspec.UnsetType = msgspec.UNSET


class Alert(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """A verdict that somebody should see: everything but the whole feature vector.

    ``amount``, where the pipeline has a field for it (``review.amount``): what the event carries there; null: nothing.
    """

    id: str
    event_time: int
    scored_at: int
    entities: dict[str, str]
    score: float | None
    decision: DecisionName
    reasons: list[Reason]
    flags: list[Flag]
    versions: Versions
    source: Source
    probability: float | msgspec.UnsetType | None = msgspec.UNSET
    out_of_range: list[str] | msgspec.UnsetType = msgspec.UNSET
    amount: float | msgspec.UnsetType | None = msgspec.UNSET
    rules: list[RuleOutput] | msgspec.UnsetType = msgspec.UNSET
