"""Labels of API requests on their way into a real Kafka."""

from __future__ import annotations

import asyncio

import pytest

from stream.kafka import KafkaConnection
from stream.label_gateway import KafkaLabelSink, LabelsUnwrittenError
from stream.label_logs import topic_records
from stream.log_reading import reader_conf
from stream.topics import Topics, create_topics, partition_of
from tidegate.embedded.process import free_port

pytestmark = [pytest.mark.kafka]


def test_what_is_confirmed_is_there_in_order_by_id(kafka: str, topic_prefix: str) -> None:
    create_topics({"bootstrap.servers": kafka}, topic_prefix, 3)
    first = [(f"e{n % 7}".encode(), b"%d" % n) for n in range(1000)]

    async def write() -> None:
        sink = KafkaLabelSink({"bootstrap.servers": kafka}, topic_prefix)
        await sink.start()
        await asyncio.gather(sink.write(first, 60.0), sink.write([(b"other", b"x")], 60.0))
        await sink.close()

    asyncio.run(write())
    conf = reader_conf(KafkaConnection(kafka), "tidegate-test", "tidegate-test")
    by_id: dict[bytes, list[bytes]] = {}
    for message in topic_records(conf, Topics(topic_prefix).labels):
        assert message.partition() == partition_of(message.key(), 3)
        by_id.setdefault(message.key(), []).append(message.value())
    assert by_id.pop(b"other") == [b"x"]
    assert by_id == {f"e{i}".encode(): [b"%d" % n for n in range(i, 1000, 7)] for i in range(7)}


def test_without_kafka_it_is_said_in_time_and_leaving_does_not_wait() -> None:
    async def write() -> None:
        conf = {"bootstrap.servers": f"127.0.0.1:{free_port()}", "log_level": 0}
        sink = KafkaLabelSink(conf, "nowhere")
        await sink.start()
        with pytest.raises(LabelsUnwrittenError) as caught:
            await sink.write([(b"e", b"1")], 0.05)
        assert "send them all again" in caught.value.remedy
        await sink.close()

    asyncio.run(asyncio.wait_for(write(), 60))
