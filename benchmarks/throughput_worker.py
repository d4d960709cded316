"""A real worker process for the throughput benchmark, and what it and the servers cost."""

from __future__ import annotations

import sys
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path

import psutil
from prometheus_client.parser import text_string_to_metric_families

from tidegate.embedded.process import ChildServer, free_port

__all__ = ["Reading", "Worker", "cpu_seconds", "percentile"]


@dataclass(frozen=True, slots=True)
class Reading:
    """A worker's metrics at one moment.

    ``stages`` are wall seconds by stage; ``latency`` maps upper bounds (seconds) to cumulated counts.
    """

    events: float
    transactions: float
    stages: dict[str, float]
    latency: dict[float, float]


class Worker(ChildServer):
    """``tidegate worker`` as a child process; it answers when its metrics do."""

    name = "worker"

    def __init__(self, directory: Path, environment: dict[str, str]) -> None:
        super().__init__(directory)
        self._given = environment
        self.port = 0

    def read(self) -> Reading:
        """Its metrics now; raises OSError when it does not answer."""
        stages: dict[str, float] = {}
        latency: dict[float, float] = {}
        events = transactions = 0.0
        for family in text_string_to_metric_families(self._metrics()):
            for sample in family.samples:
                if sample.name == "tidegate_events_total":
                    events = sample.value
                elif sample.name == "tidegate_transactions_total":
                    transactions += sample.value
                elif sample.name == "tidegate_stage_seconds_total":
                    stages[sample.labels["stage"]] = sample.value
                elif sample.name == "tidegate_latency_seconds_bucket":
                    latency[float(sample.labels["le"])] = sample.value
        return Reading(events, transactions, stages, latency)

    def _metrics(self) -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics", timeout=5.0) as answer:
            return str(answer.read().decode())

    def _choose_ports(self) -> None:
        self.port = free_port()

    def _command(self) -> list[str]:
        return [sys.executable, "-m", "tidegate", "worker"]

    def _environment(self) -> dict[str, str]:
        return {**self._given, "TIDEGATE_METRICS_PORT": str(self.port)}

    def _answers(self) -> bool:
        try:
            return "tidegate_events_total" in self._metrics()
        except (urllib.error.URLError, OSError):
            return False


def cpu_seconds(pid: int) -> float:
    """User and system time that a process has used so far."""
    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)


def percentile(counts: dict[float, float], share: float) -> float:
    """The ``share`` quantile of a cumulated histogram, linear within its bucket; the bounds' unit.

    >>> percentile({1.0: 50.0, 2.0: 100.0, float("inf"): 100.0}, 0.75)
    1.5
    """
    bounds = sorted(counts)
    wanted = share * counts[bounds[-1]]
    low, below = 0.0, 0.0
    for bound in bounds:
        if counts[bound] >= wanted and counts[bound] > below:
            if bound == float("inf"):
                return low
            return low + (bound - low) * (wanted - below) / (counts[bound] - below)
        low, below = bound, counts[bound]
    return low
