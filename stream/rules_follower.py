"""Following the topics ``rules`` and ``lists``: what a scorer is to go by, exchanged between two batches.

A rule set that can not be run (it does not parse, or names what this pipeline has not) is refused with a reason; the
last good one stays in force.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import structlog

from domain.clock import Clock
from domain.errors import TidegateError
from domain.pipeline import Pipeline
from domain.rule_records import CURRENT_KEY, RuleSet
from scoring.rules import CompiledRules, compile_rules
from scoring.rules_in_use import NO_RULES, RulesInUse
from stream.compacted_follower import CompactedFollower
from stream.kafka import KafkaConnection
from stream.lists_follower import ListsFollower
from stream.topics import Topics

__all__ = ["RulesFollower", "RulesLog"]

log = structlog.get_logger(__name__)


class RulesLog:
    """Folds records of the topic ``rules``, in order."""

    def __init__(self, compile_set: Callable[[RuleSet, CompiledRules | None], CompiledRules]) -> None:
        self._compile = compile_set
        self._newest = 0
        self.compiled: CompiledRules | None = None
        """The newest good rule set; None: there never was one."""
        self.epoch = 0
        """Its epoch."""
        self.refused: dict[str, str] = {}
        """Epoch to reason, of a newer rule set that is not run; ``?`` for a record that nobody can read."""

    def take(self, key: bytes | None, value: bytes | None) -> None:
        """The next record."""
        if key != CURRENT_KEY.encode() or value is None:
            return
        try:
            rules = msgspec.json.decode(value, type=RuleSet)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            self._refuse("?", f"the record is unreadable: {error}")
            return
        if rules.epoch < self._newest:
            log.warning("an older rule set is passed over", epoch=rules.epoch, newest=self._newest)
            return
        self._newest = rules.epoch
        try:
            compiled = self._compile(rules, self.compiled)
        except (TidegateError, ValueError) as error:
            self._refuse(str(rules.epoch), str(error))
            return
        except Exception as error:  # whatever a rule set does to us, it must not stop the stream
            self._refuse(str(rules.epoch), f"{type(error).__name__}: {error}")
            return
        self.compiled, self.epoch, self.refused = compiled, rules.epoch, {}
        log.info("rules in force", epoch=rules.epoch, rules=len(rules.rules))

    def _refuse(self, epoch: str, why: str) -> None:
        self.refused = {epoch: why}
        log.error("rule set refused; the last good one stays", epoch=epoch, why=why, running=self.epoch)


class RulesFollower:
    """The rules in force for ``pipeline`` and its lists; one thread at a time."""

    def __init__(self, kafka: KafkaConnection, pipeline: Pipeline, clock: Clock, *, client_id: str) -> None:
        self._log = RulesLog(lambda rules, before: compile_rules(rules, pipeline, before=before))
        self._topic = CompactedFollower(
            kafka, Topics(pipeline.name).rules, self._log.take, clock, client_id=client_id
        )
        self._lists = ListsFollower(kafka, pipeline.name, clock, client_id=f"{client_id}-lists")
        self._rules = NO_RULES

    @property
    def rules(self) -> RulesInUse:
        """What is to be gone by, as of the last :meth:`begin` or :meth:`poll`."""
        return self._rules

    @property
    def epoch(self) -> int:
        """Of the rules that run; 0: none."""
        return self._log.epoch

    @property
    def lists_version(self) -> int:
        """Of the lists that run; 0: none."""
        return self._lists.lists.version

    @property
    def entries(self) -> int:
        """How many entries lists have."""
        return len(self._lists)

    @property
    def unreadable(self) -> int:
        """Records of lists that were passed over."""
        return self._lists.unreadable

    @property
    def refused(self) -> dict[str, str]:
        """Epoch to reason, of a newer rule set that is not run."""
        return dict(self._log.refused)

    def begin(self) -> None:
        """Read everything there is; the second time nothing. Raises Retriable when Kafka is away."""
        self._lists.begin()
        self._topic.begin()
        self._exchange()

    def poll(self) -> bool:
        """Take what has come since; True when rules or lists changed. Does not wait.

        While Kafka does not answer, what is in force stays.
        """
        before = (self._log.compiled, self._log.refused)
        lists_changed = self._lists.poll()
        self._topic.poll()
        self._exchange()
        # a new set may hold what the old one held, so it is the object that counts
        return lists_changed or any(
            one is not other
            for one, other in zip(before, (self._log.compiled, self._log.refused), strict=True)
        )

    def close(self) -> None:
        """Give the connections back."""
        self._topic.close()
        self._lists.close()

    def _exchange(self) -> None:
        if self._log.compiled is not self._rules.compiled:
            # the lists are always the same index, which poll() brings up to date
            self._rules = RulesInUse(self._log.compiled, self._lists.lists)
