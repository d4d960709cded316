"""What lists in a database must do, whichever it is.

Subclass it with fixtures ``lists`` (empty, of pipeline ``payments``), ``database`` and ``clock``.
"""

from __future__ import annotations

import pytest

from domain.clock import ManualClock
from lifecycle import list_store
from lifecycle.audit_trail import AuditTrail
from lifecycle.database import Database
from lifecycle.list_store import AT_ONCE, ListFull, ListsChanged, NewEntry, SqlListStore

__all__ = ["CheckListStore"]


def new(value: str, *, field: str = "account", until: int | None = None, note: str = "") -> NewEntry:
    return NewEntry(field=field, value=value, expires_at=until, source="person", note=note)


class CheckListStore:
    """The contract."""

    def test_nothing_yet(self, lists: SqlListStore) -> None:
        assert (lists.version(), lists.lists(), lists.entries("trusted")) == (0, [], [])
        assert lists.changes(0, 10) == (0, [])
        assert lists.remove("trusted", [("account", "a")], by="x", reason="y") == ListsChanged(version=0)

    def test_entries_come_are_renewed_and_go_each_with_its_number(
        self, lists: SqlListStore, database: Database, clock: ManualClock
    ) -> None:
        put = lists.put(
            "trusted", [new("a"), new("b", until=9), new("a", note="twice")], by="anna", reason="r"
        )
        assert put == ListsChanged(version=2, added=2)
        # the same again changes nothing, not even the audit
        assert lists.put("trusted", [new("b", until=9)], by="anna", reason="r") == ListsChanged(
            version=2, same=1
        )
        clock.advance(5)
        again = lists.put("trusted", [new("a", note="twice"), new("b", until=10)], by="ben", reason="later")
        assert again == ListsChanged(version=3, renewed=1, same=1)
        [b, a] = lists.entries("trusted")
        assert (b.value, b.expires_at, b.number, b.added_by, b.added_at) == ("b", 10, 3, "ben", clock.now())
        assert (a.value, a.note, a.source, a.number, a.expires_at) == ("a", "twice", "person", 1, None)
        assert lists.remove(
            "trusted", [("account", "a"), ("shop", "b")], by="cleo", reason="old"
        ) == ListsChanged(version=4, removed=1)
        version, changes = lists.changes(0, 10)
        assert version == 4
        assert [(c.entry.number, c.entry.value, c.removed) for c in changes] == [
            (3, "b", False),
            (4, "a", True),
        ]
        assert lists.changes(3, 10)[1] == changes[1:]
        assert len(lists.changes(0, 1)[1]) == 1
        # back again
        assert lists.put("trusted", [new("a")], by="x", reason="y") == ListsChanged(version=5, added=1)
        with database.reading() as connection:
            trail = AuditTrail("payments")
            records = trail.after(connection, 0, 100)
            assert trail.verify(connection) is None
        assert [(r.action, r.by, r.subject, r.reason) for r in records] == [
            ("list.put", "anna", "trusted", "r"),
            ("list.put", "ben", "trusted", "later"),
            ("list.remove", "cleo", "trusted/account/a", "old"),
            ("list.put", "x", "trusted/account/a", "y"),
        ]
        assert '"expires_at":9' in (records[1].before or "")
        assert '"expires_at":10' in (records[1].after or "")

    def test_pages_go_back_from_the_newest_by_field(self, lists: SqlListStore) -> None:
        lists.put("bad", [new(str(n), field="shop") for n in range(5)], by="x", reason="y")
        lists.put("bad", [new("z"), new("4")], by="x", reason="y")
        assert [e.value for e in lists.entries("bad", limit=3)] == ["4", "z", "4"]
        assert [e.value for e in lists.entries("bad", field="shop", before=5, limit=3)] == ["3", "2", "1"]
        assert [(s.list, s.field, s.entries) for s in lists.lists()] == [
            ("bad", "account", 2),
            ("bad", "shop", 5),
        ]
        assert [(e.list, e.field) for e in lists.find("shop", "4")] == [("bad", "shop")]

    def test_a_value_may_be_long_and_of_any_letters(self, lists: SqlListStore) -> None:
        values = ["é" * 4000, "a/b", "x'; --", "\u2028"]
        lists.put("odd", [new(value) for value in values], by="x", reason="y")
        assert [e.value for e in reversed(lists.entries("odd"))] == values
        assert lists.remove("odd", [("account", v) for v in values], by="x", reason="y").removed == 4

    def test_what_has_expired_can_be_pruned(self, lists: SqlListStore) -> None:
        lists.put("l", [new("a", until=10), new("b", until=20), new("c")], by="x", reason="y")
        assert lists.prune("l", 20, by="x", reason="y") == ListsChanged(version=4, removed=1)
        assert lists.prune("l", 20, by="x", reason="y") == ListsChanged(version=4)
        assert [e.value for e in lists.entries("l")] == ["c", "b"]

    def test_there_is_an_end_to_what_workers_hold(
        self, lists: SqlListStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(list_store, "MOST_ENTRIES", 3)
        lists.put("l", [new("a"), new("b"), new("c")], by="x", reason="y")
        with pytest.raises(ListFull):
            lists.put("m", [new("d")], by="x", reason="y")
        assert lists.version() == 3
        lists.put("l", [new("a", note="renewed")], by="x", reason="y")
        lists.remove("l", [("account", "a")], by="x", reason="y")
        lists.put("m", [new("d")], by="x", reason="y")
        with pytest.raises(ValueError, match="at once"):
            lists.put("m", [new("d")] * (AT_ONCE + 1), by="x", reason="y")

    def test_many_at_once_are_one_change_with_one_record(
        self, lists: SqlListStore, database: Database
    ) -> None:
        many = [new(f"v{n}") for n in range(1_200)]
        assert lists.put("big", many, by="x", reason="y").added == 1_200
        assert lists.put("big", [*many, new("w")], by="x", reason="y") == ListsChanged(
            version=1_201, added=1, same=1_200
        )
        with database.reading() as connection:
            [record, _] = AuditTrail("payments").after(connection, 0, 10)
        assert len(record.after or "") < 200
        assert lists.remove("big", [("account", e.value) for e in many], by="x", reason="y").removed == 1_200
