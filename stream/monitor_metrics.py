"""The drift monitor's metrics."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge

from domain.drift_record import DriftAlarm, DriftState

__all__ = ["MonitorMetrics"]

_PHASES = ("waiting", "warming_up", "reference", "watching")


class MonitorMetrics:
    """In a registry of the caller's. Columns are few: the pipeline's features, and three more."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"tidegate_monitor_{name}", text, labels, registry=registry)

        def gauge(name: str, text: str, *labels: str) -> Gauge:
            return Gauge(f"tidegate_{name}", text, labels, registry=registry)

        self.verdicts = counter("verdicts", "Verdicts counted")
        self.labels = counter("labels", "Joined labels read")
        self.skipped = counter("skipped", "Records left out, by why", "reason")
        self.alarms = counter("alarms", "Drift alarms raised", "column")
        self.transactions = counter("transactions", "Transactions of state and alarms", "outcome")
        self.report_failures = counter("report_failures", "Reports that Redis did not take")
        self.leading = gauge("monitor_leading", "1 while this process monitors, 0 while it stands by")
        self.as_of = gauge("monitor_event_time_seconds", "Event time up to which all is counted")
        self.late = gauge("monitor_late", "Rows that came after their cell was judged", "bank")
        self.phase = gauge("drift_phase", f"0 to 3: {', '.join(_PHASES)}", "bank")
        self.statistic = gauge("drift_statistic", "Newest value of a monitor", "column", "monitor")
        self.threshold = gauge("drift_threshold", "Above it a monitor raises an alarm", "column", "monitor")

    def raised(self, alarm: DriftAlarm) -> None:
        """Count a committed alarm."""
        self.alarms.labels(alarm.column).inc()

    def show(self, state: DriftState) -> None:
        """Set the gauges."""
        if state.as_of is not None:
            self.as_of.set(state.as_of / 1e6)
        for bank in state.banks:
            self.late.labels(bank.bank).set(bank.late)
            self.phase.labels(bank.bank).set(_PHASES.index(bank.phase))
            for column in bank.columns:
                for monitor in column.monitors:
                    names = (column.column, monitor.monitor)
                    self.threshold.labels(*names).set(monitor.threshold)
                    if monitor.statistic is not None:
                        self.statistic.labels(*names).set(monitor.statistic)
