"""The pipeline's topics: names, headers, where a key lives, and creating them.

Every producer of ours sets ``partitioner`` to :data:`PARTITIONER`, the partitioning of Kafka's Java client,
so that an entity's events meet in one partition whoever writes them.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka import murmur2 as _librdkafka_murmur2
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from domain.errors import Fatal, ServiceMissing

__all__ = [
    "DEAD_LETTER_ROOM",
    "HEADER_CONTROL",
    "HEADER_REJECTED",
    "HEADER_REPLY_PARTITION",
    "HEADER_REQUEST_ID",
    "HEADER_TRACEPARENT",
    "MAX_MESSAGE_BYTES",
    "PARTITIONER",
    "Topics",
    "create_topics",
    "partition_of",
    "partitions_of",
]

PARTITIONER = "murmur2_random"
"""librdkafka's name of the Java client's default: murmur2 of the key; records without a key anywhere."""

HEADER_REQUEST_ID = "tidegate-request-id"
"""On an event: whose answer somebody waits for (uuid4, hex). On a reply: which request it answers."""
HEADER_REPLY_PARTITION = "tidegate-reply-partition"
"""On an event: the partition of ``replies`` to answer in, decimal text."""
HEADER_REJECTED = "tidegate-rejected"
"""On a reply: the reason code, when the event became a dead letter instead of a verdict."""
HEADER_CONTROL = "tidegate-control"
"""On a record of ``events`` that is none: ``erase`` (domain.erasure)."""
HEADER_TRACEPARENT = "traceparent"
"""W3C Trace Context, passed through unchanged."""

MAX_MESSAGE_BYTES = 8 * 1024 * 1024
"""Of events and dead letters: an oversized event must reach the worker to become a dead letter."""
DEAD_LETTER_ROOM = 65_536
"""For the headers that a dead letter has beside what it had as an event."""
REPLY_RETENTION_MS = 600_000
"""Nobody waits longer than 30 s for a reply; ten minutes leave room to look at one while debugging."""
REPLY_SEGMENT_MS = 300_000
"""Retention only deletes closed segments, so they must close well before it."""
MODELS_SEGMENT_BYTES = 64 * 1024 * 1024
"""Compaction never touches the open segment; the default would keep a gigabyte of former models."""
DRIFT_RETENTION_MS = 400 * 86_400_000
"""Alarms are few; over a year of them shows what recurs each year."""
OVERWRITTEN_SEGMENT = 32 * 1024 * 1024
"""Bytes; the newest segment is never compacted."""

_CREATE_SECONDS = 30.0
"""A cold KRaft controller takes a few seconds to place partitions; more than this is an outage."""


@dataclass(frozen=True, slots=True)
class Topics:
    """Full topic names of the pipeline called ``pipeline``.

    >>> Topics("payments").dead_letters
    'payments.events.dlq'
    """

    pipeline: str

    @property
    def events(self) -> str:
        """What producers write and the worker reads."""
        return f"{self.pipeline}.events"

    @property
    def dead_letters(self) -> str:
        """Input records that can not be scored, with their reason."""
        return f"{self.pipeline}.events.dlq"

    @property
    def redriven(self) -> str:
        """Which dead letters were put back into ``events``; compacted, keyed by their place."""
        return f"{self.pipeline}.events.dlq.redriven"

    @property
    def verdicts(self) -> str:
        """One verdict per scored event, in the partition of the event's number."""
        return f"{self.pipeline}.verdicts"

    @property
    def alerts(self) -> str:
        """Verdicts that somebody should see."""
        return f"{self.pipeline}.alerts"

    @property
    def replies(self) -> str:
        """Answers to requests of the API, a partition per API replica."""
        return f"{self.pipeline}.replies"

    @property
    def labels(self) -> str:
        """What the events turned out to be."""
        return f"{self.pipeline}.labels"

    @property
    def raw_label_dead_letters(self) -> str:
        """Records of ``labels`` that can not be read, or whose event was never found, with their reason."""
        return f"{self.pipeline}.labels.dlq"

    @property
    def label_claims(self) -> str:
        """What each source says of each event, and labels that wait for theirs; compacted, keyed by event id."""
        return f"{self.pipeline}.labels.claims"

    @property
    def labels_joined(self) -> str:
        """Labels with what is known of their event, in the event's partition."""
        return f"{self.pipeline}.labels.joined"

    @property
    def drift(self) -> str:
        """Drift alarms (domain.drift_record), one partition."""
        return f"{self.pipeline}.drift"

    @property
    def drift_state(self) -> str:
        """The monitors' state with the offsets it reflects; compacted, one partition."""
        return f"{self.pipeline}.drift.state"

    @property
    def label_dead_letters(self) -> str:
        """Records of ``labels.joined`` that no feature can count, with their reason."""
        return f"{self.pipeline}.labels.joined.dlq"

    @property
    def models(self) -> str:
        """Which trained models are in force, and their bytes; compacted, one partition."""
        return f"{self.pipeline}.models"

    @property
    def rules(self) -> str:
        """The rules in force; compacted, one partition."""
        return f"{self.pipeline}.rules"

    @property
    def lists(self) -> str:
        """Entries of lists, tags and snoozes; compacted, one partition."""
        return f"{self.pipeline}.lists"

    @property
    def audit(self) -> str:
        """Number and hash of the newest audit record, again and again; one partition, kept for ever."""
        return f"{self.pipeline}.audit"


