"""The limit: a bare transactional consume-produce loop, as fast as Python and librdkafka make it.

``python -m benchmarks.throughput_passthrough BOOTSTRAP SOURCE TARGET GROUP BATCH COUNT WARM`` copies keys and
values of ``COUNT`` records unchanged, ``BATCH`` to a transaction. It prints ``warm`` after ``WARM`` records
and one JSON object at the end. Client settings are the worker's own, but for :data:`FETCH`.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

from confluent_kafka import Consumer, Producer, TopicPartition

from stream.kafka import KafkaConnection

__all__ = ["copy"]

SECONDS = 30.0
FETCH = {"fetch.queue.backoff.ms": 2, "queued.min.messages": 100_000}
"""Without these the loop idles: one fetch of small events overfills the queue, and librdkafka then waits its
default of a second before the next. Measured: 41,000/s at every batch size without, 154,000 to 218,000/s with
them at 2,000 a transaction. A limit that waits would flatter the worker."""


def copy(bootstrap: str, source: str, target: str, group: str, batch: int, count: int, warm: int) -> float:
    """Copy ``count`` records; returns the CPU seconds of this process after the first ``warm`` of them."""
    connection = KafkaConnection(bootstrap)
    producer = Producer(connection.transactional_producer(group, group))
    producer.init_transactions(SECONDS)
    consumer = Consumer(connection.group_member(group, group) | FETCH)
    consumer.subscribe([source])
    done = 0
    cpu: float | None = None
    while done < count:
        messages: list[Any] = consumer.consume(batch, 0.1)
        if not messages:
            continue
        copies: dict[int, list[dict[str, Any]]] = {}
        ends: dict[int, int] = {}
        for message in messages:
            if message.error() is not None:
                raise SystemExit(f"reading {source}: {message.error()}")
            partition = message.partition()
            copies.setdefault(partition, []).append({"key": message.key(), "value": message.value()})
            ends[partition] = message.offset() + 1
        producer.begin_transaction()
        for partition, records in copies.items():
            if producer.produce_batch(target, records, partition=partition) != len(records):
                raise SystemExit("the producer's queue is full")
        offsets = [TopicPartition(source, p, end) for p, end in ends.items()]
        producer.send_offsets_to_transaction(offsets, consumer.consumer_group_metadata(), SECONDS)
        producer.commit_transaction(SECONDS)
        done += len(messages)
        if cpu is None and done >= warm:
            cpu = time.process_time()
            print("warm", flush=True)
    used = time.process_time() - (cpu or 0.0)
    print(json.dumps({"copied": done, "cpu_seconds": used}), flush=True)
    consumer.close()
    return used


def main() -> None:
    bootstrap, source, target, group, batch, count, warm = sys.argv[1:]
    copy(bootstrap, source, target, group, int(batch), int(count), int(warm))


if __name__ == "__main__":
    main()
