"""The services that all other integration tests stand on, including how they break and come back."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import redis
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from tidegate.embedded.kafka import EmbeddedKafka
from tidegate.embedded.redis import EmbeddedRedis

NewKafka = Callable[[], EmbeddedKafka]
NewRedis = Callable[[], EmbeddedRedis]


def create_topic(bootstrap: str, name: str, partitions: int) -> None:
    admin = AdminClient({"bootstrap.servers": bootstrap})
    for done in admin.create_topics([NewTopic(name, partitions, 1)]).values():
        done.result(120)


def read_all(bootstrap: str, topic: str, count: int) -> list[bytes | None]:
    """The first ``count`` committed records of partition 0."""
    consumer = Consumer(
        {"bootstrap.servers": bootstrap, "group.id": topic, "isolation.level": "read_committed"}
    )
    try:
        consumer.assign([TopicPartition(topic, 0, 0)])
        return [
            message.value() for message in consumer.consume(count, timeout=120) if message.error() is None
        ]
    finally:
        consumer.close()


@pytest.mark.kafka
def test_a_transaction_commits_and_an_aborted_one_stays_unseen(kafka: str, topic_prefix: str) -> None:
    topic = f"{topic_prefix}.events"
    create_topic(kafka, topic, 1)
    producer = Producer({"bootstrap.servers": kafka, "transactional.id": topic_prefix})
    producer.init_transactions(120)
    producer.begin_transaction()
    producer.produce(topic, b"aborted")
    producer.flush(120)
    producer.abort_transaction(120)
    producer.begin_transaction()
    producer.produce(topic, b"committed")
    producer.commit_transaction(120)
    assert read_all(kafka, topic, 1) == [b"committed"]


@pytest.mark.kafka
def test_topics_do_not_appear_by_themselves(kafka: str, topic_prefix: str) -> None:
    found = AdminClient({"bootstrap.servers": kafka}).list_topics(topic_prefix, timeout=120)
    assert found.topics[topic_prefix].error is not None


@pytest.mark.kafka
def test_kafka_keeps_its_address_and_records_over_a_crash(new_kafka: NewKafka, topic_prefix: str) -> None:
    broker = new_kafka()
    bootstrap, first = broker.bootstrap, broker.pid
    create_topic(bootstrap, topic_prefix, 1)
    producer = Producer({"bootstrap.servers": bootstrap})
    producer.produce(topic_prefix, b"before")
    assert producer.flush(120) == 0
    broker.kill()
    assert not broker.running
    broker.restart()
    producer.produce(topic_prefix, b"after")
    assert producer.flush(120) == 0
    assert (broker.bootstrap, broker.pid != first) == (bootstrap, True)
    assert read_all(bootstrap, topic_prefix, 2) == [b"before", b"after"]


@pytest.mark.kafka
def test_a_later_run_continues_the_data_of_an_earlier_one(new_kafka: NewKafka, topic_prefix: str) -> None:
    broker = new_kafka()
    create_topic(broker.bootstrap, topic_prefix, 1)
    producer = Producer({"bootstrap.servers": broker.bootstrap})
    producer.produce(topic_prefix, b"kept")
    assert producer.flush(120) == 0
    broker.close()
    with EmbeddedKafka(broker.directory) as later:
        assert later.bootstrap == broker.bootstrap
        assert read_all(later.bootstrap, topic_prefix, 1) == [b"kept"]


@pytest.mark.redis
def test_redis_is_empty_and_never_evicts(redis_url: str) -> None:
    with redis.Redis.from_url(redis_url) as client:
        assert client.dbsize() == 0
        assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}


@pytest.mark.redis
def test_redis_keeps_its_address_and_data_over_a_crash(new_redis: NewRedis) -> None:
    server = new_redis()
    url = server.url
    with redis.Redis.from_url(url) as client:
        client.set("count", 2)
    server.kill()
    with redis.Redis.from_url(url, retry=None) as client, pytest.raises(redis.ConnectionError):
        client.ping()
    server.restart()
    with redis.Redis.from_url(url) as client:
        assert (server.url, client.get("count")) == (url, b"2")


@pytest.mark.redis
def test_a_paused_redis_does_not_answer_until_resumed(new_redis: NewRedis) -> None:
    server = new_redis()
    server.pause()
    impatient = redis.Redis.from_url(server.url, socket_timeout=0.2, retry=None)
    with impatient as client, pytest.raises(redis.TimeoutError):
        client.ping()
    server.resume()
    with redis.Redis.from_url(server.url) as client:
        assert client.ping()


@pytest.mark.redis
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux kills a child with its parent")
def test_redis_dies_with_a_parent_that_was_killed(tmp_path: Path) -> None:
    program = (
        "import sys\nfrom pathlib import Path\nfrom tidegate.embedded.redis import EmbeddedRedis\n"
        "server = EmbeddedRedis(Path(sys.argv[1])).start()\nprint(server.pid, flush=True)\nsys.stdin.read()\n"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with parent:
        assert parent.stdout is not None
        child = os.pidfd_open(int(parent.stdout.readline()))
        parent.send_signal(signal.SIGKILL)
        parent.wait(120)
        # A pidfd becomes readable when the process has ended.
        import select

        ended, _, _ = select.select([child], [], [], 120)
        os.close(child)
    assert ended == [child]
