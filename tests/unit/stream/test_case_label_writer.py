"""A decision whose label can not be written keeps it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest
from prometheus_client import CollectorRegistry

from domain.clock import ManualClock
from domain.errors import Retriable
from domain.privacy import Protector
from domain.raw_label import RawLabelCodec
from domain.verdict import Source
from lifecycle.case_records import PendingLabel
from stream.case_label_writer import LabelWriter
from stream.case_metrics import CaserMetrics
from stream.kafka import KafkaConnection
from tests.unit.domain.samples import payments

NOW = 1_700_000_000_000_000
YEAR = 366 * 86_400_000_000


class Pending:
    """What is still to be written, and what was noted as written."""

    def __init__(self, *labels: PendingLabel) -> None:
        self.labels = list(labels)
        self.noted: list[tuple[str, str | None]] = []

    def pending(self, limit: int) -> Sequence[PendingLabel]:
        return self.labels[:limit]

    def written(self, labels: Sequence[PendingLabel], refused: Mapping[str, str], now: int) -> None:
        self.noted += [(one.key, refused.get(one.key)) for one in labels]


class Nowhere:
    """No event is found again."""

    def find(self, labels: Sequence[PendingLabel]) -> Mapping[str, str | int]:
        return {}


def label(id_: str, known_at: int = NOW) -> PendingLabel:
    return PendingLabel(
        key=f"a-{id_}", event_id=id_, event_time=NOW, label=1, known_at=known_at, source=Source("t", 0, 1)
    )


def writer(pending: Pending) -> LabelWriter:
    pipeline = payments()
    return LabelWriter(
        KafkaConnection("127.0.0.1:1", {"log_level": 0}),
        pipeline,
        RawLabelCodec(pipeline, Protector(b"k" * 16)),
        pending,  # type: ignore[arg-type]  # the part of it that is used
        Nowhere(),
        ManualClock(NOW),
        CaserMetrics(CollectorRegistry()),
        lambda point: None,
        flush_seconds=0.2,
    )


def test_while_kafka_is_away_nothing_is_noted_as_written() -> None:
    pending = Pending(label("e1"))
    made = writer(pending)
    with pytest.raises(Retriable, match="did not confirm 1 of 1"):
        made.step()
    assert pending.noted == []
    made.close()


def test_what_can_never_be_written_is_told_and_what_can_not_be_now_waits() -> None:
    # longer than the pipeline allows ids to be; decided by a clock that is a year ahead
    pending = Pending(label("e" * 17), label("e2", NOW + YEAR))
    made = writer(pending)
    assert made.step() is False
    [(key, why)] = pending.noted
    assert key == f"a-{'e' * 17}"
    assert why is not None
    assert "16" in why
    made.close()
