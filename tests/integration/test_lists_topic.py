"""From the database of lists to a follower, through a real Kafka."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from domain.clock import ManualClock, SystemClock
from domain.errors import Fatal, ServiceMissing
from lifecycle.database import Database
from lifecycle.list_store import NewEntry, SqlListStore
from stream import lists_topic
from stream.kafka import KafkaConnection
from stream.lists_follower import ListsFollower
from stream.lists_topic import publish_lists
from stream.state_topic import Published
from stream.topics import create_topics
from tests.models import NOW
from tests.system.scene import eventually

pytestmark = pytest.mark.kafka


class Killed(Exception):
    """What a fault point raises."""


@pytest.fixture
def connection(kafka: str) -> KafkaConnection:
    return KafkaConnection(kafka)


@pytest.fixture
def store(kafka: str, topic_prefix: str, tmp_path: Path) -> Iterator[SqlListStore]:
    create_topics({"bootstrap.servers": kafka}, topic_prefix, 1)
    database = Database(f"sqlite:///{tmp_path}/lists.sqlite")
    yield SqlListStore(database, topic_prefix, ManualClock(NOW))
    database.close()


@pytest.fixture
def follower(connection: KafkaConnection, topic_prefix: str) -> Iterator[ListsFollower]:
    made = ListsFollower(connection, topic_prefix, SystemClock(), client_id="test")
    yield made
    made.close()


def add(store: SqlListStore, *values: str, until: int | None = None) -> None:
    new = [NewEntry(field="shop", value=value, expires_at=until) for value in values]
    store.put("bad", new, by="x", reason="y")


def there(follower: ListsFollower, *values: str, at: int = 0) -> list[bool]:
    found: list[bool] = follower.lists.contains(
        "bad", "shop", values, np.full(len(values), at, dtype=np.int64)
    ).tolist()
    return found


def until_version(follower: ListsFollower, version: int) -> None:
    """A commit becomes visible later than it was acknowledged."""

    def reached() -> bool:
        follower.begin()
        follower.poll()
        return follower.lists.version == version

    eventually(f"lists at version {version}", reached)


def test_entries_arrive_change_and_go(
    connection: KafkaConnection,
    store: SqlListStore,
    follower: ListsFollower,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(lists_topic, "AT_ONCE", 3)
    assert publish_lists(connection, store.pipeline, store) == Published(0, False)
    add(store, "a", "b", "c", "d")
    add(store, "e", until=10)
    assert publish_lists(connection, store.pipeline, store) == Published(5, True)
    assert publish_lists(connection, store.pipeline, store) == Published(5, False)
    until_version(follower, 5)
    assert there(follower, "a", "d", "e", "f") == [True, True, True, False]
    assert there(follower, "a", "e", at=10) == [True, False]

    store.remove("bad", [("shop", "a"), ("shop", "e")], by="x", reason="y")
    add(store, "f")
    assert publish_lists(connection, store.pipeline, store) == Published(8, True)
    until_version(follower, 8)
    assert there(follower, "a", "b", "e", "f") == [False, True, False, True]

    # who comes later reads the same
    late = ListsFollower(connection, store.pipeline, SystemClock(), client_id="late")
    try:
        until_version(late, 8)
        assert there(late, "a", "b", "e", "f") == [False, True, False, True]
        assert len(late) == len(follower) == 4
    finally:
        late.close()


@pytest.mark.parametrize("point", ["read", "after_produce", "after_commit"])
def test_a_publisher_that_dies_is_replaced(
    connection: KafkaConnection,
    store: SqlListStore,
    follower: ListsFollower,
    monkeypatch: pytest.MonkeyPatch,
    point: str,
) -> None:
    monkeypatch.setattr(lists_topic, "AT_ONCE", 2)

    def die(reached: str) -> None:
        if reached == point:
            raise Killed

    add(store, "a", "b", "c")
    with pytest.raises(Killed):
        publish_lists(connection, store.pipeline, store, at=die)
    assert publish_lists(connection, store.pipeline, store).epoch == 3
    until_version(follower, 3)
    assert there(follower, "a", "b", "c") == [True] * 3
    assert follower.unreadable == 0


def test_a_publisher_with_old_news_is_locked_out_and_looks_again(
    connection: KafkaConnection, store: SqlListStore, follower: ListsFollower
) -> None:
    overtaken: list[Published] = []
    add(store, "a")

    def overtake(reached: str) -> None:
        if reached == "after_produce" and not overtaken:
            store.remove("bad", [("shop", "a")], by="x", reason="y")
            overtaken.append(publish_lists(connection, store.pipeline, store))

    assert publish_lists(connection, store.pipeline, store, at=overtake) == Published(2, False)
    assert overtaken == [Published(2, True)]
    until_version(follower, 2)
    assert there(follower, "a") == [False]


def test_an_older_database_does_not_turn_the_clock_back(
    connection: KafkaConnection, store: SqlListStore, tmp_path: Path
) -> None:
    add(store, "a")
    publish_lists(connection, store.pipeline, store)
    database = Database(f"sqlite:///{tmp_path}/older.sqlite")
    try:
        with pytest.raises(Fatal, match="older copy"):
            publish_lists(connection, store.pipeline, SqlListStore(database, store.pipeline, SystemClock()))
    finally:
        database.close()


def test_without_the_topic_it_says_what_to_do(
    connection: KafkaConnection, topic_prefix: str, tmp_path: Path
) -> None:
    database = Database(f"sqlite:///{tmp_path}/lists.sqlite")
    try:
        with pytest.raises(ServiceMissing, match=f"{topic_prefix}.lists"):
            publish_lists(connection, topic_prefix, SqlListStore(database, topic_prefix, SystemClock()))
    finally:
        database.close()
