"""Snoozed entities, from the database through a real Kafka to what the dispatcher asks."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import msgspec
import pytest

from domain.clock import ManualClock, SystemClock
from domain.list_records import SNOOZED
from lifecycle.database import Database
from lifecycle.list_store import NewEntry, SqlListStore
from stream.kafka import KafkaConnection
from stream.lists_follower import ListsFollower
from stream.lists_topic import publish_lists
from stream.topics import create_topics
from tests.alerts import NOW, alert
from tests.system.scene import eventually
from tidegate.snoozes import Snoozes

pytestmark = pytest.mark.kafka


def test_alerts_of_a_snoozed_entity_are_not_wanted_until_it_ends(
    kafka: str, topic_prefix: str, tmp_path: Path
) -> None:
    create_topics({"bootstrap.servers": kafka}, topic_prefix, 1)
    connection = KafkaConnection(kafka)
    with (
        closing(Database(f"sqlite:///{tmp_path}/lists.sqlite")) as database,
        closing(
            Snoozes(ListsFollower(connection, topic_prefix, SystemClock(), client_id="snoozes"))
        ) as snoozed,
    ):
        store = SqlListStore(database, topic_prefix, ManualClock(NOW))
        loud, quiet = alert("e1", account="a"), alert("e2", account="b")
        assert not snoozed(quiet)
        store.put(
            SNOOZED, [NewEntry(field="account", value="b", expires_at=NOW + 10)], by="anna", reason="known"
        )
        publish_lists(connection, topic_prefix, store)
        eventually("the snooze is known", lambda: snoozed(quiet))
        assert not snoozed(loud)
        # the value of another field is nobody's snooze
        assert not snoozed(msgspec.structs.replace(quiet, entities={"merchant": "b"}))
        assert not snoozed(msgspec.structs.replace(quiet, event_time=NOW + 10))
        store.remove(SNOOZED, [("account", "b")], by="anna", reason="over")
        publish_lists(connection, topic_prefix, store)
        eventually("the snooze has ended", lambda: not snoozed(quiet))
