"""Client configuration of our consumers and producers, each value with its reason."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from stream.topics import DEAD_LETTER_ROOM, MAX_MESSAGE_BYTES, PARTITIONER

__all__ = ["KafkaConnection"]


@dataclass(frozen=True, slots=True)
class KafkaConnection:
    """Where Kafka is. ``extra`` goes to every client as it is (security.protocol, sasl.*, ssl.*)."""

    bootstrap: str
    extra: Mapping[str, Any] = field(default_factory=dict, repr=False)

    def client(self, client_id: str) -> dict[str, Any]:
        """What every client needs."""
        return {
            "bootstrap.servers": self.bootstrap,
            "client.id": client_id,
            # a dead broker is noticed by requests; idle connections need no warning in the log
            "log.connection.close": False,
            **self.extra,
        }

    def reader(self, client_id: str, group: str) -> dict[str, Any]:
        """A consumer that sees committed records only and never commits by itself."""
        return {
            # bounds prefetched memory per consumer; two seconds of traffic at 100,000 small events a second
            "queued.max.messages.kbytes": 32_768,
            # a single fetch of 8 MiB holds more small events than the default; once over it, librdkafka would
            # look again only after a second
            "queued.min.messages": 100_000,
            "fetch.queue.backoff.ms": 2,
            "fetch.message.max.bytes": MAX_MESSAGE_BYTES,
            # an answer as soon as there is anything: micro-batches form by themselves under load
            "fetch.wait.max.ms": 10,
            **self.client(client_id),
            # what follows is what exactly-once stands on; nobody's settings override it
            "group.id": group,
            "auto.offset.reset": "earliest",
            "enable.auto.commit": False,
            "enable.auto.offset.store": False,
            "isolation.level": "read_committed",
        }

    def group_member(self, client_id: str, group: str) -> dict[str, Any]:
        """A worker's consumer: partitions move one by one, and a dead worker is noticed in six seconds."""
        return {
            # the least that brokers allow by default (group.min.session.timeout.ms): the larger part of the time
            # that a killed worker's partitions stand still. Heartbeats come from a thread of librdkafka's own, so a
            # busy worker keeps its membership
            "session.timeout.ms": 6_000,
            "heartbeat.interval.ms": 1_000,
            # a rebuild of lost state may take minutes inside the rebalance callback
            "max.poll.interval.ms": 900_000,
            **self.reader(client_id, group),
            "partition.assignment.strategy": "cooperative-sticky",
        }

    def transactional_producer(self, client_id: str, transactional_id: str) -> dict[str, Any]:
        """A worker's producer."""
        return {
            # how long an open transaction of a worker that never comes back can hold readers up
            "transaction.timeout.ms": 10_000,
            # after a commit the broker answers CONCURRENT_TRANSACTIONS for a moment; the default of 100 ms
            # would then be waited in full
            "retry.backoff.ms": 2,
            # a commit sends at once whatever waits, so this only lets a transaction's records travel together
            "linger.ms": 20,
            "queue.buffering.max.messages": 1_000_000,
            "queue.buffering.max.kbytes": 1_048_576,
            "batch.num.messages": 10_000,
            "batch.size": 1_000_000,
            **self.client(client_id),
            "transactional.id": transactional_id,
            "partitioner": PARTITIONER,
            "message.max.bytes": MAX_MESSAGE_BYTES + DEAD_LETTER_ROOM,
        }
