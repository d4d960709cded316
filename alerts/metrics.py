"""The dispatcher's metrics."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

__all__ = ["DispatcherMetrics"]


class DispatcherMetrics:
    """In a registry of the caller's. Endpoints are named by their ids; URLs may hold secrets."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.alerts = Counter("tidegate_dispatcher_alerts", "Alerts read of the topic", registry=registry)
        self.skipped = Counter(
            "tidegate_dispatcher_skipped", "Records of the topic that are no alert", registry=registry
        )
        self.snoozed = Counter(
            "tidegate_dispatcher_snoozed",
            "Alerts not delivered as their entity is snoozed",
            registry=registry,
        )
        self.queued = Counter("tidegate_dispatcher_queued", "Deliveries queued", registry=registry)
        self.attempts = Counter(
            "tidegate_dispatcher_attempts",
            "Attempts by outcome: delivered, retried, failed (none is left)",
            ["outcome"],
            registry=registry,
        )
        self.seconds = Histogram(
            "tidegate_dispatcher_attempt_seconds",
            "Time of one attempt",
            buckets=(0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0),
            registry=registry,
        )
        self.disabled = Counter(
            "tidegate_dispatcher_disabled", "Endpoints disabled as they answered 410", registry=registry
        )
        self.under_way = Gauge("tidegate_dispatcher_under_way", "Attempts under way", registry=registry)
        self.pending = Gauge(
            "tidegate_dispatcher_pending", "Deliveries that wait", ["endpoint"], registry=registry
        )
        self.overdue = Gauge(
            "tidegate_dispatcher_overdue_seconds",
            "How long the oldest delivery is due; 0: none is",
            ["endpoint"],
            registry=registry,
        )
        self.errors = Counter(
            "tidegate_dispatcher_errors",
            "Errors that passed, by whose: kafka, database",
            ["of"],
            registry=registry,
        )
        self.lost = Counter(
            "tidegate_dispatcher_lost",
            "Deliveries forgotten undelivered, as their message was older than TIDEGATE_WEBHOOK_DAYS",
            registry=registry,
        )
