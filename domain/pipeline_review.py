"""The ``review:`` section of a pipeline file: how alerts become cases that people decide."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from domain.pipeline_reader import Section, did_you_mean

__all__ = ["REVIEW_SCHEMA", "ReviewSpec", "read_review"]

_DAY = 86_400_000_000
_NEVER = "never"
_EXAMPLE = "{amount: amount, window: 24h}"
_DURATION = {"$ref": "#/$defs/duration"}

REVIEW_SCHEMA = {
    "type": "object",
    "properties": {
        "amount": {
            "$ref": "#/$defs/name",
            "description": "a number field: cases are ordered by score times it; default: amount, if there is one",
        },
        "group_by": {
            "$ref": "#/$defs/name",
            "description": "the entity whose alerts make one case; default: the key",
        },
        "window": _DURATION
        | {"default": "1d", "description": "alerts of one case lie at most so far apart, in event time"},
        "reopen": {
            "anyOf": [{"const": _NEVER}, _DURATION],
            "default": _NEVER,
            "description": "an alert so soon after the decision puts the case back into the queue",
        },
    },
    "additionalProperties": False,
}
"""JSON Schema of the section."""


class ReviewSpec(msgspec.Struct, frozen=True, kw_only=True):
    """``amount``, a number field (None: the pipeline has none), and ``group_by``, an entity (None: the key).

    An alert joins the open case of its entity whose events lie within ``window`` microseconds of its own. ``reopen``:
    microseconds after a decision in which such an alert puts the case back into the queue; None: it opens another.
    """

    amount: str | None = None
    group_by: str | None = None
    window: int = _DAY
    reopen: int | None = None


def read_review(top: Section, amounts: Sequence[str], entities: Sequence[str]) -> ReviewSpec | None:
    """The section, or None where it is not written; mistakes are reported.

    ``amounts``: fields that hold numbers to calculate with. ``entities``: fields that features aggregate over, and the
    key.
    """
    if not top.has("review"):
        return None
    section = top.section("review", f"review: {_EXAMPLE}")
    if section is None:
        return None
    section.only(("amount", "group_by", "window", "reopen"))
    return ReviewSpec(
        amount=_one_of(section, "amount", amounts, "is no field of type number or integer", "number fields"),
        group_by=_one_of(section, "group_by", entities, "is no entity of this pipeline", "entities"),
        window=section.duration("window", _DAY) or _DAY,
        reopen=_reopen(section),
    )


def _one_of(section: Section, key: str, known: Sequence[str], wrong: str, what: str) -> str | None:
    if not section.has(key):
        return None
    name = section.text(key, f"Name one of the {what}.")
    if name is not None and name not in known:
        section.wrong(key, f"{name[:80]!r} {wrong}.", did_you_mean(name, known, what))
        return None
    return name


def _reopen(section: Section) -> int | None:
    node = section.node.mapping.get("reopen")
    if node is None or node.scalar == _NEVER:
        return None
    return section.duration("reopen", None)
