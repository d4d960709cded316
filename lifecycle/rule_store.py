"""Rules in the database (SQLite or PostgreSQL): every rule set that was in force, by epoch, each change audited.

Who stores a rule does not choose its version: a content that differs from the newest of that id gets the next one, so
id and version in a verdict name one content for ever.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

import msgspec
from sqlalchemy import Connection, Row, insert, select

from domain.clock import Clock
from domain.errors import Fatal, RegistryConflict, RuleProblem, RulesInvalid
from domain.rule_records import MAX_RECORD_BYTES, Rule, RuleSet, Typology
from lifecycle.audit_trail import AuditTrail
from lifecycle.database import Database
from lifecycle.rule_tables import rule_sets, rule_versions

__all__ = ["NO_RULES", "RuleVersion", "SqlRuleStore", "UnknownRule", "unknown_rule"]

NO_RULES = RuleSet(epoch=0, changed_at=0, changed_by="", reason="")
"""Before anybody stored rules."""
_One = TypeVar("_One", Rule, Typology)
Check = Callable[[RuleSet], None]
"""Raises RulesInvalid for a rule set that workers could not run."""


class UnknownRule(Fatal):
    """There is no such rule, typology or epoch."""


class RuleVersion(msgspec.Struct, frozen=True, kw_only=True):
    """What a rule (or a typology) was in ``version``, from the rule set ``since_epoch`` on."""

    version: int
    since_epoch: int
    content: dict[str, Any]


class SqlRuleStore:
    """Rules of ``pipeline`` in ``database``; safe between threads and processes. All raise RegistryUnavailable.

    ``epoch`` is the one on which the caller has decided: RegistryConflict when another is in force by now. None:
    whatever is. Nothing that ``check`` refuses is stored.
    """

    def __init__(self, database: Database, pipeline: str, clock: Clock, check: Check) -> None:
        self._database = database
        self._pipeline = pipeline
        self._clock = clock
        self._check = check
        self._trail = AuditTrail(pipeline)

    @property
    def pipeline(self) -> str:
        """Whose rules these are."""
        return self._pipeline

    def current(self) -> RuleSet:
        """The rule set in force; NO_RULES before the first."""
        with self._database.reading() as connection:
            return self._current(connection)

    def at(self, epoch: int) -> RuleSet:
        """The rule set of ``epoch``. Raises UnknownRule."""
        query = select(rule_sets).where(*self._of(epoch))
        with self._database.reading() as connection:
            row = connection.execute(query).one_or_none()
        if row is None:
            raise UnknownRule(
                f"no rule set of {self._pipeline} has epoch {epoch}",
                remedy="`tidegate rules history` lists them",
            )
        return _set(row)

    def history(self, *, before: int | None = None, limit: int = 50) -> list[RuleSet]:
        """Rule sets with an epoch below ``before``, newest first."""
        query = select(rule_sets).where(rule_sets.c.pipeline == self._pipeline)
        if before is not None:
            query = query.where(rule_sets.c.epoch < before)
        with self._database.reading() as connection:
            rows = connection.execute(query.order_by(rule_sets.c.epoch.desc()).limit(limit)).all()
        return [_set(row) for row in rows]

    def versions(self, rule_id: str, *, limit: int = 50) -> list[RuleVersion]:
        """What the rule or typology ever was, newest first."""
        c = rule_versions.c
        query = select(rule_versions).where(c.pipeline == self._pipeline, c.id == rule_id)
        with self._database.reading() as connection:
            rows = connection.execute(query.order_by(c.version.desc()).limit(limit)).all()
        return [
            RuleVersion(
                version=row.version, since_epoch=row.since_epoch, content=msgspec.json.decode(row.content)
            )
            for row in rows
        ]

    def apply(
        self,
        rules: Sequence[Rule],
        typologies: Sequence[Typology],
        *,
        by: str,
        reason: str,
        epoch: int | None = None,
    ) -> RuleSet:
        """Put exactly these in force. Raises RulesInvalid, RegistryConflict."""
        with self._trail.changing(self._database) as connection:
            before = self._expected(connection, epoch)
            return self._store(connection, before, rules, typologies, "rules.apply", "rules", by, reason)

    def seed(self, rules: Sequence[Rule], typologies: Sequence[Typology], *, by: str, reason: str) -> RuleSet:
        """Put these in force unless somebody stored rules before, were it an empty set. Raises RulesInvalid."""
        with self._trail.changing(self._database) as connection:
            before = self._current(connection)
            if before.epoch:
                return before
            return self._store(connection, before, rules, typologies, "rules.seed", "rules", by, reason)

    def put(self, rule: Rule, *, by: str, reason: str, epoch: int | None = None) -> RuleSet:
        """Add ``rule``, or put it in the place of the one with its id. Raises RulesInvalid, RegistryConflict."""
        with self._trail.changing(self._database) as connection:
            before = self._expected(connection, epoch)
            rules = [rule if one.id == rule.id else one for one in before.rules]
            if rule not in rules:
                rules.append(rule)
            return self._store(connection, before, rules, before.typologies, "rule.put", rule.id, by, reason)

    def delete(self, rule_id: str, *, by: str, reason: str, epoch: int | None = None) -> RuleSet:
        """Take the rule or typology away. Raises UnknownRule, RulesInvalid (something needs it), RegistryConflict."""
        with self._trail.changing(self._database) as connection:
            before = self._expected(connection, epoch)
            rules = [one for one in before.rules if one.id != rule_id]
            typologies = [one for one in before.typologies if one.id != rule_id]
            if len(rules) + len(typologies) == len(before.rules) + len(before.typologies):
                raise unknown_rule(rule_id, self._pipeline)
            needing = [one.id for one in rules if one.typology == rule_id]
            if needing:
                raise RulesInvalid(
                    "rules",
                    (
                        RuleProblem(
                            rule_id,
                            "id",
                            f"{', '.join(needing[:5])} counts for it.",
                            "Change the rules first.",
                        ),
                    ),
                )
            return self._store(connection, before, rules, typologies, "rule.delete", rule_id, by, reason)

    def _store(
        self,
        connection: Connection,
        before: RuleSet,
        rules: Iterable[Rule],
        typologies: Iterable[Typology],
        action: str,
        subject: str,
        by: str,
        reason: str,
    ) -> RuleSet:
        epoch, now = before.epoch + 1, self._clock.now()
        known = self._newest(connection)
        fresh: list[dict[str, Any]] = []

        def versioned(one: _One) -> _One:
            content = _content(one)
            version, newest = known.get(one.id, (0, ""))
            if content != newest:
                version += 1
                fresh.append({"id": one.id, "version": version, "content": content})
            return msgspec.structs.replace(one, version=version)

        after = RuleSet(
            epoch=epoch,
            rules=tuple(map(versioned, rules)),
            typologies=tuple(map(versioned, typologies)),
            changed_at=now,
            changed_by=by,
            reason=reason,
        )
        if before.epoch and (after.rules, after.typologies) == (before.rules, before.typologies):
            return before
        size = len(msgspec.json.encode(after))
        if size > MAX_RECORD_BYTES:
            raise RulesInvalid(
                "rules",
                (
                    RuleProblem(
                        "",
                        "rules",
                        f"together they have {size:,} bytes, the limit is {MAX_RECORD_BYTES:,}.",
                        "Remove rules, or shorten conditions and reasons.",
                    ),
                ),
            )
        self._check(after)
        for row in fresh:
            row |= {"pipeline": self._pipeline, "since_epoch": epoch}
        if fresh:
            connection.execute(insert(rule_versions), fresh)
        # two of one epoch would break the primary key, should our lock ever fail
        connection.execute(
            insert(rule_sets).values(
                pipeline=self._pipeline,
                epoch=epoch,
                content=msgspec.json.encode(after).decode(),
                changed_at=now,
                changed_by=by,
                reason=reason,
            )
        )
        self._trail.note(
            connection,
            action,
            subject,
            by=by,
            reason=reason,
            before=_difference(before, after),
            after=_difference(after, before),
            now=now,
        )
        return after

    def _current(self, connection: Connection) -> RuleSet:
        mine = rule_sets.c.pipeline == self._pipeline
        query = select(rule_sets).where(mine).order_by(rule_sets.c.epoch.desc()).limit(1)
        row = connection.execute(query).one_or_none()
        return NO_RULES if row is None else _set(row)

    def _expected(self, connection: Connection, epoch: int | None) -> RuleSet:
        found = self._current(connection)
        if epoch is not None and epoch != found.epoch:
            raise RegistryConflict(
                f"rules of {self._pipeline} are at epoch {found.epoch}, the change was meant for {epoch}",
                remedy="read them again, look whether the change is still right, and send it with the new epoch",
            )
        return found

    def _newest(self, connection: Connection) -> dict[str, tuple[int, str]]:
        """Version and content of the newest of each id."""
        c = rule_versions.c
        query = select(c.id, c.version, c.content).where(c.pipeline == self._pipeline).order_by(c.version)
        return {row.id: (row.version, row.content) for row in connection.execute(query)}

    def _of(self, epoch: int) -> list[Any]:
        return [rule_sets.c.pipeline == self._pipeline, rule_sets.c.epoch == epoch]


def unknown_rule(rule_id: str, pipeline: str) -> UnknownRule:
    """The error for an id that is not there."""
    return UnknownRule(
        f"{pipeline} has no rule {rule_id[:80]!r}", remedy="GET /v1/rules or `tidegate rules list` shows all"
    )


def _content(one: Rule | Typology) -> str:
    """All but the version: what decides whether it is another one."""
    values = msgspec.to_builtins(one)
    del values["version"]
    return msgspec.json.encode(values, order="sorted").decode()


def _difference(one: RuleSet, other: RuleSet) -> str:
    """For the audit: the epoch, and what ``other`` has not so."""
    mine = [rule for rule in (*one.rules, *one.typologies) if rule not in (*other.rules, *other.typologies)]
    return msgspec.json.encode({"epoch": one.epoch, "rules": mine}).decode()


def _set(row: Row[Any]) -> RuleSet:
    return msgspec.json.decode(row.content, type=RuleSet)
