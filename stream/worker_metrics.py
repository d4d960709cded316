"""The worker's metrics. Latencies are binned a batch at a time, because one call per event would cost more than
decoding it.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import HistogramMetricFamily
from prometheus_client.registry import Collector

from domain.batch import Floats

__all__ = ["BatchHistogram", "RuleMetrics", "WorkerMetrics"]

LATENCY_BOUNDS = (0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0)


class BatchHistogram(Collector):
    """A histogram that takes a whole array at once."""

    def __init__(self, name: str, text: str, bounds: tuple[float, ...], registry: CollectorRegistry) -> None:
        self._name, self._text = name, text
        self._bounds = np.array(bounds)
        self._counts = np.zeros(len(bounds) + 1, dtype=np.int64)
        self._sum = 0.0
        registry.register(self)

    def observe(self, values: Floats) -> None:
        """Count ``values`` (seconds)."""
        bins = np.searchsorted(self._bounds, values, side="left")
        self._counts += np.bincount(bins, minlength=len(self._counts))
        self._sum += float(values.sum())

    def collect(self) -> Iterable[HistogramMetricFamily]:
        """For the registry."""
        upto = np.cumsum(self._counts)
        names = [*(str(bound) for bound in self._bounds), "+Inf"]
        family = HistogramMetricFamily(self._name, self._text)
        family.add_metric([], [(n, float(c)) for n, c in zip(names, upto, strict=True)], self._sum)
        yield family


class RuleMetrics:
    """Of rules and lists."""

    def __init__(self, registry: CollectorRegistry) -> None:
        r = registry
        self.swaps = Counter(
            "tidegate_rule_swaps", "Changes of rules or lists that this worker took", registry=r
        )
        self.epoch = Gauge("tidegate_rules_epoch", "Rule set that this worker goes by", registry=r)
        self.refused = Gauge("tidegate_rules_refused", "1 while a newer rule set is not taken", registry=r)
        self.lists_version = Gauge("tidegate_lists_version", "Lists that this worker goes by", registry=r)
        self.entries = Gauge(
            "tidegate_list_entries", "Entries of lists in memory, expired ones too", registry=r
        )
        self.unreadable = Gauge("tidegate_list_records_unreadable", "Records passed over", registry=r)


class WorkerMetrics:
    """All metrics of one worker, in a registry of its own."""

    def __init__(self, registry: CollectorRegistry) -> None:
        r = registry
        self.registry = registry
        self.events = Counter("tidegate_events", "Input records read", registry=r)
        self.verdicts = Counter("tidegate_verdicts", "Committed verdicts", ["decision"], registry=r)
        self.flagged = Counter("tidegate_flagged", "Committed verdicts with a flag", ["flag"], registry=r)
        self.dead_letters = Counter("tidegate_dead_letters", "Dead letters", ["reason"], registry=r)
        self.erasures = Counter("tidegate_erasures", "Erasures of entities carried out", registry=r)
        self.labels = Counter("tidegate_labels", "Label changes counted in features", registry=r)
        self.abstentions = Counter(
            "tidegate_abstentions", "Rows for which a detector gave no score", ["detector"], registry=r
        )
        self.latency = BatchHistogram(
            "tidegate_latency_seconds",
            "From the record's timestamp to its committed verdict",
            LATENCY_BOUNDS,
            r,
        )
        self.stage_seconds = Counter("tidegate_stage_seconds", "Wall time by stage", ["stage"], registry=r)
        self.batch_size = Histogram(
            "tidegate_batch_events",
            "Events per transaction",
            buckets=(1, 5, 20, 50, 100, 200, 500, 1000, 2000, 5000),
            registry=r,
        )
        self.transactions = Counter(
            "tidegate_transactions", "Transactions by outcome", ["outcome"], registry=r
        )
        self.model_swaps = Counter(
            "tidegate_model_swaps",
            "Changes of the models from the registry that this worker runs",
            registry=r,
        )
        self.models_epoch = Gauge(
            "tidegate_models_epoch", "Newest state of the registry that this worker has seen", registry=r
        )
        self.models_running = Gauge(
            "tidegate_models_running", "1 for each model that runs", ["role", "version"], registry=r
        )
        self.models_refused = Gauge(
            "tidegate_models_refused", "Models in force that this worker does not take", registry=r
        )
        self.model_decisions = Counter(
            "tidegate_model_decisions", "Committed verdicts by the role of what decided", ["role"], registry=r
        )
        self.model_failures = Counter(
            "tidegate_model_failures", "Rows of which a running model gave no score", ["role"], registry=r
        )
        self.rules = RuleMetrics(r)
        self.rule_hits = Counter(
            "tidegate_rule_hits",
            "Committed verdicts by the rule or typology that hit",
            ["rule", "mode"],
            registry=r,
        )
        self.rule_failures = Counter(
            "tidegate_rule_failures", "Events on which a rule could not be evaluated", ["rule"], registry=r
        )
        self.recoveries = Counter("tidegate_recoveries", "Partitions recovered", registry=r)
        self.recovery_seconds = Gauge("tidegate_recovery_seconds", "Length of the last recovery", registry=r)
        self.standstill_seconds = Gauge(
            "tidegate_standstill_seconds",
            "How long the partition last taken over had events and no verdicts",
            registry=r,
        )
        self.rebuilt_events = Counter("tidegate_rebuilt_events", "Events applied again to state", registry=r)
        self.recovery_mismatches = Counter(
            "tidegate_recovery_mismatches", "Scores that came out different when learned again", registry=r
        )
        self.incomplete_state = Gauge(
            "tidegate_incomplete_partitions",
            "Partitions whose log no longer held all they needed",
            registry=r,
        )
        self.restarts = Counter(
            "tidegate_session_restarts", "Fresh starts after an unknown outcome", registry=r
        )
        self.store_waits = Counter(
            "tidegate_store_wait_seconds", "Time waited for the online store", registry=r
        )
        self.entities = Gauge("tidegate_entities_in_memory", "Entities held in memory", registry=r)
        self.arena_bytes = Gauge("tidegate_entity_bytes", "Memory given to entity state", registry=r)
        self.partitions = Gauge("tidegate_partitions", "Partitions held", registry=r)
        self.lag = Gauge("tidegate_lag_events", "Records not yet scored", ["partition"], registry=r)
        self.unflushed = Gauge(
            "tidegate_unflushed_events", "Committed events not yet reflected in the online store", registry=r
        )
