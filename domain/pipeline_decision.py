"""The ``detectors:`` and ``decision:`` sections of a pipeline file."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import msgspec

from domain.pipeline import Decision, DetectorSpec, Threshold
from domain.pipeline_reader import Section, did_you_mean

__all__ = ["MAX_DETECTORS", "Kinds", "read_decision", "read_detectors"]

MAX_DETECTORS = 64
Kinds = Mapping[str, type[msgspec.Struct]]
"""Parameter record of each kind of detector."""

_EXAMPLE = "hst: {kind: half_space_trees}"
_LABELS = "Detectors that learn from labels are not built yet; use half_space_trees or isolation_forest."
_NOT_BUILT_KINDS = {
    "gradient_boosting": _LABELS,
    "one_class_svm": "Use isolation_forest.",
}


def read_detectors(top: Section, declared: list[str], kinds: Kinds | None) -> list[DetectorSpec]:
    """Every detector that is right; ``declared`` are the names of all features in the file."""
    section = top.section("detectors", f"detectors: {{{_EXAMPLE}}}")
    if section is None:
        return []
    found = []
    for name, node in section.entries(_EXAMPLE, MAX_DETECTORS, "detectors"):
        entry = Section.open(node, section.at(name), section.report, "{kind: half_space_trees}")
        spec = _read_detector(name, entry, declared, kinds) if entry is not None else None
        if spec is not None:
            found.append(spec)
    return found


def _read_detector(
    name: str, entry: Section, declared: list[str], kinds: Kinds | None
) -> DetectorSpec | None:
    before = len(entry.report.problems)
    known = names_of(kinds)
    kind = entry.text("kind", f"Choose one of: {', '.join(known)}." if known else "Name a kind of detector.")
    features = _features(entry, declared)
    if entry.has("needs"):
        entry.wrong("needs", "`needs` is not built yet.", _LABELS)
    params = {
        key: node.plain()
        for key, node in entry.node.mapping.items()
        if key not in ("kind", "features", "needs")
    }
    if kind is None:
        return None
    if kind in _NOT_BUILT_KINDS and kind not in known:
        entry.wrong("kind", f"{kind} is not built yet.", _NOT_BUILT_KINDS[kind])
    elif kinds is not None:
        if kind in kinds:
            _check_params(entry, kinds[kind], params, kind)
        else:
            remedy = did_you_mean(kind, known, "kinds")
            entry.wrong("kind", f"there is no kind of detector {kind[:80]!r}.", remedy)
    if len(entry.report.problems) > before:
        return None
    return DetectorSpec(name=name, kind=kind, features=features, params=params)


def names_of(kinds: Kinds | None) -> list[str]:
    """The names of the kinds, sorted."""
    return sorted(kinds or ())


def _features(entry: Section, declared: list[str]) -> tuple[str, ...] | None:
    node = entry.node.mapping.get("features")
    if node is None:
        return None
    if node.kind != "list" or not node.items:
        entry.wrong(
            "features",
            f"must be a list of features, but is {node.described}.",
            "Remove it to use all of them.",
        )
        return None
    names: list[str] = []
    for item in node.items:
        name = str(item.scalar)
        if item.kind != "text" or name not in declared:
            remedy = did_you_mean(name, declared, "features")
            entry.report.add(item, entry.at("features"), f"{item.described} is not a feature.", remedy)
        elif name in names:
            entry.report.add(item, entry.at("features"), f"{name!r} stands twice.", "Keep one.")
        else:
            names.append(name)
    return tuple(names)


def _check_params(entry: Section, record: type[msgspec.Struct], params: dict[str, Any], kind: str) -> None:
    fields = {field.encode_name: field for field in msgspec.structs.fields(record)}
    wrong = False
    for key, value in params.items():
        if key not in fields:
            wrong = True
            remedy = did_you_mean(key, ["kind", "features", *fields], "keys here")
            entry.report.add(
                entry.place(key), entry.at(key), f"{key!r} is not a parameter of {kind}.", remedy
            )
            continue
        try:
            msgspec.convert(value, fields[key].type)
        except msgspec.ValidationError as error:
            wrong = True
            entry.wrong(key, f"{_plain(error)}.", "Correct the value, or remove it to use the default.")
    for key, field in fields.items():
        if field.required and key not in params:
            wrong = True
            entry.wrong(key, "is missing.", f"{kind} needs the parameter {key!r}.")
    if wrong:
        return
    try:
        msgspec.convert(params, record)
    except msgspec.ValidationError as error:
        entry.report.add(entry.node, entry.path, f"{_plain(error)}.", f"Correct the parameters of {kind}.")


def _plain(error: msgspec.ValidationError) -> str:
    text = re.sub(r" - at `\$[^`]*`", "", str(error)).rstrip(".").replace("`", "")
    return text[:1].lower() + text[1:]


def read_decision(top: Section) -> Decision:
    """The decision; its mistakes are reported."""
    section = top.section("decision", "decision: {review: {budget: 0.005}}")
    if section is None:
        return Decision()
    section.only(("combine", "review", "block"))
    combine = section.node.mapping.get("combine")
    if combine is not None and combine.scalar == "stacked":
        section.wrong("combine", "stacked is not built yet.", "Use `combine: rank_average`.")
    else:
        section.choice("combine", ("rank_average",), "rank_average")
    review, block = _threshold(section, "review"), _threshold(section, "block")
    if not section.has("review") and not section.has("block"):
        section.report.add(
            section.node, section.path, "decides nothing.", "Add for example `review: {budget: 0.005}`."
        )
    if review is not None and block is not None and block.budget >= review.budget:
        section.wrong(
            "block",
            f"its budget {block.budget:g} is not below the budget of review, {review.budget:g}.",
            "What is blocked is a part of what is reviewed: choose a smaller budget for block.",
        )
    return Decision(combine="rank_average", review=review, block=block)


def _threshold(section: Section, key: str) -> Threshold | None:
    if not section.has(key):
        return None
    entry = section.section(key, f"{key}: {{budget: 0.005}}")
    if entry is None:
        return None
    instead = "Use `budget`: the share of traffic that may reach this decision."
    entry.only(("budget",), {"precision": instead, "recall": instead, "cost": instead, "score": instead})
    if not entry.has("budget"):
        if not entry.node.mapping.keys() & {"precision", "recall", "cost", "score"}:
            entry.wrong("budget", "is missing.", instead)
        return None
    budget = entry.number("budget", 0.0, 1.0, None)
    if budget is not None and not 0.0 < budget < 1.0:
        entry.wrong(
            "budget", "must lie between 0 and 1, without either.", f"Leave {key!r} out to never use it."
        )
        return None
    return None if budget is None else Threshold(budget=budget)
