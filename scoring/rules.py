"""Rules as columns: conditions compiled once, evaluated on whole batches.

Conditions are CEL (https://github.com/google/cel-spec) over event fields, features, ``score``, ``probability`` and
lists, by the compiler of expression features; cel-python is the oracle in the tests. Where CEL would answer with an
error (a missing value), the rule does not hit. docs/rules.md has the language and the order in which rules act.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from domain.batch import Floats
from domain.errors import RuleProblem, RulesInvalid
from domain.pipeline import FieldType, Pipeline
from domain.rule_records import Rule, RuleAction, RuleMode, RuleSet, Typology
from featurestore.expression_columns import Columns
from featurestore.expressions import Expression, ExpressionError, compile_expression

__all__ = ["MAX_COST", "CompiledRules", "Entry", "Outcome", "compile_rules", "listed_names"]

Bools = npt.NDArray[np.bool_]

MAX_COST = 5_000
"""Of a whole set, in operations on a column of numbers: some 60 us an event in batches of 500 (benchmarks/rules.py)."""
VERDICT_NAMES = ("score", "probability")
"""What rules see beside fields and features: what the model said."""
_CLASSES = (RuleAction.ALLOW, RuleAction.BLOCK, RuleAction.REVIEW, RuleAction.NONE)


@dataclass(frozen=True, slots=True)
class Entry:
    """What can hit: a rule, or one band of a typology. ``typology`` is its place among the typologies, -1: a rule."""

    id: str
    version: int
    mode: RuleMode
    action: RuleAction
    effect: float
    reason: str
    explore: bool
    typology: int = -1

    @property
    def live(self) -> bool:
        """Whether it has any effect."""
        return self.mode is RuleMode.LIVE


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a set of rules says of n rows.

    hits    bool[entries, n]
    effect  float64[n]: what live rules add to the score
    scores  float64[typologies, n]
    failed  rule to the rows with which it failed (bool[n]); it did not hit these
    """

    hits: Bools
    effect: Floats
    scores: Floats
    failed: Mapping[str, Bools]


@dataclass(frozen=True, slots=True)
class _Sum:
    """A typology: the places and weights of its rules, and its bands: where they begin and their places."""

    rules: tuple[tuple[int, float], ...]
    lows: tuple[float, ...]
    places: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class CompiledRules:
    """A set of rules that can be evaluated.

    ``entries`` in the order in which they act and are shown: live before shadow, then allow, block, review, none, then
    by falling priority, then by id. ``names`` are the columns that conditions read, ``lists`` the lists and columns
    that they ask for.
    """

    epoch: int
    entries: tuple[Entry, ...]
    names: frozenset[str]
    lists: tuple[tuple[str, str], ...]
    cost: int
    _conditions: tuple[tuple[int, Expression], ...]
    _sums: tuple[_Sum, ...]

    @property
    def moves_score(self) -> bool:
        """Whether any live rule has an effect on the score."""
        return any(entry.effect and entry.live for entry in self.entries)

    def expression(self, text: str) -> Expression | None:
        """The condition ``text``, if a rule here has it."""
        return next((found for _, found in self._conditions if found.text == text), None)

    def evaluate(self, columns: Columns) -> Outcome:
        """What the rules say of the rows in ``columns``, each row by itself: cutting a batch changes no bit.

        A rule that fails is evaluated row by row, and does not hit where it fails.
        """
        n = columns.rows
        hits = np.zeros((len(self.entries), n), dtype=np.bool_)
        effect = np.zeros(n)
        failed: dict[str, Bools] = {}
        with np.errstate(all="ignore"):
            for place, condition in self._conditions:
                try:
                    hits[place] = condition.holds(columns)
                except Exception:  # one bad rule must not stop the stream: the verdict says that it failed
                    hits[place], wrong = _alone(condition, columns)
                    if wrong.any():
                        failed[self.entries[place].id] = wrong
        for place, entry in enumerate(self.entries):
            if entry.effect and entry.live:
                # in the order of the entries, so that the sum's bits do not depend on who wrote them down when
                effect += np.where(hits[place], entry.effect, 0.0)
        scores = np.zeros((len(self._sums), n))
        for number, one in enumerate(self._sums):
            for place, weight in one.rules:
                scores[number] += np.where(hits[place], weight, 0.0)
            band = np.searchsorted(np.array(one.lows), scores[number], side="right") - 1
            for level, place in enumerate(one.places):
                hits[place] = band == level
        return Outcome(hits, effect, scores, failed)


def listed_names(pipeline: Pipeline) -> frozenset[str]:
    """Fields whose values may stand in lists: texts and entities."""
    fields = [f for f in pipeline.event.fields if f.type in (FieldType.STRING, FieldType.INTEGER)]
    return frozenset(f.name for f in fields if not f.numeric or f.name in pipeline.entities)


