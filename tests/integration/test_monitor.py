"""The drift monitor between a real Kafka and a real Redis."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from prometheus_client import CollectorRegistry
from pydantic import SecretStr

from domain.clock import SystemClock
from domain.drift_record import DriftAlarm, DriftState
from domain.pipeline import Pipeline
from domain.verdict import Verdict
from featurestore.drift_reports import DriftReports
from featurestore.redis_client import connect
from lifecycle.drift.pipeline import PipelineDrift
from stream.kafka import KafkaConnection
from stream.monitor import MonitorConfig, MonitorParts, run_monitor
from stream.monitor_metrics import MonitorMetrics
from stream.monitor_records import MonitorCodec
from stream.topics import Topics, create_topics
from tests.integration.standin_worker import produce_verdicts
from tests.unit.domain.samples import PAYMENTS
from tests.unit.lifecycle.drift.pipelines import labels, pipeline, settings, verdicts
from tidegate import processes
from tidegate.loading import load
from tidegate.settings import Settings

pytestmark = [pytest.mark.kafka]
ENOUGH = 90.0


class Killed(BaseException):
    """What a kill is to a thread: nothing is handled, nothing written."""


def eventually(happens: Callable[[], bool]) -> None:
    deadline = time.monotonic() + ENOUGH
    while not happens():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)  # between looks at another thread


class Monitor:
    """One in a thread. ``dies_at``: the step at which, the how-manieth time it comes there."""

    def __init__(self, kafka: str, watched: Pipeline, dies_at: tuple[str, int] | None = None) -> None:
        self.reports: list[DriftState] = []
        self.registry = CollectorRegistry()
        self.stop = threading.Event()
        self.failure: BaseException | None = None
        self._dies_at = dies_at
        self._came = 0
        parts = MonitorParts(
            kafka=KafkaConnection(kafka),
            pipeline=watched,
            settings=settings(),
            publish=self._publish,
            clock=SystemClock(),
            metrics=MonitorMetrics(self.registry),
            at=self._at,
        )
        # every batch is a transaction
        self._thread = threading.Thread(target=self._run, args=(MonitorConfig(commit_seconds=0.0), parts))
        self._thread.start()

    def _publish(self, report: bytes) -> None:
        self.reports.append(msgspec.json.decode(report, type=DriftState))

    def _at(self, step: str) -> None:
        if self._dies_at is not None and step == self._dies_at[0]:
            self._came += 1
            if self._came == self._dies_at[1]:
                raise Killed

    def _run(self, config: MonitorConfig, parts: MonitorParts) -> None:
        try:
            run_monitor(config, parts, self.stop)
        except BaseException as error:
            self.failure = error

    @property
    def leads(self) -> bool:
        return self.registry.get_sample_value("tidegate_monitor_leading") == 1

    @property
    def as_of(self) -> int | None:
        return self.reports[-1].as_of if self.reports else None

    def join(self) -> None:
        self._thread.join(ENOUGH)
        assert not self._thread.is_alive()


@contextmanager
def monitoring(kafka: str, watched: Pipeline, dies_at: tuple[str, int] | None = None) -> Iterator[Monitor]:
    monitor = Monitor(kafka, watched, dies_at)
    try:
        yield monitor
    finally:
        monitor.stop.set()
        monitor.join()
    if dies_at is None:
        assert monitor.failure is None


def told(kafka: str, watched: Pipeline) -> list[DriftAlarm]:
    """All committed alarms of the topic."""
    conf = {
        "bootstrap.servers": kafka,
        "group.id": "looker",
        "isolation.level": "read_committed",
        "enable.partition.eof": True,
    }
    consumer = Consumer(conf)
    try:
        consumer.assign([TopicPartition(Topics(watched.name).drift, 0, 0)])
        found: list[DriftAlarm] = []
        deadline = time.monotonic() + ENOUGH
        while True:
            assert time.monotonic() < deadline, "the topic has no end"
            message = consumer.poll(1.0)
            if message is None:
                continue
            if message.error() is not None:
                return found
            found.append(msgspec.json.decode(message.value() or b"", type=DriftAlarm))
            assert message.key() == found[-1].id.encode()
    finally:
        consumer.close()


def computed(watched: Pipeline, given: list[Verdict]) -> list[DriftAlarm]:
    """What the monitors say without Kafka."""
    codec, drift = MonitorCodec(watched), PipelineDrift(watched, settings())
    alarms = []
    for start in range(0, len(given), 20):
        rows = [codec.verdict(msgspec.json.encode(one)) for one in given[start : start + 20]]
        drift.verdicts(*codec.columns(rows))
        alarms += drift.close(rows[-1].event_time, None)
    return alarms


def last(given: list[Verdict]) -> int:
    return given[-1].event_time


@pytest.mark.parametrize("step", ["before_produce", "after_produce", "after_send_offsets", "after_commit"])
def test_killed_at_any_step_it_tells_each_alarm_once(kafka: str, topic_prefix: str, step: str) -> None:
    watched = pipeline(topic_prefix)
    create_topics({"bootstrap.servers": kafka}, topic_prefix, 2)
    usual, moved = verdicts(watched, range(34)), verdicts(watched, range(34, 40), shift=3.0)
    expected = computed(watched, usual + moved)
    assert expected
    # a transaction of traffic that nobody may see
    produce_verdicts(kafka, topic_prefix, verdicts(watched, range(34), shift=9.0), abort=True)
    produce_verdicts(kafka, topic_prefix, usual)
    with monitoring(kafka, watched) as monitor:
        eventually(lambda: monitor.as_of == last(usual))
    produce_verdicts(kafka, topic_prefix, moved)
    with monitoring(kafka, watched, dies_at=(step, 1)) as monitor:
        eventually(lambda: monitor.failure is not None)
    assert isinstance(monitor.failure, Killed)
    with monitoring(kafka, watched) as monitor:
        eventually(lambda: monitor.as_of == last(moved))
    assert told(kafka, watched) == expected


def test_one_monitors_the_other_stands_by_and_takes_over(kafka: str, topic_prefix: str) -> None:
    watched = pipeline(topic_prefix)
    create_topics({"bootstrap.servers": kafka}, topic_prefix, 2)
    usual, moved = verdicts(watched, range(34)), verdicts(watched, range(34, 40), shift=3.0)
    produce_verdicts(kafka, topic_prefix, usual)
    with monitoring(kafka, watched) as first:
        eventually(lambda: first.as_of == last(usual))
        with monitoring(kafka, watched) as second:
            # whoever the group chooses: one of them
            eventually(lambda: first.leads != second.leads)
            first.stop.set()
            first.join()
            eventually(lambda: second.leads)
            assert not first.leads
            produce_verdicts(kafka, topic_prefix, moved)
            eventually(lambda: second.as_of == last(moved))
    assert told(kafka, watched) == computed(watched, usual + moved)


def test_labels_are_followed_strangers_counted_and_a_new_pipeline_version_begins_anew(
    kafka: str, topic_prefix: str
) -> None:
    watched = pipeline(topic_prefix)
    create_topics({"bootstrap.servers": kafka}, topic_prefix, 2)
    known = labels(range(45))
    producer = Producer({"bootstrap.servers": kafka})
    for at, label in enumerate(known):
        producer.produce(Topics(topic_prefix).labels_joined, msgspec.json.encode(label), partition=at % 2)
    producer.produce(Topics(topic_prefix).verdicts, b"not a verdict", partition=0)
    assert producer.flush(30) == 0
    first = verdicts(watched, range(60))
    produce_verdicts(kafka, topic_prefix, first)

    def sample(of: Monitor, name: str, **names: str) -> Any:
        return of.registry.get_sample_value(f"tidegate_{name}", names)

    with monitoring(kafka, watched) as monitor:
        eventually(lambda: monitor.as_of == last(first))
        assert [bank.phase for bank in monitor.reports[-1].banks] == ["watching", "watching"]
        assert sample(monitor, "monitor_skipped_total", reason="unreadable") == 1
        assert sample(monitor, "monitor_labels_total") == len(known)
        assert sample(monitor, "monitor_verdicts_total") == len(first)
        assert sample(monitor, "drift_threshold", column="error", monitor="ks") >= 0.3
    changed = msgspec.structs.replace(watched, digest="changed")
    more = verdicts(changed, range(60, 62))
    produce_verdicts(kafka, topic_prefix, more)
    with monitoring(kafka, changed) as monitor:
        eventually(lambda: monitor.as_of == last(more))
        assert monitor.reports[-1].banks[0].phase == "warming_up"
        # what was judged under the old version is not read again
        assert sample(monitor, "monitor_verdicts_total") == len(more)


@pytest.mark.redis
def test_the_report_in_redis_is_the_newest(redis_url: str) -> None:
    with connect(redis_url) as client:
        reports = DriftReports(client, "a {pipeline}")
        assert reports.get() is None
        reports.put(b"one")
        reports.put(b"two")
        assert reports.get() == b"two"
        assert DriftReports(client, "another").get() is None


@pytest.mark.redis
def test_the_process_puts_its_report_where_the_api_looks(
    kafka: str, redis_url: str, topic_prefix: str, tmp_path: Path
) -> None:
    file = tmp_path / "pipeline.yaml"
    file.write_text(PAYMENTS.replace("pipeline: payments", f"pipeline: {topic_prefix}"))
    watched = load(file)
    create_topics({"bootstrap.servers": kafka}, topic_prefix, 2)
    given = verdicts(watched, range(3))
    produce_verdicts(kafka, topic_prefix, given)
    settings = Settings(pipeline=file, kafka_bootstrap=kafka, redis_url=SecretStr(redis_url))
    stop = threading.Event()
    thread = threading.Thread(target=processes.monitor, args=(settings, stop))
    thread.start()
    try:
        with connect(redis_url) as client:
            reports = DriftReports(client, topic_prefix)

            def told() -> bool:
                raw = reports.get()
                return raw is not None and msgspec.json.decode(raw, type=DriftState).as_of == last(given)

            eventually(told)
    finally:
        stop.set()
        thread.join(ENOUGH)
    assert not thread.is_alive()
