"""Topic names, the Java client's partitioning, and creation on librdkafka's embedded broker."""

from __future__ import annotations

import pytest
from confluent_kafka import Producer

from stream.topics import Topics, create_topics, partition_of, partitions_of

JAVA_HASHES = {  # from Kafka's own UtilsTest.testMurmur2
    b"21": -973932308,
    b"foobar": -790332482,
    b"a-little-bit-long-string": -985981536,
    b"a-little-bit-longer-string": -1486304829,
    b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8": -58897971,
    b"abc": 479470107,
}


@pytest.mark.parametrize("key", JAVA_HASHES)
def test_keys_lie_where_the_java_client_puts_them(key: bytes) -> None:
    for count in (1, 7, 12, 1_000_003):
        assert partition_of(key, count) == (JAVA_HASHES[key] & 0x7FFFFFFF) % count


def test_topics_appear_on_the_embedded_broker_and_creating_twice_changes_nothing() -> None:
    broker = Producer({"bootstrap.servers": "embedded", "test.mock.num.brokers": 1, "log_level": 0})
    found = next(iter(broker.list_topics(timeout=10).brokers.values()))
    conf = {"bootstrap.servers": f"{found.host}:{found.port}", "log_level": 0}
    first = create_topics(conf, "payments", 4, embedded=True)
    assert create_topics(conf, "payments", 9, embedded=True) == first
    assert partitions_of(broker, Topics("payments").verdicts) == first
