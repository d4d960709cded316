"""The metrics of cases, in a registry of the caller's."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from domain.clock import Clock
from lifecycle.case_stats import CaseStatsReader

__all__ = ["CaserMetrics", "QueueWatch"]

_HOUR = 3_600.0
_BUCKETS = (60, 300, 900, _HOUR, 4 * _HOUR, 8 * _HOUR, 24 * _HOUR, 72 * _HOUR, 168 * _HOUR)
_PAGE = 1_000
"""Decisions looked at together."""


class CaserMetrics:
    """What came of alerts and decisions, and what waits."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.active = Gauge(
            "tidegate_cases_active",
            "1 while this process writes labels and counts the queue, 0 while it stands by",
            registry=registry,
        )
        self.alerts = Counter(
            "tidegate_cases_alerts",
            "Alerts taken in, by what came of them (opened, joined, reopened, repeated, stranger)",
            ["outcome"],
            registry=registry,
        )
        self.lost = Counter(
            "tidegate_cases_lost",
            "Records that the topic no longer had when they were to be read",
            registry=registry,
        )
        self.labels = Counter(
            "tidegate_cases_labels",
            "Labels of decisions, by what came of them (written, refused)",
            ["outcome"],
            registry=registry,
        )
        self.labels_pending = Gauge(
            "tidegate_cases_labels_pending",
            "Labels of decisions that Kafka does not have yet",
            registry=registry,
        )
        self.open = Gauge(
            "tidegate_cases_open", "Open cases, by time in the queue", ["age"], registry=registry
        )
        self.unassigned = Gauge("tidegate_cases_unassigned", "Open cases that nobody has", registry=registry)
        self.oldest = Gauge(
            "tidegate_cases_oldest_seconds", "How long the oldest open case has waited", registry=registry
        )
        self.at_stake = Gauge(
            "tidegate_cases_at_stake", "Score times amount over all open cases", registry=registry
        )
        self.decisions = Counter(
            "tidegate_cases_decisions", "Decisions of people, by outcome", ["outcome"], registry=registry
        )
        self.seconds = Histogram(
            "tidegate_cases_decision_seconds",
            "From the queue to the decision",
            buckets=_BUCKETS,
            registry=registry,
        )
        self.restarts = Counter(
            "tidegate_cases_restarts",
            "Times that everything was begun afresh after an error",
            registry=registry,
        )


class QueueWatch:
    """Keeps the metrics of the queue and of decisions up to date; decisions count from its making on."""

    def __init__(self, stats: CaseStatsReader, metrics: CaserMetrics, clock: Clock) -> None:
        self._stats = stats
        self._metrics = metrics
        self._clock = clock
        self._seen = stats.newest()

    def look(self) -> None:
        """Look once. Raises RegistryUnavailable."""
        metrics, now = self._metrics, self._clock.now()
        found = self._stats.stats(now=now, since=now)
        for age, count in found.open_by_age.items():
            metrics.open.labels(age).set(count)
        metrics.unassigned.set(found.unassigned)
        metrics.oldest.set(found.oldest or 0.0)
        metrics.at_stake.set(found.at_stake)
        metrics.labels_pending.set(found.labels_pending)
        while made := self._stats.decisions_after(self._seen, _PAGE):
            for entry in made:
                metrics.decisions.labels(entry.after).inc()
                if entry.waited is not None:
                    metrics.seconds.observe(entry.waited / 1e6)
            self._seen = made[-1].number
