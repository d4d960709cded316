"""Trying rules on what was scored last: verdicts from the end of their topic, with their events and labels."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import msgspec
from confluent_kafka import Consumer

from domain.batch import EventBatch
from domain.codec import EventCodec
from domain.verdict import Verdict
from lifecycle.rule_trial import RulesTrial
from scoring.verdicts import decode_verdict
from stream.decoding import decode_messages
from stream.kafka import KafkaConnection
from stream.log_reading import committed_records, ends, reader_conf
from stream.topics import Topics, partitions_of

__all__ = ["MOST", "try_on_recent"]

MOST = 20_000
"""Verdicts of one trial: some 50 MB."""
_LABELS = 50_000
"""Newest records of labels that are looked at, of each partition."""
_CHUNK = 2_000
_GAPS = 3
"""Commit markers take offsets too, at worst one for each verdict, and aborted verdicts are passed over."""


class _Label(msgspec.Struct, frozen=True, gc=False):
    """The part of a joined label that counts here."""

    id: str
    label: int | None


def try_on_recent(
    kafka: KafkaConnection, pipeline: str, codec: EventCodec, trial: RulesTrial, last: int
) -> None:
    """Add to ``trial`` the newest verdicts there are, at most ``last``, as many of each partition.

    Raises ServiceMissing without the topics, Retriable when Kafka is away.
    """
    topics = Topics(pipeline)
    with _consumers(kafka, pipeline) as (probe, consumer):
        partitions = partitions_of(probe, topics.verdicts)
        share = -(-min(last, MOST) // partitions)
        for partition in range(partitions):
            verdicts = _verdicts(probe, consumer, topics.verdicts, partition, share)
            if not verdicts:
                continue
            labels = _labels(probe, consumer, topics.labels_joined, partition)
            for start in range(0, len(verdicts), _CHUNK):
                part = verdicts[start : start + _CHUNK]
                events, places = _events(probe, consumer, topics.events, partition, codec, part)
                trial.add(part, labels, events, places)


def _verdicts(probe: Any, consumer: Any, topic: str, partition: int, count: int) -> list[Verdict]:
    first, end = ends(probe, topic, partition)
    found: deque[Verdict] = deque(maxlen=count)
    start = max(first, end - _GAPS * count - 100)
    for message in committed_records(consumer, topic, {partition: (start, end)}):
        try:
            found.append(decode_verdict(message.value() or b""))
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            continue  # the archiver tells of these
    return list(found)


def _labels(probe: Any, consumer: Any, topic: str, partition: int) -> Mapping[str, int]:
    first, end = ends(probe, topic, partition)
    found: dict[str, int] = {}
    for message in committed_records(consumer, topic, {partition: (max(first, end - _LABELS), end)}):
        try:
            label = msgspec.json.decode(message.value() or b"", type=_Label)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            continue  # the worker tells of these
        if label.label is None:
            found.pop(label.id, None)
        else:
            found[label.id] = label.label
    return found


def _events(
    probe: Any, consumer: Any, topic: str, partition: int, codec: EventCodec, verdicts: Sequence[Verdict]
) -> tuple[EventBatch | None, list[int]]:
    """The events that are still there, and which verdict each is of."""
    place = {verdict.source.offset: at for at, verdict in enumerate(verdicts)}
    first, end = ends(probe, topic, partition)
    span = max(min(place), first), min(max(place) + 1, end)
    messages = [m for m in committed_records(consumer, topic, {partition: span}) if m.offset() in place]
    decoded = decode_messages(codec, messages)
    if not decoded.events:
        return None, []
    offsets = [messages[index].offset() for index in decoded.accepted]
    return codec.to_batch(decoded.events, offsets), [place[offset] for offset in offsets]


@contextmanager
def _consumers(kafka: KafkaConnection, pipeline: str) -> Iterator[tuple[Any, Any]]:
    name = f"tidegate-{pipeline}.trial"
    conf = reader_conf(kafka, name, name)
    probe, consumer = Consumer({**conf, "isolation.level": "read_uncommitted"}), Consumer(conf)
    try:
        yield probe, consumer
    finally:
        probe.close()
        consumer.close()
