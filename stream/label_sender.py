"""Labels of a file into ``labels``, for a joiner that runs: it alone writes ``labels.joined`` then.

Each source has one word on each event, so rows that arrive twice say nothing new, and no transaction is needed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from confluent_kafka import KafkaError, KafkaException, Producer
from confluent_kafka.admin import AdminClient

from domain.errors import EventRejected, Fatal, Retriable
from domain.pipeline import FieldType, Pipeline
from domain.privacy import Protector
from domain.raw_label import RawLabelCodec
from lifecycle.label_rows import Told
from stream.kafka import KafkaConnection
from stream.label_joiner import group_of
from stream.log_reading import ASK_SECONDS, away
from stream.topics import PARTITIONER, Topics

__all__ = ["joiner_runs", "send_labels"]

_FLUSH_SECONDS = 60.0
_UNTOLD = {
    KafkaError.GROUP_ID_NOT_FOUND,  # no joiner has ever run
    # who may not ask goes on as if there were none: a joiner that runs ends this import, and says so
    KafkaError.GROUP_AUTHORIZATION_FAILED,
    KafkaError._UNSUPPORTED_FEATURE,  # the mock cluster
}


_LATER = {
    # a broker that has just started, or a first group: the coordinator is only being found
    KafkaError.NOT_COORDINATOR,
    KafkaError.COORDINATOR_NOT_AVAILABLE,
    KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
}
_COORDINATOR_SECONDS = 30.0
_PAUSE_SECONDS = 0.2


def joiner_runs(kafka: KafkaConnection, pipeline: str) -> bool:
    """Whether a joiner of the pipeline is in its group. Raises Retriable when Kafka does not answer."""
    group = group_of(pipeline)
    admin = AdminClient(kafka.client(f"tidegate-labels-{pipeline}"))
    until = time.monotonic() + _COORDINATOR_SECONDS
    while True:
        try:
            found = admin.describe_consumer_groups([group], request_timeout=ASK_SECONDS)[group].result()
            return bool(found.members)
        except KafkaException as error:
            code = error.args[0].code()
            if code in _UNTOLD:
                return False
            if code not in _LATER or time.monotonic() > until:
                raise away(error, group) from error
        time.sleep(_PAUSE_SECONDS)


def send_labels(
    kafka: KafkaConnection,
    pipeline: Pipeline,
    protector: Protector,
    told: Mapping[str, Sequence[Told]],
    source: str,
    *,
    now: int,
    written: Callable[[int], None] = lambda count: None,
) -> int:
    """Write what ``told`` says, by event id as on the wire, in the name of ``source``; returns how many records.

    All are checked before the first is written. ``written`` is told of records that Kafka has confirmed. Raises Fatal
    for rows that the joiner would refuse, Retriable when Kafka did not confirm all: writing them again is harmless.
    """
    records = _records(pipeline, RawLabelCodec(pipeline, protector), told, source, now)
    topic = Topics(pipeline.name).labels
    failures: list[str] = []

    def reported(error: KafkaError | None, _message: Any) -> None:
        if error is None:
            written(1)
        else:
            failures.append(error.name())

    producer = Producer(
        {
            **kafka.client(f"tidegate-labels-{pipeline.name}"),
            "enable.idempotence": True,
            "acks": "all",
            # labels of one event must meet in one partition: there they keep their order
            "partitioner": PARTITIONER,
        }
    )
    for key, value in records:
        while True:
            try:
                producer.produce(topic, value=value, key=key, on_delivery=reported)
                break
            except BufferError:
                producer.poll(0.1)
        producer.poll(0)
    left = producer.flush(_FLUSH_SECONDS)
    if failures or left:
        raise Retriable(
            f"Kafka did not confirm {left + len(failures)} of {len(records)} labels: {failures[:1] or 'no answer'}",
            remedy="run it again when Kafka is back; no label counts twice",
        )
    return len(records)


def _records(
    pipeline: Pipeline, codec: RawLabelCodec, told: Mapping[str, Sequence[Told]], source: str, now: int
) -> list[tuple[bytes, bytes]]:
    number = pipeline.event.field(pipeline.event.id).type is FieldType.INTEGER
    made: list[tuple[bytes, bytes]] = []
    for id_, rows in told.items():
        for one in rows:
            try:
                wire = int(id_) if number else id_
            except ValueError:
                wire = id_  # refused below, with its reason
            record = {"id": wire, "label": one.label, "source": source, "known_at": one.known_at}
            try:
                label = codec.check(record, received_at=now)
            except EventRejected as error:
                raise Fatal(f"row {one.row}: {error.detail}", remedy=error.remedy) from error
            made.append((label.key, codec.encode(label)))
    return made
