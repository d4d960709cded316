"""Lists in memory: who is in one at an event's time; and what may go into one."""

from __future__ import annotations

import numpy as np
import pytest

from domain.list_records import ListEntry, entry_key, entry_of_key
from domain.list_values import ListInvalid, ListValues
from domain.list_view import ListIndex
from domain.privacy import Protector
from tests.unit.domain.samples import payments


def entry(
    value: str, *, name: str = "trusted", field: str = "account", until: int | None = None
) -> ListEntry:
    return ListEntry(
        list=name, field=field, value=value, expires_at=until, added_at=5, added_by="anna", number=1
    )


def at(*times: int) -> np.typing.NDArray[np.int64]:
    return np.array(times, dtype=np.int64)


def test_an_entry_counts_until_it_expires_by_the_events_own_time() -> None:
    lists = ListIndex()
    lists.change(3, put=[entry("a", until=100), entry("b")])
    assert lists.version == 3
    found = lists.contains(
        "trusted", "account", ["a", "a", "a", "b", "c", None], at(99, 100, 101, 10**17, 1, 1)
    )
    assert found.tolist() == [True, False, False, True, False, False]


def test_lists_and_fields_are_apart() -> None:
    lists = ListIndex()
    lists.change(1, put=[entry("7"), entry("7", field="shop", name="bad")])
    assert lists.contains("trusted", "shop", ["7"], at(1)).tolist() == [False]
    assert lists.contains("bad", "shop", ["7"], at(1)).tolist() == [True]
    assert lists.contains("nowhere", "shop", ["7"], at(1)).tolist() == [False]


def test_a_change_removes_renews_and_leaves_the_rest() -> None:
    lists = ListIndex()
    lists.change(1, put=[entry("a", until=10), entry("b"), entry("c")])
    lists.change(4, put=[entry("a", until=20)], removed=[("trusted", "account", "b"), ("none", "x", "y")])
    assert lists.contains("trusted", "account", ["a", "b", "c"], at(15, 15, 15)).tolist() == [
        True,
        False,
        True,
    ]
    assert (lists.version, len(lists)) == (4, 2)


@pytest.mark.parametrize("value", ["a/b", "é", "/", "entry/x/y/z"])
def test_a_key_says_which_entry_it_is_of(value: str) -> None:
    assert entry_of_key(entry_key("tag:vip", "account", value)) == ("tag:vip", "account", value)


def test_other_keys_are_no_entries() -> None:
    assert [entry_of_key(key) for key in (b"head", b"entry/a/b", b"\xff/a/b/c", b"other/a/b/c")] == [None] * 4


VALUES = ListValues(payments(), Protector(b"k" * 32))


def test_a_sensitive_value_becomes_the_hash_that_events_have() -> None:
    assert VALUES.value("account", "4929-1") == Protector(b"k" * 32).protect("4929-1")
    assert VALUES.value("card", "4929") == Protector(b"k" * 32).protect("4929")
    assert VALUES.value("shop", "-17") == "-17"
    assert (VALUES.sensitive("card"), VALUES.sensitive("shop")) == (True, False)


@pytest.mark.parametrize(
    ("field", "value", "wrong"),
    [
        ("amount", "1", "field"),
        ("nowhere", "1", "field"),
        ("tries", "1", "field"),
        ("shop", "007", "value"),
        ("shop", "7.0", "value"),
        ("shop", "²", "value"),
        ("shop", "-", "value"),
        ("shop", "", "value"),
        ("account", "", "value"),
        ("account", "x" * 17, "value"),
        ("account", "a\0", "value"),
        ("account", "\ud800", "value"),
    ],
)
def test_what_no_event_can_have_goes_into_no_list(field: str, value: str, wrong: str) -> None:
    with pytest.raises(ListInvalid) as refused:
        VALUES.value(field, value)
    assert refused.value.field == wrong
    assert value not in str(refused.value) or len(value) < 5


@pytest.mark.parametrize("name", ["", "Trusted", "a" * 64, "a b", "tag:", "tag:tag:x", "a/b", "a\n"])
def test_names_that_no_list_may_have(name: str) -> None:
    with pytest.raises(ListInvalid):
        VALUES.name(name)
