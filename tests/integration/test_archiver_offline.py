"""The archiver of the offline store between a real Kafka and real Delta tables."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient
from prometheus_client import CollectorRegistry

from domain.clock import SystemClock
from domain.errors import StateMismatch
from domain.verdict import Verdict
from featurestore.offline import OfflineStore
from featurestore.offline_port import LogRecord
from stream.archiver_offline import (
    OfflineArchiverMetrics,
    OfflineArchiverSettings,
    run_offline_archiver,
)
from stream.dead_letters import HEADER_FIELD, HEADER_REASON
from stream.kafka import KafkaConnection
from stream.log_identity import log_identity
from stream.topics import Topics, create_topics
from tests.integration.standin_worker import produce_verdicts
from tests.system.scene import eventually
from tests.unit.featurestore.offline_rows import NOON, label, small, verdict_of

pytestmark = [pytest.mark.kafka]
QUICK = OfflineArchiverSettings(seconds=0.05)


def store_of(folder: Path, name: str) -> OfflineStore:
    return OfflineStore(str(folder), small("amount", "tip", name=name))


def places(store: OfflineStore) -> list[tuple[int, int]]:
    """(partition, offset) of all verdicts in the store."""
    snapshot = store.verdicts.snapshot()
    if snapshot is None:
        return []
    rows = snapshot.read(["partition", "offset"], "true").read_all().to_pylist()
    return sorted((row["partition"], row["offset"]) for row in rows)


def label_places(store: OfflineStore) -> list[tuple[int, int]]:
    snapshot = store.labels.snapshot()
    if snapshot is None:
        return []
    rows = snapshot.read(["partition", "offset"], "true").read_all().to_pylist()
    return sorted((row["partition"], row["offset"]) for row in rows)


def refusals(store: OfflineStore) -> list[tuple[str, str]]:
    snapshot = store.dead_letters.snapshot()
    if snapshot is None:
        return []
    rows = snapshot.read(["reason", "field"], "true").read_all().to_pylist()
    return [(row["reason"], row["field"]) for row in rows]


def produce(kafka: str, topic: str, records: list[LogRecord]) -> None:
    producer = Producer({"bootstrap.servers": kafka})
    for record in records:
        producer.produce(topic, record.value, partition=record.partition)
    assert producer.flush(30) == 0


@contextmanager
def archiving(
    kafka: str, name: str, store: OfflineStore, registry: CollectorRegistry | None = None, member: str = ""
) -> Iterator[list[BaseException]]:
    """An archiver in a thread; what it raised is in the list."""
    stop, raised = threading.Event(), list[BaseException]()
    connection = KafkaConnection(kafka, {"group.instance.id": member} if member else {})

    def run() -> None:
        try:
            run_offline_archiver(
                connection, name, store, stop, SystemClock(), settings=QUICK,
                metrics=OfflineArchiverMetrics(registry or CollectorRegistry()),
            )  # fmt: skip
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield raised
    finally:
        stop.set()
        thread.join(60)
        assert not thread.is_alive()


def test_what_is_committed_is_there_once_and_a_restart_goes_on(
    kafka: str, topic_prefix: str, tmp_path: Path
) -> None:
    create_topics({"bootstrap.servers": kafka}, topic_prefix, 2)
    topics, store = Topics(topic_prefix), store_of(tmp_path, topic_prefix)
    verdicts = [verdict_of(i, partition=i % 2) for i in range(40)]
    produce_verdicts(kafka, topic_prefix, [verdict_of(i) for i in range(90, 95)], abort=True)
    produce_verdicts(kafka, topic_prefix, verdicts[:20])
    produce(kafka, topics.verdicts, [LogRecord(1, 0, b"no verdict")])
    produce(kafka, topics.labels_joined, [label(0, v, NOON, 1) for v in verdicts[:4]])
    letter = Producer({"bootstrap.servers": kafka})
    headers: list[tuple[str, str | bytes | None]] = [
        (HEADER_REASON, b"missing_field"),
        (HEADER_FIELD, b"amount"),
    ]
    letter.produce(topics.dead_letters, b"4929 1234", partition=1, headers=headers)
    assert letter.flush(30) == 0
    registry = CollectorRegistry()
    with archiving(kafka, topic_prefix, store, registry) as raised:
        eventually("a dead letter", lambda: refusals(store) == [("missing_field", "amount")])
        eventually("20 verdicts, 4 labels", lambda: (len(places(store)), len(label_places(store))) == (20, 4))
        eventually(
            "the stranger was counted",
            lambda: registry.get_sample_value("tidegate_offline_strangers_total", {"table": "verdicts"}) == 1,
        )
    assert raised == []
    produce_verdicts(kafka, topic_prefix, verdicts[20:])
    with archiving(kafka, topic_prefix, store) as raised:
        eventually("all verdicts", lambda: len(places(store)) >= 40)
    assert raised == []
    assert places(store) == sorted((i % 2, i) for i in range(40))
    assert store.find([v.id for v in verdicts]) == {v.id: msgspec.json.encode(v) for v in verdicts}
    assert store.count(store.pin(), 0, 2**60, NOON).labelled == 4


STEPS = ("received", "before", "file", "appended verdicts", "appended labels", "committed")


def test_killed_at_each_step_it_writes_nothing_twice_and_leaves_nothing_out(
    kafka: str, topic_prefix: str, tmp_path: Path
) -> None:
    create_topics({"bootstrap.servers": kafka}, topic_prefix, 1)
    store, written = store_of(tmp_path, topic_prefix), list[Verdict]()

    def more() -> None:
        new = [verdict_of(i) for i in range(len(written), len(written) + 10)]
        # labels first: when the last verdict is seen, so is all that came before it
        produce(kafka, Topics(topic_prefix).labels_joined, [label(0, v, NOON, 1) for v in new])
        produce_verdicts(kafka, topic_prefix, new)
        written.extend(new)

    for step in STEPS:
        more()
        arguments = [kafka, topic_prefix, str(tmp_path), step]
        program = [sys.executable, "-m", "tests.integration.offline_archiver_program", *arguments]
        done = subprocess.run(program, check=False, timeout=120, cwd=Path(__file__).parents[2])
        assert done.returncode == -signal.SIGKILL
    with archiving(kafka, topic_prefix, store, member="one") as raised:
        eventually("all verdicts", lambda: len(places(store)) >= len(written))
        eventually("all labels", lambda: len(label_places(store)) >= len(written))
    assert raised == []
    assert places(store) == [(0, i) for i in range(len(written))]
    # each transaction of verdicts leaves a mark in their log, labels came without
    assert label_places(store) == [(0, i) for i in range(len(written))]


def test_it_waits_for_a_store_that_is_away_and_loses_nothing(
    kafka: str, topic_prefix: str, tmp_path: Path
) -> None:
    create_topics({"bootstrap.servers": kafka}, topic_prefix, 1)
    store, registry = store_of(tmp_path / "away", topic_prefix), CollectorRegistry()
    (tmp_path / "away").write_text("no folder")
    produce_verdicts(kafka, topic_prefix, [verdict_of(i) for i in range(5)])
    with archiving(kafka, topic_prefix, store, registry) as raised:
        eventually(
            "refused twice",
            lambda: (registry.get_sample_value("tidegate_offline_failures_total") or 0) >= 2,
        )
        assert registry.get_sample_value("tidegate_offline_waiting") == 1
        (tmp_path / "away").unlink()
        eventually("all verdicts", lambda: len(places(store)) == 5)
        eventually("waits no more", lambda: registry.get_sample_value("tidegate_offline_waiting") == 0)
    assert raised == []


def test_a_topic_made_anew_is_another_log_and_a_shorter_one_is_refused(
    kafka: str, topic_prefix: str, tmp_path: Path
) -> None:
    create_topics({"bootstrap.servers": kafka}, topic_prefix, 1)
    topic, store = Topics(topic_prefix).verdicts, store_of(tmp_path, topic_prefix)
    admin = AdminClient({"bootstrap.servers": kafka})
    log = log_identity(admin, topic)
    assert log == log_identity(admin, topic)
    assert log != log_identity(admin, Topics(topic_prefix).labels_joined)
    produce_verdicts(kafka, topic_prefix, [verdict_of(i) for i in range(3)])
    ahead = verdict_of(50)
    store.append_verdicts([LogRecord(0, 50, msgspec.json.encode(ahead))], log)
    with archiving(kafka, topic_prefix, store) as raised:
        eventually("it gives up", lambda: bool(raised))
    assert isinstance(raised[0], StateMismatch)
    assert "holds it up to 50" in str(raised[0])
    assert places(store) == [(0, 50)]