def compile_rules(
    ruleset: RuleSet, pipeline: Pipeline, *, before: CompiledRules | None = None
) -> CompiledRules:
    """The enabled rules of ``ruleset``; conditions that ``before`` holds for the same pipeline are taken from there.

    Raises RulesInvalid with every mistake: rule, column of the condition, reason, remedy.
    """
    compiler = _Conditions(pipeline, before)
    rules = [rule for rule in ruleset.rules if rule.enabled]
    typologies = [typology for typology in ruleset.typologies if typology.enabled]
    known = {rule.id: found for rule in rules if (found := compiler.compile(rule)) is not None}
    cost = sum(one.cost for one in known.values())
    if cost > MAX_COST:
        dearest = max(known, key=lambda name: known[name].cost)
        reason = f"costs {known[dearest].cost:,} of {cost:,} operations an event, the limit of all is {MAX_COST:,}."
        compiler.problems.append(
            RuleProblem(dearest, "when", reason, "Make conditions shorter, or put values into a list.")
        )
    if compiler.problems:
        raise RulesInvalid(f"rule set r{ruleset.epoch}", tuple(compiler.problems))
    return _arranged(ruleset.epoch, rules, typologies, known, cost)


def _arranged(
    epoch: int,
    rules: Sequence[Rule],
    typologies: Sequence[Typology],
    known: Mapping[str, Expression],
    cost: int,
) -> CompiledRules:
    """Rules and bands as entries in their order."""
    drafts: list[tuple[tuple[bool, int, int, str, int], Entry]] = []
    for rule in rules:
        entry = Entry(
            rule.id, rule.version, rule.mode, rule.action, rule.score_effect, rule.reason, rule.explore
        )
        drafts.append((_order(entry, rule.priority, 0), entry))
    for number, typology in enumerate(typologies):
        for level, band in enumerate(typology.bands):
            entry = Entry(
                typology.id, typology.version, typology.mode, band.action, 0.0, band.reason, True, number
            )
            drafts.append((_order(entry, typology.priority, level), entry))
    drafts.sort(key=lambda draft: draft[0])
    entries = tuple(entry for _, entry in drafts)
    place = {(key[3], key[4], entry.typology < 0): at for at, (key, entry) in enumerate(drafts)}
    sums = tuple(
        _Sum(
            tuple(
                sorted(
                    (place[rule.id, 0, True], rule.weight)
                    for rule in rules
                    # what has no effect must not gain one by way of a typology
                    if rule.typology == typology.id
                    and (typology.mode is RuleMode.SHADOW or rule.mode is RuleMode.LIVE)
                )
            ),
            tuple(band.low for band in typology.bands),
            tuple(place[typology.id, level, False] for level in range(len(typology.bands))),
        )
        for typology in typologies
    )
    return CompiledRules(
        epoch=epoch,
        entries=entries,
        names=frozenset().union(*(one.names for one in known.values())),
        lists=tuple(sorted(frozenset().union(*(one.lists for one in known.values())))),
        cost=cost,
        _conditions=tuple((place[rule.id, 0, True], known[rule.id]) for rule in rules),
        _sums=sums,
    )


def _order(entry: Entry, priority: int, level: int) -> tuple[bool, int, int, str, int]:
    return (not entry.live, _CLASSES.index(entry.action), -priority, entry.id, level)


class _Conditions:
    """Compiles conditions over what a pipeline has, collecting mistakes."""

    def __init__(self, pipeline: Pipeline, before: CompiledRules | None) -> None:
        fields = pipeline.event.fields
        texts = {f.name for f in fields if not f.numeric}
        numbers = ({f.name for f in fields} - texts) | set(pipeline.feature_names)
        self._ambiguous = [name for name in VERDICT_NAMES if name in numbers | texts]
        self._numbers = frozenset(numbers | set(VERDICT_NAMES))
        self._texts = frozenset(f.name for f in fields if f.name in texts and not f.sensitive)
        self._listed = listed_names(pipeline)
        self._before = before
        self.problems: list[RuleProblem] = []

    def compile(self, rule: Rule) -> Expression | None:
        if self._before is not None and (known := self._before.expression(rule.when)) is not None:
            return known
        try:
            found = compile_expression(rule.when, self._numbers, self._texts, self._listed)
        except ExpressionError as error:
            self.problems.append(RuleProblem(rule.id, "when", error.reason, error.remedy, error.column))
            return None
        for name in self._ambiguous:
            if name in found.names:
                reason = f"{name!r} is what the model said, and a field or feature of this pipeline too."
                remedy = "Give the field or feature another name in the pipeline file."
                self.problems.append(RuleProblem(rule.id, "when", reason, remedy, rule.when.find(name) + 1))
        return found


def _alone(condition: Expression, columns: Columns) -> tuple[Bools, Bools]:
    """Whether it holds for each row by itself, and the rows with which it fails."""
    holds, failed = np.zeros(columns.rows, dtype=np.bool_), np.zeros(columns.rows, dtype=np.bool_)
    for row in range(columns.rows):
        try:
            holds[row] = condition.holds(columns.row(row))[0]
        except Exception:  # as above
            failed[row] = True
    return holds, failed
