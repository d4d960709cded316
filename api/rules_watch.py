"""Rules and lists that the workers were not told of are published again, and who stays behind is counted."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import structlog
from prometheus_client import Gauge

from api.deps import ApiDeps
from api.ports import WorkerReport
from api.problems import ProblemError
from api.threads import Threads
from domain.errors import RulesInvalid, TidegateError
from lifecycle.list_store import SqlListStore
from lifecycle.rule_changes import rule_store
from lifecycle.rule_store import SqlRuleStore

__all__ = ["RulesWatch", "behind"]

_LOG = structlog.get_logger(__name__)
LOOK_SECONDS = 5.0
"""Between looks: as often as workers report."""


def behind(workers: Sequence[WorkerReport], epoch: int, lists: int | None = None) -> list[str]:
    """Workers that do not go by the rule set ``epoch`` (and the lists of that version)."""
    return [
        worker.worker
        for worker in workers
        if worker.rules != epoch or worker.rules_refused or lists not in (None, worker.lists)
    ]


class RulesWatch:
    """Looks from time to time. Does nothing where there is no database.

    What one API replica changed while Kafka was away, every other publishes too: publishing again writes nothing.
    """

    def __init__(self, deps: ApiDeps) -> None:
        self._deps = deps
        self._threads = Threads(1, deps.limits.publish_seconds)
        self._told = (0, 0)
        gauges = {
            "epoch": ("tidegate_rules_registry_epoch", "Rule set in force, by the database"),
            "lists": ("tidegate_lists_registry_version", "Version of the lists, by the database"),
            "behind": ("tidegate_rules_workers_behind", "Workers that go by other rules or lists"),
        }
        self._gauges = {
            name: Gauge(metric, text, registry=deps.registry) for name, (metric, text) in gauges.items()
        }

    def look(self) -> None:
        """Look once. Blocking. Raises Retriable or Fatal when database, Kafka or workers can not be asked."""
        deps = self._deps
        if deps.database is None:
            return
        database = deps.database()
        epoch = self._seeded(rule_store(database, deps.pipeline, deps.clock))
        version = SqlListStore(database, deps.pipeline.name, deps.clock).version()
        self._gauges["epoch"].set(epoch)
        self._gauges["lists"].set(version)
        told = self._told
        for place, now, publish in ((0, epoch, deps.publish_rules), (1, version, deps.publish_lists)):
            if now > told[place]:
                _publish(publish)
        self._told = (epoch, version)
        self._gauges["behind"].set(len(behind(deps.models.workers(), epoch, version)))

    def _seeded(self, store: SqlRuleStore) -> int:
        """The epoch in force, after the rules to begin with, if nobody stored any yet."""
        epoch = store.current().epoch
        if epoch or self._deps.first_rules is None:
            return epoch
        try:
            rules, typologies = self._deps.first_rules()
            if not rules and not typologies:
                return 0
            return store.seed(rules, typologies, by="pipeline file", reason="the rules to begin with").epoch
        except RulesInvalid as error:
            _LOG.error("the rules to begin with are not taken", error=str(error))
            return 0

    async def run(self) -> None:
        """Look again and again, until cancelled."""
        while True:
            try:
                await self._threads.run(self.look)
            except (TidegateError, ProblemError) as error:
                _LOG.warning("rules and lists are not compared for the moment", error=str(error))
            await asyncio.sleep(LOOK_SECONDS)


def _publish(publish: Callable[[], object] | None) -> None:
    if publish is not None:
        publish()
