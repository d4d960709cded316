"""Events for the throughput benchmark, and a producer that sends them at an even rate from its own process.

``python -m benchmarks.throughput_load BOOTSTRAP TOPIC RATE SKIP COUNT`` sends ``COUNT`` of the seeded events
after the first ``SKIP`` at ``RATE`` a second, and prints one JSON object with the rate it really kept.
"""

from __future__ import annotations

import json
import sys
import time
from itertools import islice
from typing import Any

from confluent_kafka import Producer

from stream.generator import Traffic, TrafficSettings
from stream.topics import PARTITIONER

__all__ = ["SEED", "SEND_AT_ONCE", "producer_settings", "traffic"]

SEED = 1
SEND_AT_ONCE = 50_000
"""Below the 100,000 records that a producer queues."""
TICK_SECONDS = 0.002
"""Between two sends of the paced producer: short beside the latencies that are measured."""


def traffic(skip: int, count: int) -> list[tuple[bytes, bytes]]:
    """(key, payload) of ``count`` payments after the first ``skip``: 5,000 accounts, 800 merchants."""
    events = islice(iter(Traffic(TrafficSettings(seed=SEED))), skip, skip + count)
    return [(event.key.encode(), event.payload) for event in events]


def producer_settings(bootstrap: str) -> dict[str, Any]:
    """An ordinary producer of events."""
    return {"bootstrap.servers": bootstrap, "partitioner": PARTITIONER, "linger.ms": 1}


def main() -> None:
    bootstrap, topic, rate, skip, count = sys.argv[1:]
    records = traffic(int(skip), int(count))
    producer = Producer(producer_settings(bootstrap))
    producer.list_topics(topic, 10.0)  # connected before the clock runs
    begin = time.monotonic()
    sent = 0
    while sent < len(records):
        due = min(int((time.monotonic() - begin) * float(rate)) + 1, len(records))
        if due > sent:
            messages: list[dict[str, Any]] = [{"key": k, "value": v} for k, v in records[sent:due]]
            if producer.produce_batch(topic, messages) != len(messages):
                raise SystemExit("the producer's queue is full: the rate is too high for this machine")
            sent = due
        producer.poll(0)
        time.sleep(TICK_SECONDS)
    seconds = time.monotonic() - begin
    producer.flush(30.0)
    print(json.dumps({"sent": sent, "seconds": seconds, "rate": sent / seconds}))


if __name__ == "__main__":
    main()
