"""Records of the compacted topic ``rules``, and how rules are read from what people write.

The whole :class:`RuleSet` is one JSON record under :data:`CURRENT_KEY`; a reader ignores an epoch older than what it
runs. People write ``{rules: [...], typologies: [...]}`` in YAML (a rules file) or JSON (the API): :func:`read_rules`
finds every mistake of form in it. Whether conditions mean anything, ``scoring.rules.compile_rules`` says.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from enum import StrEnum
from typing import Any, TypeVar

import msgspec

from domain.errors import RuleProblem, RulesInvalid
from domain.pipeline_reader import did_you_mean

__all__ = [
    "CURRENT_KEY",
    "MAX_RECORD_BYTES",
    "Band",
    "Rule",
    "RuleAction",
    "RuleMode",
    "RuleSet",
    "Typology",
    "read_rules",
    "rules_epoch",
]

CURRENT_KEY = "current"
MAX_RECORD_BYTES = 900_000
"""Of an encoded rule set: brokers take messages of 1 MiB unless told otherwise."""
MAX_RULES = 500
MAX_TYPOLOGIES = 50
MAX_BANDS = 10
MAX_WHEN = 1_000
"""Characters of a condition."""
MAX_REASON = 300
_ID = re.compile(r"[a-z][a-z0-9_-]{0,62}")
_PRIORITY = 1_000_000
_WEIGHT = 1_000.0
_Choice = TypeVar("_Choice", bound=StrEnum)


class RuleAction(StrEnum):
    """What a rule that hits does to the decision; docs/rules.md has the order in which they go."""

    ALLOW = "allow"
    BLOCK = "block"
    REVIEW = "review"
    NONE = "none"
    """Nothing: for rules that only move the score, or count for a typology."""


class RuleMode(StrEnum):
    """Whether a rule acts."""

    LIVE = "live"
    SHADOW = "shadow"
    """Evaluated and written to the verdict, without any effect."""


class Rule(msgspec.Struct, frozen=True, kw_only=True):
    """One rule: where the condition ``when`` holds it does ``action`` and adds ``score_effect`` to the score.

    ``version`` is raised by whoever stores a changed rule. ``reason`` is the text that verdicts show. ``priority``
    (higher first) orders rules of one action. ``weight`` counts for the ``typology`` that the rule belongs to.
    ``explore`` false exempts what the rule blocks from exploration (``decision.explore`` of the pipeline).
    """

    id: str
    when: str
    version: int = 1
    action: RuleAction = RuleAction.NONE
    score_effect: float = 0.0
    reason: str = ""
    priority: int = 0
    mode: RuleMode = RuleMode.LIVE
    enabled: bool = True
    typology: str | None = None
    weight: float = 1.0
    explore: bool = True


class Band(msgspec.Struct, frozen=True, kw_only=True):
    """From the weighted score ``low`` on a typology says ``reason`` and does ``action``."""

    low: float
    reason: str
    action: RuleAction = RuleAction.NONE


class Typology(msgspec.Struct, frozen=True, kw_only=True):
    """Several rules seen as one pattern: the sum of the weights of its live rules that hit falls into a band.

    ``bands`` by rising ``low``; below the first nothing happens.
    """

    id: str
    bands: tuple[Band, ...]
    version: int = 1
    priority: int = 0
    mode: RuleMode = RuleMode.LIVE
    enabled: bool = True


class RuleSet(msgspec.Struct, frozen=True, kw_only=True):
    """All rules of a pipeline, in force from ``changed_at`` (UTC microseconds) on; ``epoch`` grows with each change."""

    epoch: int
    rules: tuple[Rule, ...] = ()
    typologies: tuple[Typology, ...] = ()
    changed_at: int
    changed_by: str
    reason: str


def rules_epoch(epoch: int) -> str:
    """How verdicts name a rule set.

    >>> rules_epoch(7)
    'r7'
    """
    return f"r{epoch}"


def read_rules(data: Any, source: str = "rules") -> tuple[tuple[Rule, ...], tuple[Typology, ...]]:
    """Rules and typologies from plain values as YAML or JSON give them; ``source`` names them in messages.

    Raises RulesInvalid with every mistake.

    >>> rules, _ = read_rules({"rules": [{"id": "big", "when": "amount > 900.0", "action": "review"}]})
    >>> rules[0].action, rules[0].mode
    (<RuleAction.REVIEW: 'review'>, <RuleMode.LIVE: 'live'>)
    """
    found = _Mistakes()
    rules: list[Rule] = []
    typologies: list[Typology] = []
    if not isinstance(data, Mapping):
        found.add("", "", "must be a mapping.", "Write {rules: [...], typologies: [...]}.")
    else:
        found.only("", data, ("rules", "typologies"))
        rules = [r for r in _listed(found, data, "rules", MAX_RULES, _rule) if isinstance(r, Rule)]
        kinds = _listed(found, data, "typologies", MAX_TYPOLOGIES, _typology)
        typologies = [t for t in kinds if isinstance(t, Typology)]
    found.unique([r.id for r in rules] + [t.id for t in typologies])
    if not found.problems:
        names = [t.id for t in typologies]
        for rule in rules:
            if rule.typology is not None and rule.typology not in names:
                remedy = did_you_mean(rule.typology, names, "typologies")
                found.add(rule.id, "typology", f"there is no typology {rule.typology!r}.", remedy)
    if found.problems:
        raise RulesInvalid(source, tuple(found.problems))
    return tuple(rules), tuple(typologies)


class _Mistakes:
    def __init__(self) -> None:
        self.problems: list[RuleProblem] = []

    def add(self, rule: str, field: str, reason: str, remedy: str) -> None:
        self.problems.append(RuleProblem(rule, field, reason, remedy))

    def only(self, rule: str, entry: Mapping[Any, Any], known: tuple[str, ...]) -> None:
        for key in entry:
            if key not in known:
                remedy = did_you_mean(str(key), known, "keys here")
                self.add(rule, str(key)[:80], f"{str(key)[:80]!r} is not a key here.", remedy)

    def unique(self, ids: Iterable[str]) -> None:
        seen: set[str] = set()
        for name in ids:
            if name in seen:
                self.add(name, "id", f"{name!r} stands twice.", "Give each rule and typology its own id.")
            seen.add(name)


class _Entry:
    """One mapping; each reader gives the default after a report."""

    def __init__(self, found: _Mistakes, name: str, entry: Mapping[Any, Any], prefix: str = "") -> None:
        self._found, self._name, self._entry, self._prefix = found, name, entry, prefix

    def wrong(self, key: str, reason: str, remedy: str) -> None:
        self._found.add(self._name, self._prefix + key, reason, remedy)

    def text(self, key: str, default: str | None, most: int) -> str:
        value = self._entry.get(key, default)
        remedy = f"Write a text of at most {most:,} characters."
        if value is None or (default is None and isinstance(value, str) and not value.strip()):
            self.wrong(key, "is missing.", remedy)
        elif not isinstance(value, str) or len(value) > most or not _encodes(value):
            self.wrong(key, f"{_shown(value)} is not taken.", remedy)
        else:
            return value
        return ""

    def number(self, key: str, default: float | None, low: float, high: float) -> float:
        value = self._entry.get(key, default)
        if (
            isinstance(value, bool)
            or not isinstance(value, int | float)
            or not (low <= value <= high and math.isfinite(value))
        ):
            self.wrong(key, f"{_shown(value)} is not taken.", f"Write a number from {low:g} to {high:g}.")
            return low
        return float(value)

    def integer(self, key: str, default: int, low: int, high: int) -> int:
        value = self._entry.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            self.wrong(key, f"{_shown(value)} is not taken.", f"Write a whole number from {low} to {high}.")
            return low
        return value

    def flag(self, key: str, default: bool) -> bool:
        value = self._entry.get(key, default)
        if not isinstance(value, bool):
            self.wrong(key, f"{_shown(value)} is not taken.", "Write true or false.")
            return default
        return value

    def choice(self, key: str, kind: type[_Choice], default: _Choice) -> _Choice:
        value = self._entry.get(key, default)
        try:
            return kind(value)
        except ValueError:
            names = ", ".join(one.value for one in kind)
            self.wrong(key, f"{_shown(value)} is not taken.", f"Choose one of: {names}.")
            return default


_RULE_KEYS = tuple(field.name for field in msgspec.structs.fields(Rule))
_TYPOLOGY_KEYS = tuple(field.name for field in msgspec.structs.fields(Typology))
_BAND_KEYS = tuple(field.name for field in msgspec.structs.fields(Band))
_Read = Callable[[_Mistakes, str, Mapping[Any, Any]], Rule | Typology]


def _listed(
    found: _Mistakes, data: Mapping[Any, Any], key: str, most: int, read: _Read
) -> list[Rule | Typology]:
    value = data.get(key)
    if value is None:
        return []
    if not isinstance(value, list | tuple):
        found.add("", key, "must be a list.", "Write a list, each entry with its id.")
        return []
    if len(value) > most:
        found.add("", key, f"has {len(value):,} entries, the limit is {most}.", "Remove what is not used.")
        return []
    read_ones = []
    for place, entry in enumerate(value):
        name = entry.get("id") if isinstance(entry, Mapping) else None
        if not isinstance(entry, Mapping):
            found.add(f"{key}[{place}]", "", "must be a mapping.", "Write for example {id: big, when: ...}.")
        elif not isinstance(name, str) or not _ID.fullmatch(name):
            remedy = "A lower-case letter, then up to 62 lower-case letters, digits, _ and -."
            found.add(f"{key}[{place}]", "id", f"{_shown(name)} is not an id.", remedy)
        else:
            read_ones.append(read(found, name, entry))
    return read_ones


def _rule(found: _Mistakes, name: str, entry: Mapping[Any, Any]) -> Rule:
    found.only(name, entry, _RULE_KEYS)
    of = _Entry(found, name, entry)
    rule = Rule(
        id=name,
        when=of.text("when", None, MAX_WHEN),
        version=of.integer("version", 1, 1, 2**31),
        action=of.choice("action", RuleAction, RuleAction.NONE),
        score_effect=of.number("score_effect", 0.0, -1.0, 1.0),
        reason=of.text("reason", "", MAX_REASON),
        priority=of.integer("priority", 0, -_PRIORITY, _PRIORITY),
        mode=of.choice("mode", RuleMode, RuleMode.LIVE),
        enabled=of.flag("enabled", True),
        typology=None if entry.get("typology") is None else of.text("typology", None, 63),
        weight=of.number("weight", 1.0, 0.0, _WEIGHT),
        explore=of.flag("explore", True),
    )
    written = entry.get("action", RuleAction.NONE)
    if written == RuleAction.NONE and not rule.score_effect and rule.typology is None:
        of.wrong("action", "the rule does nothing.", "Give it an action, a score_effect or a typology.")
    return rule


def _typology(found: _Mistakes, name: str, entry: Mapping[Any, Any]) -> Typology:
    found.only(name, entry, _TYPOLOGY_KEYS)
    of = _Entry(found, name, entry)
    written = entry.get("bands")
    bands: list[Band] = []
    if not isinstance(written, list | tuple) or not 1 <= len(written) <= MAX_BANDS:
        of.wrong(
            "bands",
            f"must be a list of 1 to {MAX_BANDS}.",
            "Write [{low: 1.0, reason: ..., action: review}].",
        )
    else:
        for place, band in enumerate(written):
            prefix = f"bands[{place}]"
            if not isinstance(band, Mapping):
                of.wrong(prefix, "must be a mapping.", "Write {low: 1.0, reason: ..., action: review}.")
                continue
            found.only(name, band, _BAND_KEYS)
            inner = _Entry(found, name, band, prefix + ".")
            low = inner.number("low", None, 0.0, _WEIGHT * MAX_RULES)
            if bands and low <= bands[-1].low:
                inner.wrong("low", "is not above the band before.", "Order bands by rising low.")
            bands.append(
                Band(
                    low=low,
                    reason=inner.text("reason", None, MAX_REASON),
                    action=inner.choice("action", RuleAction, RuleAction.NONE),
                )
            )
        if bands and not bands[0].low > 0.0:
            of.wrong("bands[0].low", "must be above 0.", "What hits no rule is in no band.")
    return Typology(
        id=name,
        bands=tuple(bands),
        version=of.integer("version", 1, 1, 2**31),
        priority=of.integer("priority", 0, -_PRIORITY, _PRIORITY),
        mode=of.choice("mode", RuleMode, RuleMode.LIVE),
        enabled=of.flag("enabled", True),
    )


def _shown(value: Any) -> str:
    return "nothing" if value is None else repr(value)[:80]


def _encodes(value: str) -> bool:
    return not any("\ud800" <= letter <= "\udfff" for letter in value)
