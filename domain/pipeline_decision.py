"""The ``detectors:`` and ``decision:`` sections of a pipeline file."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from domain.pipeline import COMBINERS, LABELLED_KINDS, Decision, DetectorSpec, Explore
from domain.pipeline_reader import Section, did_you_mean
from domain.pipeline_threshold import EXAMPLE, check_order, read_threshold

__all__ = [
    "MAX_DETECTORS",
    "MAX_RULE_FILES",
    "MOST_EXPLORED",
    "Kinds",
    "read_decision",
    "read_detectors",
    "read_rule_files",
]

MAX_DETECTORS = 64
MAX_RULE_FILES = 20
MOST_EXPLORED = 0.5
"""Beyond it a block is no block."""
Kinds = Mapping[str, type[msgspec.Struct]]
"""Parameter record of each kind of detector."""

_EXAMPLE = "hst: {kind: half_space_trees}"


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
        entry.choice("needs", ("labels",), "labels")
        if kind in known and kind not in LABELLED_KINDS:
            entry.wrong("needs", f"{kind} learns without labels.", "Remove `needs`.")
    params = {
        key: node.plain()
        for key, node in entry.node.mapping.items()
        if key not in ("kind", "features", "needs")
    }
    if kind is None:
        return None
    if kinds is not None:
        if kind in kinds:
            _check_params(entry, kinds[kind], params, kind, declared if features is None else features)
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


def _check_params(
    entry: Section, record: type[msgspec.Struct], params: dict[str, Any], kind: str, seen: Sequence[str]
) -> None:
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
        converted = msgspec.convert(params, record)
    except msgspec.ValidationError as error:
        entry.report.add(entry.node, entry.path, f"{_plain(error)}.", f"Correct the parameters of {kind}.")
        return
    # a record that names features says so by this method; rooms above cannot be imported here
    named = getattr(converted, "named_features", None)
    for key, name in dict.fromkeys(named()) if named is not None else ():
        if name not in seen:
            remedy = did_you_mean(name, seen, "features of this detector")
            entry.wrong(key, f"{name!r} is not a feature this detector sees.", remedy)


def _plain(error: msgspec.ValidationError) -> str:
    text = re.sub(r" - at `\$[^`]*`", "", str(error)).rstrip(".").replace("`", "")
    return text[:1].lower() + text[1:]


def read_decision(top: Section, declared: list[str]) -> Decision:
    """The decision; its mistakes are reported. ``fields`` are the event's, by name."""
    section = top.section("decision", f"decision: {{review: {EXAMPLE}}}")
    if section is None:
        return Decision()
    section.only(("combine", "review", "block", "explore"))
    combine = section.choice_or("combine", COMBINERS, "rank_average")
    review, block = read_threshold(section, "review", declared), read_threshold(section, "block", declared)
    if not section.has("review") and not section.has("block"):
        section.report.add(
            section.node, section.path, "decides nothing.", f"Add for example `review: {EXAMPLE}`."
        )
    if review is not None and block is not None:
        check_order(section, review, block)
    return Decision(combine=combine, review=review, block=block, explore=_explore(section))


def _explore(decision: Section) -> Explore | None:
    if not decision.has("explore"):
        return None
    section = decision.section("explore", "explore: {share: 0.01}")
    if section is None:
        return None
    section.only(("share", "instead"))
    if section.require("share", "Say which share of what would be blocked, such as 0.01.") is None:
        return None
    share = section.number("share", 0.0, MOST_EXPLORED, None)
    instead = section.choice_or("instead", ("review", "allow"), "review")
    return None if share is None else Explore(share=share, instead=instead)


def read_rule_files(top: Section) -> tuple[str, ...]:
    """Names of the files with rules, relative to the pipeline's; none where the section is not written."""
    node = top.node.mapping.get("rules")
    if node is None:
        return ()
    remedy = "List files beside this one, such as rules: [rules.yaml]."
    if node.kind != "list" or not 0 < len(node.items) <= MAX_RULE_FILES:
        top.wrong("rules", f"must be a list of 1 to {MAX_RULE_FILES} files, but is {node.described}.", remedy)
        return ()
    names: list[str] = []
    for item in node.items:
        name = str(item.scalar)
        if item.kind != "text" or not name.strip() or not name.isprintable():
            top.report.add(item, "rules", f"{item.described} is no name of a file.", remedy)
        elif name in names:
            top.report.add(item, "rules", f"{item.described} stands twice.", "Keep one.")
        else:
            names.append(name)
    return tuple(names)
