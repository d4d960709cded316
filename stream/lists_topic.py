"""From the database to the workers: what has changed in lists since the topic ``lists`` was written last.

Changes go in the order of their numbers, some thousand in a transaction that ends with the head: the number of the
last change before it. So the topic always stands at one version of the lists, and publishing goes on from there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import msgspec
import structlog

from domain.list_records import HEAD_KEY, ListEntry, ListsHead, entry_key
from stream.kafka import KafkaConnection
from stream.outbox import Record
from stream.state_topic import ONLY, Published, Send, ahead, last_value, publishing
from stream.topics import Topics

__all__ = ["Change", "ListChanges", "publish_lists"]

log = structlog.get_logger(__name__)

AT_ONCE = 5_000
"""Changes in one transaction: a tenth of a second, and what a follower holds until it sees the head."""


class Change(Protocol):
    """What became of an entry by change ``entry.number``."""

    @property
    def entry(self) -> ListEntry:
        """As it is, or was until it was removed."""
        ...

    @property
    def removed(self) -> bool:
        """Whether it is gone."""
        ...


class ListChanges(Protocol):
    """The database of lists (lifecycle.list_store.SqlListStore)."""

    def changes(self, after: int, limit: int) -> tuple[int, Sequence[Change]]:
        """The version now, and what became of entries after change ``after``, oldest first, at most ``limit``."""
        ...


def publish_lists(
    kafka: KafkaConnection,
    pipeline: str,
    lists: ListChanges,
    *,
    at: Callable[[str], None] = lambda point: None,
) -> Published:
    """Let the workers of ``pipeline`` know all that has changed in ``lists``; ``epoch`` of the result is the version.

    Raises ServiceMissing without the topic, Retriable when Kafka or the database are away, Fatal when the topic is
    ahead of the database.
    """
    topic = Topics(pipeline).lists
    version, _ = lists.changes(0, 0)
    # who only looks needs no transactions, and locks nobody out; what is not seen yet is found below
    if _version(topic, last_value(kafka, topic, HEAD_KEY, seen=True)) == version:
        return Published(version, False)

    def write(send: Send) -> Published:
        before = there = _version(topic, last_value(kafka, topic, HEAD_KEY))
        at("read")
        while True:
            version, changes = lists.changes(there, AT_ONCE)
            if there > version:
                raise ahead(topic, there, version)
            if not changes:
                break
            # removed or renewed since, the last numbers may stand nowhere; the last one of all always does
            there = changes[-1].entry.number
            head = msgspec.json.encode(ListsHead(version=there))
            send([*(_record(topic, change) for change in changes), (topic, ONLY, HEAD_KEY, head, [])])
        if there > before:
            log.info("lists published", pipeline=pipeline, version=there)
        return Published(there, there > before)

    return publishing(kafka, topic, write, at)


def _record(topic: str, change: Change) -> Record:
    entry = change.entry
    key = entry_key(entry.list, entry.field, entry.value)
    return (topic, ONLY, key, None if change.removed else msgspec.json.encode(entry), [])


def _version(topic: str, value: bytes | None) -> int:
    if value is None:
        return 0
    try:
        return msgspec.json.decode(value, type=ListsHead).version
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        # somebody else wrote there: everything is written once more, which changes nothing that is right
        log.error(
            "the newest head of lists is unreadable; all is written anew", topic=topic, error=str(error)
        )
        return 0
