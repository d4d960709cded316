"""From the database of rules and lists to the workers, as commands and the API need it."""

from __future__ import annotations

from domain.clock import SystemClock
from domain.pipeline import Pipeline
from lifecycle.database import Database
from lifecycle.list_store import SqlListStore
from lifecycle.rule_changes import rule_store
from stream.lists_topic import publish_lists
from stream.rules_topic import publish_rules
from stream.state_topic import Published
from tidegate.settings import Settings

__all__ = ["tell_lists", "tell_rules"]


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