def partition_of(key: bytes, count: int) -> int:
    """The partition (0 to ``count - 1``) in which Kafka's Java client puts ``key``.

    Computed by librdkafka itself, so it can not drift from what the producers do. Raises ValueError unless
    ``count`` is positive.
    """
    return _librdkafka_murmur2(key, count)


def partitions_of(client: Any, topic: str, *, timeout: float = 10.0) -> int:
    """How many partitions ``topic`` has, asked through any confluent-kafka client.

    Raises ServiceMissing when the broker does not answer or does not know the topic.
    """
    try:
        found = client.list_topics(topic, timeout).topics[topic]
    except KafkaException as error:
        raise ServiceMissing(
            f"Kafka did not say how many partitions {topic} has: {error.args[0]}",
            remedy="start Kafka, or check the bootstrap servers and the network",
        ) from error
    if found.error is not None or not found.partitions:
        raise ServiceMissing(
            f"Kafka has no topic {topic}: {found.error}",
            remedy="create the pipeline's topics (stream.topics.create_topics, `tidegate dev`)",
        )
    return len(found.partitions)


def create_topics(
    admin_conf: dict[str, Any],
    pipeline: str,
    partitions: int,
    replication: int = 1,
    replies_partitions: int = 16,
    *,
    embedded: bool = False,
) -> int:
    """Create the topics that are not there and return how many partitions ``events`` has.

    Existing topics stay as they are; where ``events`` exists, its partition count wins over ``partitions``.
    ``embedded`` tells that this is librdkafka's mock cluster: it has no controller to create topics and makes
    them, with its own number of partitions, when somebody asks about them.

    Raises ServiceMissing when Kafka does not answer, Fatal when ``verdicts`` and ``events`` differ in their
    partition counts (the worker writes verdict partition p for event partition p).
    """
    names = Topics(pipeline)
    # without librdkafka's line for each of the hundred attempts: what is raised says it once
    admin = AdminClient({**admin_conf, "log_level": 0})
    count = _existing(admin).get(names.events, partitions)
    wanted = _wanted(names, count, replication, replies_partitions)
    if embedded:
        for topic in wanted:
            admin.list_topics(topic.topic, timeout=10.0)
    else:
        _create(admin, wanted)
    found = _await_topics(admin, {topic.topic for topic in wanted})
    for other in (names.verdicts, names.labels_joined):
        if found[other] != found[names.events]:
            raise Fatal(
                f"{other} has {found[other]} partitions, {names.events} has {found[names.events]}; they must be "
                "equal",
                remedy="add partitions to the smaller one (kafka-topics --alter --topic T --partitions N) before "
                f"any event of pipeline {pipeline} is scored",
            )
    return found[names.events]


