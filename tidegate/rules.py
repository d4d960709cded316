"""From the database of rules and lists to the workers, as commands and the API need it."""

from __future__ import annotations

from pathlib import Path

from domain.clock import SystemClock
from domain.codec import EventCodec
from domain.errors import RuleProblem, RulesInvalid
from domain.pipeline import Pipeline
from domain.rule_records import Rule, RuleSet, Typology
from lifecycle.database import Database
from lifecycle.list_store import SqlListStore
from lifecycle.rule_changes import read_rules_file, rule_store
from lifecycle.rule_trial import RulesTrial, TrialReport
from scoring.rules import compile_rules
from stream.lists_follower import ListsFollower
from stream.lists_topic import publish_lists
from stream.recent_verdicts import try_on_recent
from stream.rules_topic import publish_rules
from stream.state_topic import Published
from tidegate.settings import Settings

__all__ = ["first_rules", "tell_lists", "tell_rules", "try_rules"]


def tell_rules(settings: Settings, pipeline: Pipeline, database: Database) -> Published:
    """Let the workers know of the rules in force. Raises Retriable and Fatal."""
    return publish_rules(
        settings.kafka(), pipeline.name, rule_store(database, pipeline, SystemClock()).current
    )


def tell_lists(settings: Settings, pipeline: Pipeline, database: Database) -> Published:
    """Let the workers know of what has changed in lists. Raises Retriable and Fatal."""
    return publish_lists(
        settings.kafka(), pipeline.name, SqlListStore(database, pipeline.name, SystemClock())
    )


def try_rules(settings: Settings, pipeline: Pipeline, rules: RuleSet, last: int) -> TrialReport:
    """What ``rules`` would have done of the ``last`` verdicts, with the lists as they are.

    Raises RulesInvalid, Retriable.
    """
    lists = ListsFollower(settings.kafka(), pipeline.name, SystemClock(), client_id="tidegate-trial-lists")
    try:
        lists.begin()
        trial = RulesTrial(pipeline, rules, lists.lists)
        codec = EventCodec(pipeline, settings.protector())
        try_on_recent(settings.kafka(), pipeline.name, codec, trial, last)
    finally:
        lists.close()
    return trial.report()


def first_rules(pipeline: Pipeline, file: Path) -> tuple[tuple[Rule, ...], tuple[Typology, ...]]:
    """The rules that the pipeline's ``file`` names to begin with; all can be run. Raises RulesInvalid."""
    rules: list[Rule] = []
    typologies: list[Typology] = []
    for name in pipeline.rules:
        some, kinds = read_rules_file(file.parent / name)
        rules += some
        typologies += kinds
    ids = [rule.id for rule in rules] + [kind.id for kind in typologies]
    twice = sorted({one for one in ids if ids.count(one) > 1})
    if twice:
        problems = (RuleProblem(one, "id", "stands in two files.", "Give each its own id.") for one in twice)
        raise RulesInvalid(", ".join(pipeline.rules), tuple(problems))
    whole = RuleSet(
        epoch=0,
        rules=tuple(rules),
        typologies=tuple(typologies),
        changed_at=0,
        changed_by="",
        reason="",
    )
    compile_rules(whole, pipeline)
    return whole.rules, whole.typologies
