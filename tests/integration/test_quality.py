"""Alarms on the quality of the input reach the topic ``drift`` of a real Kafka."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic
from prometheus_client import CollectorRegistry

from domain.clock import ManualClock
from domain.quality_record import QualityAlarm, QualityCheck
from featurestore.offline import LogRecord, OfflineStore
from lifecycle.quality import QualitySettings
from stream.kafka import KafkaConnection
from stream.quality import QualityMetrics, QualityReporter
from tests.system.scene import Reader, eventually
from tests.unit.featurestore.offline_rows import LOG, NOON, small, verdict_of

pytestmark = [pytest.mark.kafka]
SETTINGS = QualitySettings(window=1_000_000, day=4, least_events=20)


def test_an_alarm_is_told_once_with_its_evidence(kafka: str, topic_prefix: str, tmp_path: Path) -> None:
    pipeline = msgspec.structs.replace(small("amount", "tip", name=topic_prefix), digest="d")
    admin = AdminClient({"bootstrap.servers": kafka})
    [made] = admin.create_topics([NewTopic(pipeline.topic("drift"), 1, 1)]).values()
    made.result(30)
    store, registry, clock = (
        OfflineStore(str(tmp_path), pipeline),
        CollectorRegistry(),
        ManualClock(NOON + 2_000_000),
    )
    reporter = QualityReporter(
        store,
        pipeline,
        KafkaConnection(kafka),
        clock,
        QualityMetrics(registry),
        grace_seconds=0,
        settings=SETTINGS,
    )
    assert reporter.round() == []
    records = []
    for i in range(100):
        # the third of five windows has lost a feature
        tip = None if i // 20 == 2 else 1.0
        made_ = verdict_of(i, scored_at=NOON + i * 50_000, features={"amount": 1.0, "tip": tip})
        records.append(LogRecord(0, i, msgspec.json.encode(made_)))
    store.append_verdicts(records, LOG)
    clock.advance(3)
    # windows that ended since the last round are looked at one by one
    [told] = reporter.round()
    assert (told.check, told.column, told.value, told.events) == (QualityCheck.MISSING, "tip", 1.0, 20)
    assert told.window == (NOON + 2_000_000, NOON + 3_000_000)
    assert reporter.round() == []
    reader = Reader(kafka, pipeline.topic("drift"), 1)
    try:
        eventually("the alarm is there", lambda: len(reader.messages) == 1)
        [message] = reader.messages
        assert message.key() == told.id.encode()
        assert msgspec.json.decode(message.value(), type=QualityAlarm) == told
    finally:
        reader.close()
    share = {"check": "missing", "column": "tip"}
    assert registry.get_sample_value("tidegate_quality_share", share) == 0.0
    assert registry.get_sample_value("tidegate_quality_events") == 20
    assert registry.get_sample_value("tidegate_quality_alarms_total", {"check": "missing"}) == 1
