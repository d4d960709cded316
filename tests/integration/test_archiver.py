"""The archiver between a real Kafka and a real Redis."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from prometheus_client import CollectorRegistry

from domain.clock import ManualClock, SystemClock
from featurestore.hot_verdicts import HotVerdicts, RedisHotVerdicts
from featurestore.redis_client import connect
from stream.archiver import ArchiverMetrics, run_archiver
from stream.topics import Topics, create_topics
from tests.contract.check_hot_verdicts import NOW, drain, verdict
from tests.integration.standin_worker import produce_verdicts
from tests.redis_process import RedisProcess, system_binary
from tests.system.scene import PATIENCE

pytestmark = [pytest.mark.kafka, pytest.mark.redis]
ENOUGH = PATIENCE


def eventually(happens: Callable[[], bool]) -> None:
    deadline = time.monotonic() + ENOUGH
    while not happens():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)  # between looks at another process


@contextmanager
def archiving(
    kafka: str, pipeline: str, hot: HotVerdicts, metrics: ArchiverMetrics | None = None
) -> Iterator[None]:
    stop = threading.Event()
    conf = {"bootstrap.servers": kafka}
    thread = threading.Thread(
        target=run_archiver, args=(conf, pipeline, hot, stop, SystemClock()), kwargs={"metrics": metrics}
    )
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(ENOUGH)
        assert not thread.is_alive()


def committed(kafka: str, pipeline: str, partitions: int) -> list[int]:
    consumer = Consumer({"bootstrap.servers": kafka, "group.id": f"{pipeline}.archiver"})
    try:
        places = [TopicPartition(Topics(pipeline).verdicts, p) for p in range(partitions)]
        return [place.offset for place in consumer.committed(places, timeout=120)]
    finally:
        consumer.close()


def test_committed_verdicts_only_once_each_and_strangers_do_not_stop_it(
    kafka: str, redis_url: str, topic_prefix: str
) -> None:
    create_topics({"bootstrap.servers": kafka}, topic_prefix, 2)
    produce_verdicts(kafka, topic_prefix, [verdict(i, partition=i % 2) for i in range(20, 26)], abort=True)
    produce_verdicts(kafka, topic_prefix, [verdict(i, partition=i % 2) for i in range(10)])
    stranger = Producer({"bootstrap.servers": kafka})
    stranger.produce(Topics(topic_prefix).verdicts, b"not a verdict", partition=0)
    assert stranger.flush(120) == 0
    produce_verdicts(kafka, topic_prefix, [verdict(i, partition=i % 2) for i in range(10, 12)])
    registry = CollectorRegistry()
    with connect(redis_url) as client:
        hot = RedisHotVerdicts(client, topic_prefix, ManualClock(NOW))
        expected = [f"{i % 2}-{i}" for i in range(11, -1, -1)]
        with archiving(kafka, topic_prefix, hot, ArchiverMetrics(registry)):
            eventually(lambda: drain(hot) == expected)
        assert registry.get_sample_value("tidegate_archiver_skipped_total") == 1
        assert registry.get_sample_value("tidegate_archiver_verdicts_total") == 12
        assert min(committed(kafka, topic_prefix, 2)) > 6
        produce_verdicts(kafka, topic_prefix, [verdict(12)])
        registry = CollectorRegistry()
        with archiving(kafka, topic_prefix, hot, ArchiverMetrics(registry)):
            eventually(lambda: drain(hot) == ["0-12", *expected])
        # a second start goes on where the first ended
        assert registry.get_sample_value("tidegate_archiver_verdicts_total") == 1


def test_redis_away_drops_nothing_and_commits_nothing(kafka: str, topic_prefix: str) -> None:
    create_topics({"bootstrap.servers": kafka}, topic_prefix, 1)
    registry = CollectorRegistry()
    server = RedisProcess(system_binary())
    with connect(server.url) as client:
        hot = RedisHotVerdicts(client, topic_prefix, ManualClock(NOW))
        server.stop()
        with archiving(kafka, topic_prefix, hot, ArchiverMetrics(registry)):
            produce_verdicts(kafka, topic_prefix, [verdict(i) for i in range(5)])
            eventually(
                lambda: (registry.get_sample_value("tidegate_archiver_store_failures_total") or 0) >= 2
            )
            assert registry.get_sample_value("tidegate_archiver_waiting") == 1
        assert committed(kafka, topic_prefix, 1) == [-1001]


class Flaky:
    """Away for its first calls."""

    def __init__(self, hot: HotVerdicts, times: int) -> None:
        self.hot = hot
        self.left = times

    def put_many(self, verdicts: object) -> None:
        from domain.errors import StoreUnavailable

        if self.left:
            self.left -= 1
            raise StoreUnavailable("away")
        self.hot.put_many(verdicts)  # type: ignore[arg-type]


def test_redis_back_again_gets_everything(kafka: str, redis_url: str, topic_prefix: str) -> None:
    create_topics({"bootstrap.servers": kafka}, topic_prefix, 2)
    with connect(redis_url) as client:
        hot = RedisHotVerdicts(client, topic_prefix, ManualClock(NOW))
        with archiving(kafka, topic_prefix, Flaky(hot, 3)):  # type: ignore[arg-type]
            produce_verdicts(kafka, topic_prefix, [verdict(i, partition=i % 2) for i in range(2000)])
            eventually(lambda: hot.get("e1999") is not None and hot.get("e1998") is not None)
        assert len(drain(hot, limit=500)) == 2000
