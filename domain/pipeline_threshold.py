"""Where a decision begins: the thresholds in the ``decision:`` section of a pipeline file."""

from __future__ import annotations

import re

from domain.pipeline import Cost, Threshold
from domain.pipeline_reader import Section, did_you_mean

__all__ = ["EXAMPLE", "MAX_PER_DAY", "PER_DAY", "check_order", "read_threshold"]

MAX_PER_DAY = 1_000_000
PER_DAY = r"\s*(\d{1,7}(\.\d{1,6})?)\s*/\s*d\s*"
"""How a number of alerts a day is written as text: ``100/d``."""

_MEASURES = ("budget", "precision", "cost", "capacity")
EXAMPLE = "{budget: 0.005}"
_CHOOSE = (
    "Give one of: `budget: 0.005` (share of traffic), `precision: 0.9`, `capacity: 100/d`, "
    "`cost: {false_alarm: 5, missed: amount}`."
)
_INSTEAD = {"recall": _CHOOSE, "score": _CHOOSE}


def check_order(section: Section, review: Threshold, block: Threshold) -> None:
    """What is blocked is a part of what is reviewed; of unlike measures only the traffic can tell."""
    pairs = (
        ("budget", block.budget, review.budget, "below"),
        ("capacity", block.per_day, review.per_day, "below"),
        ("precision", review.precision, block.precision, "above"),
    )
    for name, smaller, greater, word in pairs:
        if smaller is not None and greater is not None and smaller >= greater:
            own, other = (greater, smaller) if word == "above" else (smaller, greater)
            section.wrong(
                "block",
                f"its {name} {own:g} is not {word} the {name} of review, {other:g}.",
                "What is blocked is a part of what is reviewed: choose a "
                f"{'higher' if word == 'above' else 'smaller'} {name} for block.",
            )


def read_threshold(section: Section, key: str, features: list[str]) -> Threshold | None:
    """The threshold under ``key``, None (after a report) when it is wrong or not there."""
    if not section.has(key):
        return None
    entry = section.section(key, f"{key}: {EXAMPLE}")
    if entry is None:
        return None
    entry.only(_MEASURES, _INSTEAD)
    given = [name for name in _MEASURES if entry.has(name)]
    if not given:
        if not entry.node.mapping.keys() & _INSTEAD.keys():
            entry.wrong("budget", "is missing.", _CHOOSE)
        return None
    if len(given) > 1:
        entry.wrong(
            given[1], f"stands beside {given[0]}.", "Keep one of them: each sets the threshold alone."
        )
        return None
    [name] = given
    if name == "cost":
        cost = _cost(entry, features)
        return None if cost is None else Threshold(cost=cost)
    if name == "capacity":
        per_day = _per_day(entry, "capacity")
        return None if per_day is None else Threshold(per_day=per_day)
    share = entry.number(name, 0.0, 1.0, None)
    if share is not None and not 0.0 < share < 1.0:
        entry.wrong(name, "must lie between 0 and 1, without either.", f"Leave {key!r} out to never use it.")
        return None
    if share is None:
        return None
    return Threshold(budget=share) if name == "budget" else Threshold(precision=share)


def _per_day(entry: Section, key: str) -> float | None:
    """``100/d`` or ``{per_day: 100}``."""
    node = entry.node.mapping[key]
    remedy = "Write for example `100/d`."
    if node.kind == "mapping":
        inner = Section(node, entry.at(key), entry.report)
        inner.only(("per_day",))
        if not inner.has("per_day"):
            inner.wrong("per_day", "is missing.", "Write for example `{per_day: 100}`.")
            return None
        found = inner.number("per_day", 0.0, MAX_PER_DAY, None)
    else:
        match = re.fullmatch(PER_DAY, str(node.scalar)) if node.kind == "text" else None
        if match is None:
            entry.wrong(key, f"must be alerts a day, but is {node.described}.", remedy)
            return None
        found = float(match.group(1))
    if found is not None and not 0.0 < found <= MAX_PER_DAY:
        entry.wrong(key, "is out of range.", f"Choose above 0 and up to {MAX_PER_DAY:,} a day.")
        return None
    return found


def _cost(threshold: Section, features: list[str]) -> Cost | None:
    example = "{false_alarm: 5, missed: amount}"
    entry = threshold.section("cost", f"cost: {example}")
    if entry is None:
        return None
    before = len(entry.report.problems)
    entry.only(("false_alarm", "missed", "capacity"))
    for key in ("false_alarm", "missed"):
        entry.require(key, f"Write for example {example}.")
    false_alarm = entry.number("false_alarm", 0.0, 1e15, None)
    missed = _missed(entry, features)
    per_day = _per_day(entry, "capacity") if entry.has("capacity") else None
    if false_alarm == 0.0 and per_day is None:
        entry.wrong(
            "false_alarm", "is 0, so that everything would be an alert.", "Give it a cost, or a capacity."
        )
    if len(entry.report.problems) > before or false_alarm is None or missed is None:
        return None
    return Cost(false_alarm=false_alarm, missed=missed, per_day=per_day)


def _missed(entry: Section, features: list[str]) -> float | str | None:
    node = entry.node.mapping.get("missed")
    if node is None or node.kind == "nothing":
        return None
    if node.kind != "text":
        found = entry.number("missed", 0.0, 1e15, None)
        if found == 0.0:
            entry.wrong("missed", "must be above 0.", "Write what is lost when fraud passes.")
            return None
        return found
    name = str(node.scalar)
    if name not in features:
        entry.wrong("missed", f"{name[:80]!r} is no feature.", did_you_mean(name, features, "features"))
        return None
    return name
