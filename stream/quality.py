"""Tells of the input's quality: as metrics, and as records of the topic ``drift``.

Each round reads what the offline store holds of the last day, so it remembers nothing and a restart changes nothing.
An alarm may be told twice (a restart within its window); its id is the same then.
"""

from __future__ import annotations

import threading
from typing import Any

import msgspec
import structlog
from confluent_kafka import KafkaException, Producer
from prometheus_client import CollectorRegistry, Counter, Gauge

from domain.clock import Clock
from domain.errors import Retriable
from domain.pipeline import Pipeline
from domain.quality_record import QualityAlarm
from featurestore.offline import OfflineStore
from lifecycle.quality import QualitySettings, Window, alarms, shares
from lifecycle.quality_windows import last_window, read_windows
from stream.kafka import KafkaConnection

__all__ = ["QualityMetrics", "QualityReporter"]

log = structlog.get_logger(__name__)

_ROUND_SECONDS = 60.0
_SEND_SECONDS = 10.0


class QualityMetrics:
    """Metrics, in a registry of the caller's. They tell of the last whole window."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.share = Gauge(
            "tidegate_quality_share",
            "Share of events (missing, range) or of records (schema), by check and column",
            ["check", "column"],
            registry=registry,
        )
        self.events = Gauge("tidegate_quality_events", "Events of the last whole window", registry=registry)
        self.age = Gauge(
            "tidegate_quality_age_seconds", "Median age of its events when scored", registry=registry
        )
        self.window = Gauge(
            "tidegate_quality_window_end", "When it ended, seconds since 1970", registry=registry
        )
        self.alarms = Counter(
            "tidegate_quality_alarms", "Alarms told, by check", ["check"], registry=registry
        )
        self.failures = Counter("tidegate_quality_failures", "Rounds that failed", registry=registry)


class QualityReporter:
    """Looks at each window once it is over, in a thread of its own, while ``leads`` is set."""

    def __init__(
        self,
        store: OfflineStore,
        pipeline: Pipeline,
        kafka: KafkaConnection,
        clock: Clock,
        metrics: QualityMetrics,
        *,
        grace_seconds: float,
        settings: QualitySettings | None = None,
    ) -> None:
        self._store = store
        self._pipeline = pipeline
        self._kafka = kafka
        self._clock = clock
        self._metrics = metrics
        self._grace = round(grace_seconds * 1e6)
        self._settings = settings or QualitySettings()
        self._told: int | None = None

    def run(self, stop: threading.Event, leads: threading.Event) -> None:
        """Rounds until ``stop`` is set."""
        while not stop.wait(_ROUND_SECONDS):
            if leads.is_set():
                self.round()

    def round(self) -> list[QualityAlarm]:
        """Look at the windows that ended since the last round (the last one at first); what was told.

        Failures are logged, and the same windows are due in the next round.
        """
        last = last_window(self._clock.now(), self._grace, self._settings)
        if self._told is not None and last <= self._told:
            return []
        step = self._settings.window
        first = last if self._told is None else max(self._told + step, last - self._settings.day * step)
        found: list[QualityAlarm] = []
        try:
            for start in range(first, last + 1, step):
                windows = read_windows(self._store, self._pipeline, start, self._settings)
                found += alarms(self._pipeline.name, windows, self._settings)
                if windows and start == last:
                    self._show(windows[-1])
            self._tell(found)
        except Retriable as error:
            self._metrics.failures.inc()
            log.warning("quality_round_failed", error=str(error))
            return []
        self._told = last
        return found

    def _show(self, window: Window) -> None:
        self._metrics.share.clear()
        for (check, column), (count, total) in shares(window).items():
            if total:
                self._metrics.share.labels(check.value, column).set(count / total)
        self._metrics.events.set(window.events)
        self._metrics.age.set(window.age)
        self._metrics.window.set((window.start + self._settings.window) / 1e6)

    def _tell(self, found: list[QualityAlarm]) -> None:
        if not found:
            return
        # a producer for each telling: alarms are rare, and nothing of it waits between them
        producer: Any = Producer({**self._kafka.client("tidegate-quality"), "enable.idempotence": True})
        refused: list[Any] = []
        try:
            for alarm in found:
                producer.produce(
                    self._pipeline.topic("drift"),
                    msgspec.json.encode(alarm),
                    key=alarm.id,
                    on_delivery=lambda error, _: refused.append(error) if error is not None else None,
                )
            left = producer.flush(_SEND_SECONDS)
        except KafkaException as error:
            raise Retriable(f"alarms could not be written: {error}", remedy="check Kafka") from error
        if left or refused:
            raise Retriable(
                f"{left + len(refused)} alarms could not be written to {self._pipeline.topic('drift')}: "
                f"{refused[:1]}",
                remedy="check the connection to Kafka and the topic",
            )
        for alarm in found:
            self._metrics.alarms.labels(alarm.check.value).inc()
            log.warning("input_quality", check=alarm.check.value, column=alarm.column, text=alarm.text)
