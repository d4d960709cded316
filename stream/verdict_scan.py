"""Verdicts by event id out of the topic itself: always there, and as slow as reading all of it."""

from __future__ import annotations

from collections.abc import Collection

import msgspec
from confluent_kafka import Consumer

from lifecycle.heard_verdict import hear
from stream.kafka import KafkaConnection
from stream.log_reading import committed_records, ends, reader_conf
from stream.topics import Topics, partitions_of

__all__ = ["TopicVerdictFinder"]


class TopicVerdictFinder:
    """:class:`featurestore.verdict_finder.VerdictFinder` that reads the whole topic for each question.

    About 100,000 verdicts a second; for deployments whose topic is their only archive. Raises Retriable when Kafka does
    not answer, ServiceMissing when there is no such topic.
    """

    def __init__(self, kafka: KafkaConnection, pipeline: str) -> None:
        self._topic = Topics(pipeline).verdicts
        self._conf = reader_conf(kafka, f"tidegate-verdicts-{pipeline}", f"{pipeline}.joiner")

    def find(self, ids: Collection[str]) -> dict[str, bytes]:
        """The verdicts on ``ids`` that the topic keeps; of several events with one id that which happened first."""
        if not ids:
            return {}
        wanted = frozenset(ids)
        found: dict[str, tuple[tuple[int, int], bytes]] = {}
        probe, consumer = (
            Consumer({**self._conf, "isolation.level": "read_uncommitted"}),
            Consumer(self._conf),
        )
        try:
            spans = {p: ends(probe, self._topic, p) for p in range(partitions_of(probe, self._topic))}
            for message in committed_records(consumer, self._topic, spans):
                raw = message.value() or b""
                try:
                    verdict = hear(raw)
                except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                    continue  # the archiver tells of these
                if verdict.id not in wanted or verdict.duplicate:
                    continue
                order = verdict.event_time, message.partition()
                if verdict.id not in found or order < found[verdict.id][0]:
                    found[verdict.id] = order, raw
        finally:
            probe.close()
            consumer.close()
        return {id_: raw for id_, (_, raw) in found.items()}
