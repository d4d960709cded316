"""The rules of a pipeline as people change them: what is stored is what workers can run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from domain.clock import Clock
from domain.errors import RuleProblem, RulesInvalid
from domain.pipeline import Pipeline
from domain.pipeline_yaml import read_yaml
from domain.rule_records import Rule, RuleSet, Typology, read_rules
from lifecycle.database import Database
from lifecycle.rule_store import SqlRuleStore
from scoring.rules import compile_rules

__all__ = ["read_rules_file", "rule_store", "with_rule"]


def rule_store(database: Database, pipeline: Pipeline, clock: Clock) -> SqlRuleStore:
    """The rules of ``pipeline`` in ``database``; takes only rule sets that compile for this pipeline."""

    def check(rules: RuleSet) -> None:
        compile_rules(rules, pipeline)

    return SqlRuleStore(database, pipeline.name, clock, check)


def with_rule(current: RuleSet, rule_id: str, written: Any) -> Rule:
    """The rule that somebody wrote (without, or with this id), checked beside the typologies there are.

    Raises RulesInvalid with every mistake of form.
    """
    if isinstance(written, dict):
        if written.get("id", rule_id) != rule_id:
            raise RulesInvalid(
                "rule", (RuleProblem(rule_id, "id", "is another one's.", "Leave it out, or write the same."),)
            )
        written = {**written, "id": rule_id}
    if any(one.id == rule_id for one in current.typologies):
        raise RulesInvalid(
            "rule", (RuleProblem(rule_id, "id", "is a typology's.", "Give the rule another id."),)
        )
    data = {"rules": [written], "typologies": msgspec.to_builtins(current.typologies)}
    [rule], _ = read_rules(data, "rule")
    return rule


def read_rules_file(path: Path) -> tuple[tuple[Rule, ...], tuple[Typology, ...]]:
    """Rules and typologies in a YAML (or JSON) file. Raises RulesInvalid with every mistake."""
    try:
        node, problems = read_yaml(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is no UTF-8"
        wrong = RuleProblem("", "", f"can not be read: {why}.", "Name a text file that is there.")
        raise RulesInvalid(path.name, (wrong,)) from error
    if problems:
        raise RulesInvalid(
            path.name,
            tuple(RuleProblem("", f"line {p.line}", p.reason, p.remedy) for p in problems),
        )
    return read_rules({} if node is None else node.plain(), path.name)
