"""What an erasure needs of Kafka: its control records in every partition, and how far those who copy verdicts are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition

from domain.erasure import CONTROL_ERASE, Erasure, ErasureCodec
from domain.errors import Retriable
from stream.kafka import KafkaConnection
from stream.log_reading import ASK_SECONDS, committed_records, ends, reader_conf
from stream.topics import HEADER_CONTROL, Topics, partitions_of

__all__ = ["ErasureLog"]

_DELIVERY_SECONDS = 20.0
_LOOK_BACK = 64
"""Records before the end of a partition among which its last verdict is looked for first: markers lie between."""


class ErasureLog:
    """Control records and positions of one pipeline. Methods raise Retriable when Kafka is away."""

    def __init__(self, kafka: KafkaConnection, pipeline: str, codec: ErasureCodec, client_id: str) -> None:
        self._kafka = kafka
        self._pipeline = pipeline
        self._topics = Topics(pipeline)
        self._codec = codec
        self._client_id = client_id

    def write(self, id_: str, entity: str, value: str) -> dict[int, int]:
        """Write the erasure ``id_`` into every partition of ``events``; partition to offset."""
        conf = {**self._kafka.client(self._client_id), "enable.idempotence": True, "acks": "all"}
        producer = Producer(conf)
        points: dict[int, int] = {}
        failed: list[KafkaError] = []

        def delivered(error: KafkaError | None, message: Any) -> None:
            if error is not None:
                failed.append(error)
            else:
                points[message.partition()] = message.offset()

        try:
            count = partitions_of(producer, self._topics.events)
            for partition in range(count):
                erasure = Erasure(entity=entity, value=value, id=id_, partition=partition)
                producer.produce(
                    self._topics.events, self._codec.encode(erasure), partition=partition,
                    headers=[(HEADER_CONTROL, CONTROL_ERASE)], on_delivery=delivered,
                )  # fmt: skip
            producer.flush(_DELIVERY_SECONDS)
        except KafkaException as error:
            raise _refused(self._topics.events, error.args[0]) from error
        if len(points) != count:
            raise _refused(self._topics.events, failed[0] if failed else "no answer")
        return points

    def last_verdicts(self) -> dict[int, int]:
        """Offset of the last committed verdict of each partition now, -1 where there is none."""
        conf = reader_conf(self._kafka, self._client_id, f"tidegate-{self._pipeline}.erasures")
        topic, last = self._topics.verdicts, {}
        probe, consumer = Consumer({**conf, "isolation.level": "read_uncommitted"}), Consumer(conf)
        try:
            for partition in range(partitions_of(probe, topic)):
                first, end = ends(probe, topic, partition)
                back, last[partition] = _LOOK_BACK, -1
                while last[partition] < 0:
                    start = max(first, end - back)
                    for message in committed_records(consumer, topic, {partition: (start, end)}):
                        last[partition] = message.offset()
                    if start == first:
                        break
                    back *= 16
        finally:
            probe.close()
            consumer.close()
        return last

    def archived(self, verdicts: Mapping[int, int]) -> bool:
        """Whether the archiver of recent verdicts has passed all of ``verdicts``."""
        group = f"{self._pipeline}.archiver"
        consumer = Consumer(self._kafka.reader(self._client_id, group))
        try:
            asked = [TopicPartition(self._topics.verdicts, partition) for partition in verdicts]
            found = consumer.committed(asked, ASK_SECONDS)
            for place in found:
                if place.error is not None:
                    raise KafkaException(place.error)
        except KafkaException as error:
            raise Retriable(
                f"Kafka did not say how far {group} is: {error.args[0]}",
                remedy="check the connection to Kafka",
            ) from error
        finally:
            consumer.close()
        return all(
            place.offset > verdicts[place.partition] or verdicts[place.partition] < 0 for place in found
        )


def _refused(topic: str, why: object) -> Retriable:
    return Retriable(
        f"Kafka did not take an erasure into {topic}: {why}",
        remedy="check the connection to Kafka and our rights on the topic; it is tried again",
    )