def _wanted(names: Topics, count: int, replication: int, replies: int) -> list[NewTopic]:
    big = {"max.message.bytes": str(MAX_MESSAGE_BYTES)}
    # the largest event and our headers beside it
    letters = {"max.message.bytes": str(MAX_MESSAGE_BYTES + DEAD_LETTER_ROOM)}
    # the broker's clock decides what lies too far ahead, not a producer's
    arrived = {"message.timestamp.type": "LogAppendTime"}
    events = {**big, **arrived}
    short = {"retention.ms": str(REPLY_RETENTION_MS), "segment.ms": str(REPLY_SEGMENT_MS)}
    # never deleted by age: a forgotten entry would let its letter go twice, or a label wait in vain
    kept = {"cleanup.policy": "compact"}
    # what was in force once is soon cleaned away: a worker reads all that is there when it starts
    models = {**big, **kept, "segment.bytes": str(MODELS_SEGMENT_BYTES), "min.cleanable.dirty.ratio": "0.1"}
    # one key written over and over: small segments, so that a restart reads little of what is outdated
    overwritten = {**kept, **big, "segment.bytes": str(OVERWRITTEN_SEGMENT)}
    year = {"retention.ms": str(DRIFT_RETENTION_MS)}
    plan: list[tuple[str, int, dict[str, str]]] = [
        (names.events, count, events),
        (names.dead_letters, count, letters),
        (names.redriven, 1, kept),
        (names.verdicts, count, {}),
        (names.alerts, count, {}),
        (names.replies, replies, short),
        (names.labels, count, arrived),
        (names.raw_label_dead_letters, count, letters),
        # 32 waiting labels of 64 KB each, as base64
        (names.label_claims, count, {**big, **kept}),
        (names.labels_joined, count, {}),
        (names.label_dead_letters, count, letters),
        (names.models, 1, models),
        (names.rules, 1, overwritten),
        (names.lists, 1, overwritten),
        (names.audit, 1, {"retention.ms": "-1"}),
        (names.drift, 1, year),
        (names.drift_state, 1, overwritten),
    ]
    return [NewTopic(n, num_partitions=c, replication_factor=replication, config=o) for n, c, o in plan]


def _existing(admin: AdminClient) -> dict[str, int]:
    try:
        listed = admin.list_topics(timeout=10.0).topics
    except KafkaException as error:
        raise ServiceMissing(
            f"Kafka did not answer: {error.args[0]}",
            remedy="start Kafka, or check the bootstrap servers and the network",
        ) from error
    return {name: len(t.partitions) for name, t in listed.items() if t.error is None and t.partitions}


def _create(admin: AdminClient, wanted: list[NewTopic]) -> None:
    for name, future in admin.create_topics(wanted, operation_timeout=_CREATE_SECONDS).items():
        try:
            future.result()
        except KafkaException as error:
            if error.args[0].code() == KafkaError.TOPIC_ALREADY_EXISTS:
                continue
            raise ServiceMissing(
                f"Kafka did not create {name}: {error.args[0]}",
                remedy="check that replication is at most the number of brokers and that our user may "
                "create topics, or create them by hand",
            ) from error


def _await_topics(admin: AdminClient, needed: set[str]) -> dict[str, int]:
    """Brokers learn of a topic a moment after the controller has made it; wait until ours all know."""
    deadline = time.monotonic() + _CREATE_SECONDS
    while True:
        found = _existing(admin)
        if needed <= found.keys():
            return found
        if time.monotonic() > deadline:
            raise ServiceMissing(
                f"Kafka does not show {sorted(needed - found.keys())} after {_CREATE_SECONDS:.0f} s",
                remedy="look at the controller's log; then start again, what exists is kept",
            )
        time.sleep(0.05)
