"""What commands about rules and lists need: the database, who asks, and telling the workers."""

from __future__ import annotations

import getpass
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from domain.clock import SystemClock
from domain.errors import Fatal, TidegateError
from domain.list_values import ListValues
from domain.pipeline import Pipeline
from lifecycle.database import Database
from lifecycle.list_store import SqlListStore
from lifecycle.rule_changes import rule_store
from lifecycle.rule_store import SqlRuleStore
from tidegate.loading import load
from tidegate.rules import tell_lists, tell_rules
from tidegate.settings import Settings

__all__ = ["Context", "opened"]


@dataclass(frozen=True, slots=True)
class Context:
    """What the commands need."""

    settings: Settings
    pipeline: Pipeline
    database: Database

    @property
    def rules(self) -> SqlRuleStore:
        """The rules."""
        return rule_store(self.database, self.pipeline, SystemClock())

    @property
    def lists(self) -> SqlListStore:
        """The lists."""
        return SqlListStore(self.database, self.pipeline.name, SystemClock())

    @property
    def values(self) -> ListValues:
        """What may go into lists."""
        return ListValues(self.pipeline, self.settings.protector())

    @property
    def by(self) -> str:
        """Who sits here, for the audit."""
        return f"{getpass.getuser()} (command line)"

    def tell_rules(self) -> bool:
        """Let the workers know of the rules; whether there was anything to tell."""
        return self._tell("rules", lambda: tell_rules(self.settings, self.pipeline, self.database).written)

    def tell_lists(self) -> bool:
        """Let the workers know of the lists; whether there was anything to tell."""
        return self._tell("lists", lambda: tell_lists(self.settings, self.pipeline, self.database).written)

    def _tell(self, what: str, publish: Callable[[], bool]) -> bool:
        with Console(stderr=True).status("telling the workers"):
            try:
                return publish()
            except TidegateError as error:
                raise Fatal(
                    f"the database has changed, but the workers were not told: {error.message}",
                    remedy=f"{error.remedy}; then `tidegate {what} publish`",
                ) from error


@contextmanager
def opened(pipeline: Path | None) -> Iterator[Context]:
    """The database of the pipeline in the file ``pipeline``, or in the settings."""
    settings = Settings()
    declared = load(settings.pipeline if pipeline is None else pipeline)
    with closing(Database(settings.database())) as database:
        yield Context(settings, declared, database)
