"""What records of the topic ``lists`` come to."""

from __future__ import annotations

import msgspec
import numpy as np

from domain.list_records import HEAD_KEY, ListEntry, ListsHead, entry_key
from stream.lists_follower import ListsLog


def put(lists: ListsLog, value: str, until: int | None = None, *, key: str | None = None) -> None:
    entry = ListEntry(
        list="bad", field="shop", value=value, expires_at=until, added_at=1, added_by="x", number=1
    )
    lists.take(entry_key("bad", "shop", value if key is None else key), msgspec.json.encode(entry))


def remove(lists: ListsLog, value: str) -> None:
    lists.take(entry_key("bad", "shop", value), None)


def head(lists: ListsLog, version: int) -> None:
    lists.take(HEAD_KEY, msgspec.json.encode(ListsHead(version=version)))


def there(lists: ListsLog, *values: str, at: int = 0) -> list[bool]:
    found: list[bool] = lists.lists.contains(
        "bad", "shop", values, np.full(len(values), at, dtype=np.int64)
    ).tolist()
    return found


def test_nothing_counts_before_its_head() -> None:
    lists = ListsLog()
    put(lists, "a")
    assert (there(lists, "a"), lists.lists.version) == ([False], 0)
    head(lists, 1)
    assert (there(lists, "a"), lists.lists.version, len(lists)) == ([True], 1, 1)
    remove(lists, "a")
    put(lists, "b", until=10)
    assert there(lists, "a", "b") == [True, False]
    head(lists, 3)
    assert there(lists, "a", "b") == [False, True]
    assert there(lists, "b", at=10) == [False]


def test_the_last_word_before_a_head_counts() -> None:
    lists = ListsLog()
    put(lists, "a")
    remove(lists, "a")
    remove(lists, "b")
    put(lists, "b")
    head(lists, 4)
    assert there(lists, "a", "b") == [False, True]


def test_what_is_unreadable_leaves_what_was_known() -> None:
    lists = ListsLog()
    put(lists, "a")
    head(lists, 1)
    lists.take(entry_key("bad", "shop", "a"), b'{"list": 7}')
    lists.take(entry_key("bad", "shop", "a"), b"\xff")
    put(lists, "z", key="y")
    lists.take(HEAD_KEY, b"[]")
    lists.take(HEAD_KEY, None)
    lists.take(None, b"x")
    lists.take(b"other", b"x")
    assert lists.unreadable == 4
    head(lists, 2)
    assert there(lists, "a", "y", "z") == [True, False, False]


def test_an_older_head_does_not_turn_the_clock_back() -> None:
    lists = ListsLog()
    put(lists, "a")
    head(lists, 5)
    remove(lists, "a")
    head(lists, 4)
    assert (there(lists, "a"), lists.lists.version) == ([True], 5)
    head(lists, 6)
    assert (there(lists, "a"), lists.lists.version) == ([False], 6)
