"""The joiner's metrics, in a registry of the caller's."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge

__all__ = ["JoinerMetrics"]


class JoinerMetrics:
    """What came of labels, and what waits."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.active = Gauge(
            "tidegate_joiner_active",
            "1 while this process joins labels, 0 while it stands by",
            registry=registry,
        )
        self.received = Counter("tidegate_joiner_received", "Raw labels read", registry=registry)
        self.joined = Counter(
            "tidegate_joiner_changes",
            "Changes written to labels.joined, by the label that holds from then on (1, 0, unknown)",
            ["label"],
            registry=registry,
        )
        self.unchanged = Counter(
            "tidegate_joiner_unchanged", "Labels that said what was known already", registry=registry
        )
        self.refused = Counter(
            "tidegate_joiner_refused",
            "Labels that became dead letters, by reason code",
            ["reason"],
            registry=registry,
        )
        self.waiting = Gauge(
            "tidegate_joiner_waiting", "Events whose labels wait for a verdict", registry=registry
        )
        self.oldest = Gauge(
            "tidegate_joiner_oldest_seconds",
            "How long the longest waiting label has waited",
            registry=registry,
        )
        self.searches = Counter(
            "tidegate_joiner_searches",
            "Searches for events in all stores, by outcome (answered, failed)",
            ["outcome"],
            registry=registry,
        )
        self.restarts = Counter(
            "tidegate_joiner_restarts",
            "Times that everything was read anew after an error",
            registry=registry,
        )
