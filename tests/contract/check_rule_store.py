"""What rules in a database must do, whichever it is.

Subclass it with fixtures ``store`` (empty, of pipeline ``payments``, refusing rules whose condition is ``broken``),
``database`` and ``clock``.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import pytest

from domain.clock import ManualClock
from domain.errors import RegistryConflict, RuleProblem, RulesInvalid
from domain.rule_records import Band, Rule, RuleAction, RuleSet, Typology
from lifecycle.audit_trail import AuditTrail
from lifecycle.database import Database
from lifecycle.rule_store import NO_RULES, SqlRuleStore, UnknownRule

__all__ = ["CheckRuleStore", "refuse_broken"]


def refuse_broken(rules: RuleSet) -> None:
    wrong = [
        RuleProblem(rule.id, "when", "broken", "mend it") for rule in rules.rules if rule.when == "broken"
    ]
    if wrong:
        raise RulesInvalid("rules", tuple(wrong))


def rule(name: str, when: str = "amount > 1.0", *, version: int = 1, typology: str | None = None) -> Rule:
    return Rule(id=name, when=when, action=RuleAction.BLOCK, version=version, typology=typology)


def versions(rules: RuleSet) -> dict[str, int]:
    ones: tuple[Rule | Typology, ...] = (*rules.rules, *rules.typologies)
    return {one.id: one.version for one in ones}


class CheckRuleStore:
    """The contract."""

    def test_nothing_yet(self, store: SqlRuleStore) -> None:
        assert store.current() == NO_RULES
        assert (store.history(), store.versions("a")) == ([], [])
        with pytest.raises(UnknownRule):
            store.delete("a", by="x", reason="y")
        with pytest.raises(UnknownRule):
            store.at(1)

    def test_a_changed_rule_gets_the_next_version_for_ever(
        self, store: SqlRuleStore, clock: ManualClock
    ) -> None:
        first = store.apply([rule("a", version=17), rule("b")], [], by="anna", reason="begin")
        assert (first.epoch, versions(first)) == (1, {"a": 1, "b": 1})
        assert (first.changed_at, first.changed_by, first.reason) == (clock.now(), "anna", "begin")
        second = store.put(rule("a", "amount > 2.0"), by="ben", reason="higher", epoch=1)
        assert (second.epoch, versions(second)) == (2, {"a": 2, "b": 1})
        assert [one.id for one in second.rules] == ["a", "b"]
        third = store.delete("a", by="ben", reason="gone")
        assert (third.epoch, versions(third)) == (3, {"b": 1})
        # one that comes back is never taken for what it was
        fourth = store.put(rule("a", "amount > 3.0"), by="ben", reason="back")
        assert versions(fourth) == {"b": 1, "a": 3}
        assert store.current() == fourth
        assert store.at(2) == second
        assert [one.epoch for one in store.history()] == [4, 3, 2, 1]
        assert [one.epoch for one in store.history(before=3, limit=1)] == [2]
        assert [(one.version, one.since_epoch) for one in store.versions("a")] == [(3, 4), (2, 2), (1, 1)]
        assert store.versions("a")[1].content["when"] == "amount > 2.0"

    def test_the_same_again_changes_nothing(self, store: SqlRuleStore, database: Database) -> None:
        first = store.apply([rule("a")], [], by="x", reason="y")
        assert store.apply([rule("a", version=1)], [], by="z", reason="again") == first
        assert store.put(rule("a"), by="z", reason="again") == first
        assert store.seed([rule("b")], [], by="z", reason="file") == first
        with database.reading() as connection:
            assert len(AuditTrail("payments").after(connection, 0, 10)) == 1

    def test_who_decided_on_an_older_epoch_is_refused(self, store: SqlRuleStore) -> None:
        store.seed([rule("a")], [], by="file", reason="begin")
        store.put(rule("b"), by="x", reason="y", epoch=1)
        changes: list[Callable[[], RuleSet]] = [
            lambda: store.put(rule("c"), by="x", reason="y", epoch=1),
            lambda: store.delete("a", by="x", reason="y", epoch=1),
            lambda: store.apply([], [], by="x", reason="y", epoch=3),
        ]
        for change in changes:
            with pytest.raises(RegistryConflict):
                change()
        assert versions(store.current()) == {"a": 1, "b": 1}

    def test_what_can_not_run_is_not_stored(self, store: SqlRuleStore, database: Database) -> None:
        good = store.apply([rule("a")], [], by="x", reason="y")
        with pytest.raises(RulesInvalid):
            store.put(rule("a", "broken"), by="x", reason="y")
        with pytest.raises(RulesInvalid, match="900,000"):
            store.apply([rule(f"r{n}", "amount > 1.0 " * 200) for n in range(400)], [], by="x", reason="y")
        assert store.current() == good
        assert len(store.versions("a")) == 1
        with database.reading() as connection:
            assert len(AuditTrail("payments").after(connection, 0, 10)) == 1

    def test_an_empty_set_is_a_set(self, store: SqlRuleStore) -> None:
        store.apply([], [], by="x", reason="nothing")
        assert store.current().epoch == 1
        assert store.seed([rule("a")], [], by="file", reason="begin").rules == ()

    def test_a_typology_stays_as_long_as_rules_count_for_it(self, store: SqlRuleStore) -> None:
        mule = Typology(id="mule", bands=(Band(low=1.0, reason="looks like it"),))
        store.apply([rule("a", typology="mule")], [mule], by="x", reason="y")
        with pytest.raises(RulesInvalid):
            store.delete("mule", by="x", reason="y")
        store.delete("a", by="x", reason="y")
        assert store.delete("mule", by="x", reason="y").typologies == ()

    def test_every_change_is_audited_from_what_to_what(self, store: SqlRuleStore, database: Database) -> None:
        store.apply([rule("a"), rule("b")], [], by="anna", reason="begin")
        store.put(rule("a", "amount > 2.0"), by="ben", reason="higher")
        store.delete("b", by="cleo", reason="old")
        with database.reading() as connection:
            trail = AuditTrail("payments")
            [begin, put, gone] = trail.after(connection, 0, 10)
            assert trail.verify(connection) is None
        assert [(r.action, r.subject, r.by, r.reason) for r in (begin, put, gone)] == [
            ("rules.apply", "rules", "anna", "begin"),
            ("rule.put", "a", "ben", "higher"),
            ("rule.delete", "b", "cleo", "old"),
        ]
        before, after = (msgspec.json.decode(text or "") for text in (put.before, put.after))
        assert [(r["id"], r["when"], r["version"]) for r in before["rules"]] == [("a", "amount > 1.0", 1)]
        assert [(r["id"], r["when"], r["version"]) for r in after["rules"]] == [("a", "amount > 2.0", 2)]
        assert (before["epoch"], after["epoch"]) == (1, 2)
        assert msgspec.json.decode(gone.after or "")["rules"] == []
