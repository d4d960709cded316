"""What every store of recent verdicts must do. Subclass it with fixtures ``make`` and ``clock``.

``make(limits)`` gives an empty store that reads the time from ``clock``.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from domain.clock import ManualClock
from domain.verdict import DecisionName, Flag, Source, Verdict, Versions
from featurestore.hot_verdicts_port import (
    BadCursorError,
    BadVerdictError,
    HotLimits,
    HotVerdicts,
    VerdictQuery,
)

__all__ = ["NOW", "CheckHotVerdicts", "Make", "drain", "verdict"]

NOW = 1_700_000_000_000_000
Make = Callable[[HotLimits], HotVerdicts]
VERSIONS = Versions(code="0.1", pipeline=1, pipeline_digest="d", models={})


def verdict(offset: int, partition: int = 0, **changes: Any) -> Verdict:
    """A verdict on event ``e<offset>`` scored ``offset`` microseconds after NOW, unless told otherwise."""
    fields: dict[str, Any] = {
        "id": f"e{offset}",
        "event_time": NOW,
        "scored_at": NOW + offset,
        "entities": {"account_id": f"a{offset % 2}", "merchant_id": "Café {1}:2"},
        "score": 0.25,
        "decision": DecisionName.ALLOW,
        "reasons": [],
        "features": {"amount": 1.5, "ratio": None},
        "detectors": {},
        "flags": [],
        "versions": VERSIONS,
        "source": Source(topic="payments.events", partition=partition, offset=offset),
    }
    return Verdict(**{**fields, **changes})


def drain(store: HotVerdicts, between: Callable[[], None] = lambda: None, **query: Any) -> list[str]:
    """Positions (``partition-offset``) of all pages of a query; ``between`` runs after each page."""
    seen: list[str] = []
    cursor = None
    while True:
        page = store.page(VerdictQuery(**query, cursor=cursor))
        for raw in page.verdicts:
            source = msgspec.json.decode(raw, type=Verdict).source
            seen.append(f"{source.partition}-{source.offset}")
        if page.next is None:
            return seen
        cursor = page.next
        between()


class CheckHotVerdicts:
    """The contract."""

    def test_gives_back_the_same_bytes(self, make: Make) -> None:
        store = make(HotLimits())
        raw = msgspec.json.encode(verdict(7)).replace(b'"score":0.25', b'"score": 2.50e-1')
        store.put_many([raw])
        assert store.get("e7") == raw
        assert store.page(VerdictQuery()).verdicts == [raw]
        assert store.get("e8") is None

    def test_finds_many_at_once_as_it_finds_each(self, make: Make, clock: ManualClock) -> None:
        store = make(HotLimits(age=20_000_000))
        store.put_many([verdict(i) for i in range(700)])
        store.put_many(
            [verdict(900, id="e7", flags=[Flag.DUPLICATE]), verdict(901, id="x", scored_at=NOW - 1)]
        )
        wanted = [f"e{i}" for i in range(800)]
        found = store.find([*wanted, "x", "never"])
        assert found == {id_: raw for id_ in [*wanted, "x"] if (raw := store.get(id_)) is not None}
        assert len(found) == 701
        assert store.find([]) == {}
        clock.advance(20)
        assert store.find(["e7", "x"]) == {"e7": store.get("e7")}

    def test_nothing_is_fine(self, make: Make) -> None:
        store = make(HotLimits())
        store.put_many([])
        assert store.page(VerdictQuery(decision=DecisionName.BLOCK)).next is None

    def test_putting_twice_changes_nothing(self, make: Make) -> None:
        store = make(HotLimits(count=10))
        batch: list[bytes | Verdict] = [verdict(i, decision=DecisionName.REVIEW) for i in range(6)]
        for _ in range(3):
            store.put_many(batch)
        for query in ({}, {"decision": DecisionName.REVIEW}, {"entity": ("merchant_id", "Café {1}:2")}):
            assert drain(store, **query) == [f"0-{i}" for i in (5, 4, 3, 2, 1, 0)]

    @pytest.mark.parametrize("seed", range(4))
    def test_the_first_that_is_no_duplicate_answers_for_its_id(self, make: Make, seed: int) -> None:
        store = make(HotLimits())
        first = verdict(3, id="x")
        copies = [verdict(i, id="x", flags=[Flag.DUPLICATE]) for i in (1, 5, 9)]
        later = verdict(7, id="x", flags=[Flag.LATE])
        batch: list[bytes | Verdict] = [first, later, *copies]
        random.Random(seed).shuffle(batch)
        for one in batch:
            store.put_many([one])
        assert store.get("x") == msgspec.json.encode(first)
        assert drain(store) == ["0-9", "0-7", "0-5", "0-3", "0-1"]

    def test_another_verdict_at_the_same_position_replaces_the_old(self, make: Make) -> None:
        store = make(HotLimits())
        store.put_many([verdict(1, decision=DecisionName.BLOCK)])
        store.put_many([verdict(1, id="new", entities={"account_id": "other"}, scored_at=NOW + 9)])
        assert store.get("e1") is None
        assert drain(store, decision=DecisionName.BLOCK) == []
        assert drain(store, entity=("account_id", "a1")) == []
        assert drain(store, entity=("account_id", "other")) == ["0-1"]

    def test_filters(self, make: Make) -> None:
        store = make(HotLimits())
        decisions = [DecisionName.ALLOW, DecisionName.REVIEW, DecisionName.BLOCK]
        store.put_many([verdict(i, decision=decisions[i % 3]) for i in range(12)])
        assert drain(store, start=NOW + 2, end=NOW + 5, limit=2) == ["0-4", "0-3", "0-2"]
        assert drain(store, decision=DecisionName.BLOCK, limit=1) == ["0-11", "0-8", "0-5", "0-2"]
        assert drain(store, decision=DecisionName.ALLOW, limit=3) == ["0-9", "0-6", "0-3", "0-0"]
        assert drain(store, entity=("account_id", "a1"), decision=DecisionName.REVIEW) == ["0-7", "0-1"]
        assert drain(store, entity=("account_id", "a1"), start=NOW + 9) == ["0-11", "0-9"]
        assert drain(store, entity=("account_id", "nobody")) == []

    @pytest.mark.parametrize("decision", [None, DecisionName.ALLOW])
    def test_pages_neither_skip_nor_repeat_while_new_ones_arrive(
        self, make: Make, decision: DecisionName | None
    ) -> None:
        store = make(HotLimits())
        # whole batches share a time, as the worker stamps them
        store.put_many([verdict(i, partition=i % 3, scored_at=NOW + i // 10) for i in range(40)])
        before = drain(store, decision=decision)
        fresh = iter(range(100, 200))

        def arrive() -> None:
            store.put_many([verdict(next(fresh)), verdict(next(fresh))])

        assert len(before) == 40
        assert drain(store, arrive, limit=3, decision=decision) == before

    def test_a_cursor_outlives_the_verdict_it_points_to(self, make: Make) -> None:
        store = make(HotLimits(count=6))
        store.put_many([verdict(i) for i in range(6)])
        page = store.page(VerdictQuery(limit=4))
        store.put_many([verdict(i) for i in range(10, 13)])  # drops 0, 1 and 2, the cursor's
        assert page.next is not None
        assert store.page(VerdictQuery(limit=4, cursor=page.next)).verdicts == []

    @pytest.mark.parametrize("cursor", ["", "AAAA", "ä", "%%%", "A" * 500])
    def test_strange_cursors_are_refused(self, make: Make, cursor: str) -> None:
        with pytest.raises(BadCursorError):
            make(HotLimits()).page(VerdictQuery(cursor=cursor))

    def test_a_cursor_of_another_query_is_refused(self, make: Make) -> None:
        store = make(HotLimits())
        store.put_many([verdict(i) for i in range(3)])
        cursor = store.page(VerdictQuery(limit=1)).next
        with pytest.raises(BadCursorError):
            store.page(VerdictQuery(limit=1, cursor=cursor, decision=DecisionName.ALLOW))

    def test_count_cap_drops_the_oldest_everywhere(self, make: Make) -> None:
        store = make(HotLimits(count=5))
        for start in range(0, 30, 10):
            store.put_many([verdict(i, decision=DecisionName.BLOCK) for i in range(start, start + 10)])
        kept = [f"0-{i}" for i in (29, 28, 27, 26, 25)]
        assert drain(store) == drain(store, decision=DecisionName.BLOCK) == kept
        assert drain(store, entity=("account_id", "a0")) == ["0-28", "0-26"]
        assert store.get("e24") is None
        assert store.get("e25") is not None

    def test_byte_cap(self, make: Make) -> None:
        store = make(HotLimits(bytes=200_000))
        store.put_many([verdict(i, features={"x": "y" * 10_000}) for i in range(60)])
        kept = drain(store)
        assert 5 < len(kept) < 21
        assert kept == [f"0-{i}" for i in range(59, 59 - len(kept), -1)]

    def test_age_cap_holds_for_writing_and_reading(self, make: Make, clock: ManualClock) -> None:
        store = make(HotLimits(age=1_000_000))
        store.put_many([verdict(0), verdict(1), verdict(500_000)])
        clock.advance(1.2)
        assert drain(store) == ["0-500000"]
        assert store.get("e1") is None
        store.put_many([verdict(2)])
        assert drain(store) == ["0-500000"]

    @pytest.mark.parametrize("raw", [b"", b"{}", b"\xff", b"[" * 100_000, b'{"id":3}'])
    def test_bytes_that_are_no_verdict_are_refused(self, make: Make, raw: bytes) -> None:
        store = make(HotLimits())
        with pytest.raises(BadVerdictError):
            store.put_many([verdict(1), raw])
        assert drain(store) == []
