"""Listing the offline store, alone and behind the hot one, against a store that keeps all in memory."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import msgspec
import pytest

from domain.clock import ManualClock
from domain.verdict import DecisionName, Verdict
from featurestore.hot_verdicts_memory import MemoryHotVerdicts
from featurestore.hot_verdicts_port import BadCursorError, HotLimits, VerdictPage, VerdictQuery
from featurestore.offline import LogRecord, OfflineStore
from featurestore.offline_page import page
from featurestore.offline_port import OfflineUnavailable
from featurestore.reaching_verdicts import ReachingVerdicts, VerdictReader
from tests.unit.featurestore.offline_rows import DAY, LOG, NOON, small, verdict_of

CLOCK = ManualClock(NOON)
EVER = HotLimits(age=10_000 * DAY)
QUERIES: list[dict[str, Any]] = [
    {},
    {"decision": DecisionName.BLOCK},
    {"entity": ("account", "a'1")},
    {"entity": ("account", "a'1"), "decision": DecisionName.REVIEW},
    {"entity": ("shop", "a'1")},
    {"start": NOON - 40, "end": NOON - 10},
    {"end": NOON - 55},
    {"start": NOON + 1},
]


def made() -> list[Verdict]:
    """Many scored in the same moment, in an order that is not that of their events."""
    chance = random.Random(4)
    return [
        verdict_of(
            i,
            partition=i % 3,
            time=NOON - chance.randrange(4) * DAY,
            scored_at=NOON - 60 + i // 5,
            decision=chance.choice([*DecisionName, DecisionName.ALLOW, DecisionName.ALLOW]),
            entities={"account": f"a'{chance.randrange(9)}"},
            repeat_of=0 if i % 11 == 3 else None,
        )
        for i in range(300)
    ]


@pytest.fixture
def everything() -> MemoryHotVerdicts:
    store = MemoryHotVerdicts(CLOCK, EVER)
    store.put_many(made())
    return store


@pytest.fixture(scope="module")
def offline(tmp_path_factory: pytest.TempPathFactory) -> OfflineStore:
    store = OfflineStore(str(tmp_path_factory.mktemp("offline")), small("amount"))
    verdicts = made()
    for start in range(0, len(verdicts), 60):
        batch = [
            LogRecord(v.source.partition, v.source.offset, msgspec.json.encode(v))
            for v in verdicts[start:][:60]
        ]
        store.append_verdicts(batch, LOG)
    return store


def drained(store: VerdictReader, limit: int, query: dict[str, Any]) -> tuple[list[bytes], int]:
    """All verdicts of a query's pages, and how many pages these were."""
    seen: list[bytes] = []
    cursor, pages = None, 0
    while True:
        page = store.page(VerdictQuery(**query, limit=limit, cursor=cursor))
        assert len(page.verdicts) <= limit
        seen += page.verdicts
        pages += 1
        if page.next is None:
            return seen, pages
        cursor = page.next


@pytest.mark.parametrize("query", QUERIES)
def test_lists_the_same_as_a_store_of_everything(
    offline: OfflineStore, everything: MemoryHotVerdicts, query: dict[str, Any]
) -> None:
    wanted, _ = drained(everything, 500, query)
    assert drained(offline, 500, query) == (wanted, 1)
    assert drained(offline, 60, query)[0] == wanted


class _Hasty:
    """Looks at few rows at a time, and at few for one page."""

    def __init__(self, offline: OfflineStore) -> None:
        self._snapshot = offline.verdicts.snapshot()

    def get(self, event_id: str) -> bytes | None:
        raise NotImplementedError

    def page(self, query: VerdictQuery) -> VerdictPage:
        assert self._snapshot is not None
        return page(self._snapshot, query, first_rows=30, most_rows=100)


@pytest.mark.parametrize("query", QUERIES)
def test_pages_that_end_early_go_on_without_gap_or_repeat(
    offline: OfflineStore, everything: MemoryHotVerdicts, query: dict[str, Any]
) -> None:
    wanted, _ = drained(everything, 500, query)
    found, pages = drained(_Hasty(offline), 45, query)
    assert found == wanted
    if query == {"entity": ("account", "a'1"), "decision": DecisionName.REVIEW}:
        assert len(wanted) < 45
        assert pages > 1


@pytest.mark.parametrize("kept", [0, 1, 50, 290])
@pytest.mark.parametrize("query", QUERIES[:5])
def test_goes_on_in_the_offline_store_where_the_hot_one_ends(
    offline: OfflineStore, everything: MemoryHotVerdicts, query: dict[str, Any], kept: int
) -> None:
    hot = MemoryHotVerdicts(CLOCK, HotLimits(age=10_000 * DAY, count=kept))
    hot.put_many(made())
    both = ReachingVerdicts(hot, offline)
    wanted, _ = drained(everything, 500, query)
    for limit in (50, 500):
        assert drained(both, limit, query)[0] == wanted


def test_the_last_full_page_of_the_hot_store_has_no_next_when_there_is_nothing_older(tmp_path: Path) -> None:
    hot = MemoryHotVerdicts(CLOCK, EVER)
    hot.put_many(made()[:10])
    empty = OfflineStore(str(tmp_path), small("amount"))
    assert ReachingVerdicts(hot, empty).page(VerdictQuery(limit=10)).next is None
    assert ReachingVerdicts(hot, empty).get("e0-299") is None


def test_a_verdict_is_looked_for_in_both(offline: OfflineStore) -> None:
    hot = MemoryHotVerdicts(CLOCK, EVER)
    hot.put_many([verdict_of(1, partition=1, score=0.75)])
    both = ReachingVerdicts(hot, offline)
    assert msgspec.json.decode(both.get("e1-1") or b"", type=Verdict).score == 0.75
    assert msgspec.json.decode(both.get("e2-2") or b"", type=Verdict).source.offset == 2
    assert both.get("absent") is None


def test_a_cursor_of_another_query_is_refused(offline: OfflineStore) -> None:
    cursor = offline.page(VerdictQuery(limit=5)).next
    with pytest.raises(BadCursorError):
        offline.page(VerdictQuery(limit=5, decision=DecisionName.BLOCK, cursor=cursor))
    with pytest.raises(BadCursorError):
        ReachingVerdicts(MemoryHotVerdicts(CLOCK), offline).page(VerdictQuery(cursor="x"))


class _Away:
    def get(self, event_id: str) -> bytes | None:
        raise OfflineUnavailable("away")

    def page(self, query: VerdictQuery) -> VerdictPage:
        raise OfflineUnavailable("away")


def test_while_the_offline_store_is_away_recent_verdicts_are_still_there() -> None:
    hot = MemoryHotVerdicts(CLOCK, EVER)
    hot.put_many(made()[:10])
    both = ReachingVerdicts(hot, _Away())
    assert both.get("e1-1") is not None
    shown = both.page(VerdictQuery(limit=50))
    assert len(shown.verdicts) == 10
    # and nobody is told that these were all
    with pytest.raises(OfflineUnavailable):
        both.page(VerdictQuery(limit=50, cursor=shown.next))
    with pytest.raises(OfflineUnavailable):
        both.get("absent")
