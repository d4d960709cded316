"""Labels that decisions have made into the topic ``labels``, at least once each.

They are noted as written when Kafka has confirmed them; whoever is killed in between writes them again, and the joiner
hears nothing new. A label that could not be written stays and is tried again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import structlog
from confluent_kafka import KafkaError, Producer

from domain.clock import Clock
from domain.errors import EventRejected, Reject, Retriable
from domain.pipeline import FieldType, Pipeline
from domain.pipeline_labels import REVIEW_SOURCE
from domain.raw_label import EARLIEST, RawLabelCodec
from lifecycle.case_labels import CaseLabels
from lifecycle.case_records import PendingLabel
from stream.case_metrics import CaserMetrics
from stream.kafka import KafkaConnection
from stream.topics import PARTITIONER, Topics

__all__ = ["LabelWriter", "WireIds"]

log = structlog.get_logger(__name__)

BATCH = 500
FLUSH_SECONDS = 10.0
"""For Kafka to confirm; alerts wait meanwhile."""


class WireIds(Protocol):
    """Finds ids as on the wire, where verdicts hold keyed hashes of them."""

    def find(self, labels: Sequence[PendingLabel]) -> Mapping[str, str | int]:
        """By :attr:`PendingLabel.key`, without those whose event is gone. Raises Retriable."""
        ...


class LabelWriter:
    """Writes what :class:`lifecycle.case_labels.CaseLabels` holds. ``at`` hears each step (for fault tests)."""

    def __init__(
        self,
        kafka: KafkaConnection,
        pipeline: Pipeline,
        codec: RawLabelCodec,
        labels: CaseLabels,
        wire_ids: WireIds,
        clock: Clock,
        metrics: CaserMetrics,
        at: Callable[[str], None],
        flush_seconds: float = FLUSH_SECONDS,
    ) -> None:
        self._topic = Topics(pipeline.name).labels
        self._id = pipeline.event.field(pipeline.event.id)
        self._codec = codec
        self._labels = labels
        self._wire_ids = wire_ids
        self._clock = clock
        self._metrics = metrics
        self._at = at
        self._flush_seconds = flush_seconds
        self._producer = Producer(
            {
                **kafka.client(f"tidegate-cases-{pipeline.name}"),
                "enable.idempotence": True,
                "acks": "all",
                # labels of one event must meet in one partition: there they keep their order
                "partitioner": PARTITIONER,
                "message.timeout.ms": round(flush_seconds * 1000),
            }
        )

    def step(self) -> bool:
        """Write some; whether there may be more. Raises Retriable."""
        pending = self._labels.pending(BATCH)
        if not pending:
            return False
        records, refused, later = self._records(pending)
        self._send(records)
        self._at("labels_sent")
        done = [one for one in pending if one.key not in later]
        self._labels.written(done, refused, self._clock.now())
        self._at("labels_noted")
        self._metrics.labels.labels("written").inc(len(records))
        self._metrics.labels.labels("refused").inc(len(refused))
        for why in sorted(set(refused.values())):
            log.error("label_refused", process="caser", reason=why, remedy="see docs/cases.md, Labels")
        return len(pending) == BATCH and bool(done)

    def close(self) -> None:
        """Drop what Kafka has not taken; it is noted as pending."""
        self._producer.purge()
        self._producer.close()

    def _records(
        self, pending: Sequence[PendingLabel]
    ) -> tuple[list[tuple[bytes, bytes]], dict[str, str], set[str]]:
        """Records to be written; labels that never will be, with the reason; keys of those that can not be now."""
        ids = self._ids(pending)
        now = self._clock.now()
        records: list[tuple[bytes, bytes]] = []
        refused: dict[str, str] = {}
        later: set[str] = set()
        for one in pending:
            id_ = ids.get(one.key)
            if id_ is None:
                refused[one.key] = "the event has left its topic, and only it holds the id as on the wire"
                continue
            said: dict[str, Any] = {
                "id": id_,
                "label": one.label,
                "source": REVIEW_SOURCE,
                "known_at": one.known_at,
            }
            if one.event_time >= EARLIEST:
                said["event_time"] = one.event_time
            try:
                label = self._codec.check(said, received_at=now)
            except EventRejected as error:
                if error.reason is Reject.IN_FUTURE:
                    later.add(one.key)  # the clocks of two machines; it will be past soon
                else:
                    refused[one.key] = error.detail
            else:
                records.append((label.key, self._codec.encode(label)))
        return records, refused, later

    def _ids(self, pending: Sequence[PendingLabel]) -> Mapping[str, str | int]:
        if self._id.sensitive:
            return self._wire_ids.find(pending)
        if self._id.type is FieldType.INTEGER:
            return {one.key: int(one.event_id) for one in pending}
        return {one.key: one.event_id for one in pending}

    def _send(self, records: Sequence[tuple[bytes, bytes]]) -> None:
        failures: list[str] = []

        def reported(error: KafkaError | None, _message: Any) -> None:
            if error is not None:
                failures.append(error.name())

        for key, value in records:
            self._producer.produce(self._topic, value=value, key=key, on_delivery=reported)
        left = self._producer.flush(self._flush_seconds)
        if failures or left:
            raise Retriable(
                f"Kafka did not confirm {left + len(failures)} of {len(records)} labels: "
                f"{failures[:1] or 'no answer'}",
                remedy="check Kafka and our rights on the topic of labels; they are written again",
            )
