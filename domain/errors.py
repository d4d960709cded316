"""Every error Tidegate raises on purpose.

::

    TidegateError               message says what happened, remedy says what to do
    ├── Retriable               the same call may succeed later (broker away, Redis loading)
    │   ├── StoreUnavailable    Redis did not answer in time
    │   ├── TooFewLabels        a model can not be fitted to so few labels
    │   ├── RegistryUnavailable the database of models did not answer in time
    │   └── RegistryConflict    somebody else changed the registry first; read it again
    └── Fatal                   the same call will never succeed without a person
        ├── PipelineInvalid     the pipeline file has mistakes (all of them listed)
        ├── RulesInvalid        rules have mistakes (all of them listed)
        ├── StateFenced         another owner moved the online state on; reload before writing
        ├── StateMismatch       online state and log contradict each other
        ├── ArtefactRefused     a model file is damaged, foreign or not signed by someone we trust
        ├── UnknownModel        the registry has no such model (or training run)
        ├── StageForbids        the registry does not do that with a model in its present stage
        └── ServiceMissing      a broker, Redis or file that is needed is not there

``EventRejected`` is not a failure of the service but a verdict on one input record: it carries the
stable reason code under which the record goes to the dead letter topic (or the 422 on HTTP).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from domain.privacy import without_card_numbers

__all__ = [
    "ArtefactRefused",
    "EventRejected",
    "Fatal",
    "PipelineInvalid",
    "Problem",
    "RegistryConflict",
    "RegistryUnavailable",
    "Reject",
    "Retriable",
    "RuleProblem",
    "RulesInvalid",
    "ServiceMissing",
    "StageForbids",
    "StateFenced",
    "StateMismatch",
    "StoreUnavailable",
    "TidegateError",
    "TooFewLabels",
    "UnknownModel",
]


class TidegateError(Exception):
    """Root of all errors of ours; ``remedy`` tells the operator what to do."""

    def __init__(self, message: str, *, remedy: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.message} Remedy: {self.remedy}" if self.remedy else self.message


class Retriable(TidegateError):
    """The same call may succeed later."""


class StoreUnavailable(Retriable):
    """The online store did not answer."""


class TooFewLabels(Retriable):
    """A model can not be fitted to so few labels; later there may be more."""


class RegistryUnavailable(Retriable):
    """The database of models did not answer."""


class RegistryConflict(Retriable):
    """Somebody else changed the registry (or took the training run) first: what the caller read is old."""


class Fatal(TidegateError):
    """The same call will never succeed unless a person changes something."""


class StateFenced(Fatal):
    """Another owner has advanced this partition's state; the caller's copy is stale."""


class StateMismatch(Fatal):
    """Online state and committed offsets contradict each other."""


class ArtefactRefused(Fatal):
    """A sealed model was not taken; ``reason`` is one of :class:`lifecycle.artefact.Refusal`."""

    def __init__(self, reason: str, message: str, *, remedy: str) -> None:
        super().__init__(message, remedy=remedy)
        self.reason = reason


class UnknownModel(Fatal):
    """The registry has no such model or training run."""


class StageForbids(Fatal):
    """What was asked for does not go with the stage that a model, or the registry, is in."""


class ServiceMissing(Fatal):
    """Something that must be running or installed is not there."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One mistake in a pipeline file: where (1-based line and column), what, and the way out."""

    line: int
    column: int
    path: str
    reason: str
    remedy: str

    def __str__(self) -> str:
        return f"line {self.line}: {self.path}: {self.reason} Remedy: {self.remedy}"


class PipelineInvalid(Fatal):
    """The pipeline file has mistakes; ``problems`` lists every one of them."""

    def __init__(self, source: str, problems: tuple[Problem, ...]) -> None:
        listed = "\n".join(f"  {p}" for p in problems)
        super().__init__(f"{source}: {len(problems)} mistake(s)\n{listed}")
        self.source = source
        self.problems = problems


@dataclass(frozen=True, slots=True)
class RuleProblem:
    """One mistake in a rule or typology: which (empty: the whole set), where in it, what, and the way out.

    ``field`` is the key, ``column`` the 1-based character of a condition (0: not in a condition).
    """

    rule: str
    field: str
    reason: str
    remedy: str
    column: int = 0

    def __str__(self) -> str:
        where = ": ".join(part for part in (self.rule and f"rule {self.rule}", self.field) if part)
        return f"{where or '(all)'}: {self.reason} Remedy: {self.remedy}"


class RulesInvalid(Fatal):
    """Rules have mistakes; ``problems`` lists every one of them."""

    def __init__(self, source: str, problems: tuple[RuleProblem, ...]) -> None:
        listed = "\n".join(f"  {p}" for p in problems)
        super().__init__(f"{source}: {len(problems)} mistake(s)\n{listed}")
        self.source = source
        self.problems = problems


class Reject(StrEnum):
    """Stable reason codes of dead letters; a public contract, never renamed."""

    NOT_JSON = "not_json"
    NOT_OBJECT = "not_object"
    NOT_FINITE = "not_finite"
    MISSING_FIELD = "missing_field"
    WRONG_TYPE = "wrong_type"
    OUT_OF_RANGE = "out_of_range"
    TOO_LONG = "too_long"
    EMPTY = "empty"
    BAD_TIMESTAMP = "bad_timestamp"
    IN_FUTURE = "in_future"
    TOO_LARGE = "too_large"
    UNKNOWN_FIELD = "unknown_field"
    NOT_ALLOWED = "not_allowed"
    BAD_TEXT = "bad_text"
    WRONG_KEY = "wrong_key"
    UNKNOWN_SOURCE = "unknown_source"
    NO_VERDICT = "no_verdict"
    OTHER_EVENT = "other_event"
    INCOMPLETE_VERDICT = "incomplete_verdict"


class EventRejected(TidegateError):
    """One input record cannot be scored: stable ``reason``, the ``field`` at fault, and detail."""

    def __init__(self, reason: Reject, field: str | None, detail: str, *, remedy: str) -> None:
        # what is quoted of a record may be a card number in the wrong place (promise P7)
        detail = without_card_numbers(detail)
        super().__init__(detail, remedy=remedy)
        self.reason = reason
        self.field = None if field is None else without_card_numbers(field)
        self.detail = detail
