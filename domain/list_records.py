"""Lists of entities and other texts of events, tags and snoozes; and how they lie in the compacted topic ``lists``.

A tag and a snooze are lists with reserved names: ``tag:<name>`` and ``snoozed``. Two kinds of key in the topic:
``entry/<list>/<field>/<value>`` holds a :class:`ListEntry`, or nothing once it was removed; :data:`HEAD_KEY` a
:class:`ListsHead`, which is written last in every transaction: what came before it belongs to its version.
"""

from __future__ import annotations

import re

import msgspec

__all__ = [
    "HEAD_KEY",
    "SNOOZED",
    "TAG_PREFIX",
    "ListEntry",
    "ListsHead",
    "entry_key",
    "entry_of_key",
    "is_list_name",
    "tag_list",
]

HEAD_KEY = b"head"
SNOOZED = "snoozed"
"""The list of entities whose alerts nobody wants to hear of for a time."""
TAG_PREFIX = "tag:"
_NAME = re.compile(r"(tag:)?[a-z][a-z0-9_]{0,62}\Z")
_ENTRY = "entry/"


class ListEntry(msgspec.Struct, frozen=True, gc=False, kw_only=True, omit_defaults=True):
    """``value`` of the event's ``field`` stands in ``list`` for events that happen before ``expires_at``.

    ``value`` is as in events' columns: text, integers as decimal text, sensitive fields as keyed hashes. Times are
    UTC microseconds; ``expires_at`` None: for ever. ``source`` says where it comes from (``person``, ``import``,
    a program's name), ``note`` why. ``number`` is that of the change that made it what it is.
    """

    list: str
    field: str
    value: str
    expires_at: int | None = None
    source: str = ""
    note: str = ""
    added_at: int
    added_by: str
    number: int


class ListsHead(msgspec.Struct, frozen=True, kw_only=True):
    """The lists are as of change ``version``; versions only grow."""

    version: int


def is_list_name(text: str) -> bool:
    """Whether a list may be called so.

    >>> is_list_name("trusted"), is_list_name("tag:vip"), is_list_name("Trusted"), is_list_name("a/b")
    (True, True, False, False)
    """
    return _NAME.match(text) is not None


def tag_list(tag: str) -> str:
    """The list that a tag is.

    >>> tag_list("vip")
    'tag:vip'
    """
    return TAG_PREFIX + tag


def entry_key(list_name: str, field: str, value: str) -> bytes:
    """The key of an entry in the topic.

    >>> entry_key("trusted", "account_id", "a/1")
    b'entry/trusted/account_id/a/1'
    """
    return f"{_ENTRY}{list_name}/{field}/{value}".encode()


def entry_of_key(key: bytes) -> tuple[str, str, str] | None:
    """List, field and value; None when this is no entry's key.

    >>> entry_of_key(b"entry/trusted/account_id/a/1")
    ('trusted', 'account_id', 'a/1')
    """
    try:
        parts = key.decode().split("/", 3)
    except UnicodeDecodeError:
        return None
    # names of lists and fields have no slash
    return (parts[1], parts[2], parts[3]) if len(parts) == 4 and parts[0] == "entry" else None
