"""The API's own metrics, in a registry of the caller's."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

__all__ = ["ApiMetrics"]

_BUCKETS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
"""Around a warm verdict (10 ms), the default deadline (1 s) and the longest (30 s)."""


class ApiMetrics:
    """Counters by route template, never by path: paths hold ids."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.requests = Counter(
            "tidegate_api_requests", "Requests answered", ["route", "method", "status"], registry=registry
        )
        self.seconds = Histogram(
            "tidegate_api_request_seconds",
            "Time to the end of the answer",
            ["route"],
            buckets=_BUCKETS,
            registry=registry,
        )
        self.scored = Counter(
            "tidegate_api_scored",
            "Outcomes of POST /v1/score (verdict, pending, dry_run, or a reason code)",
            ["outcome"],
            registry=registry,
        )
        self.labels = Counter(
            "tidegate_api_labels",
            "Labels taken (accepted) and requests refused (a reason code) by POST /v1/labels",
            ["outcome"],
            registry=registry,
        )
        self.streams = Gauge("tidegate_api_streams", "Open live streams", registry=registry)
        self.dropped = Counter(
            "tidegate_api_stream_dropped", "Verdicts that slow watchers lost", registry=registry
        )
