"""Which workers do not run what the registry says: as metrics, and as an alarm when one stays behind."""

from __future__ import annotations

import asyncio

import structlog
from prometheus_client import CollectorRegistry, Gauge

from api.deps import ApiDeps
from api.ports import WorkerReport
from api.problems import ProblemError
from api.threads import Threads
from domain.errors import TidegateError
from lifecycle.registry import RegistryState

__all__ = ["ConvergenceWatch", "agrees"]

_LOG = structlog.get_logger(__name__)
LOOK_SECONDS = 5.0
"""Between looks: as often as workers report."""
ALARM_SECONDS = 60.0
"""A worker polls several times a second and swaps between two batches; after a minute something is wrong."""


def agrees(worker: WorkerReport, state: RegistryState) -> bool:
    """Whether ``worker`` runs what is in force."""
    if not state.epoch:
        return worker.champion is None and worker.challenger is None
    running = (worker.epoch, worker.champion, worker.challenger)
    return running == (state.epoch, state.champion, state.challenger) and not worker.refused


class ConvergenceWatch:
    """Compares workers and registry from time to time. Does nothing where there is no registry."""

    def __init__(self, deps: ApiDeps) -> None:
        self._deps = deps
        self._threads = Threads(1, deps.limits.answer_seconds)
        self._behind_since: dict[str, int] = {}
        self._alarmed: set[str] = set()
        registry: CollectorRegistry = deps.registry
        self._epoch = Gauge("tidegate_registry_epoch", "State of the model registry", registry=registry)
        self._behind = Gauge(
            "tidegate_models_workers_behind", "Workers that do not run what is in force", registry=registry
        )
        self._longest = Gauge(
            "tidegate_models_behind_seconds", "For how long the slowest of them has not", registry=registry
        )

    def look(self) -> None:
        """Compare once. Blocking. Raises Retriable when workers or registry can not be asked."""
        if self._deps.model_registry is None:
            return
        state = self._deps.model_registry().state()
        workers = self._deps.models.workers()
        now = self._deps.clock.now()
        behind = {w.worker: w for w in workers if not agrees(w, state)}
        # a worker that is gone is nobody's who stays behind; a new state gives everyone time again
        self._behind_since = {
            name: max(self._behind_since.get(name, now), state.changed_at) for name in behind
        }
        self._alarmed &= behind.keys()
        self._epoch.set(state.epoch)
        self._behind.set(len(behind))
        waited = {name: max(0.0, (now - since) / 1e6) for name, since in self._behind_since.items()}
        self._longest.set(max(waited.values(), default=0.0))
        for name in sorted(name for name, seconds in waited.items() if seconds >= ALARM_SECONDS):
            if name not in self._alarmed:
                self._alarmed.add(name)
                worker = behind[name]
                _LOG.error(
                    "a worker does not run what is in force",
                    worker=name,
                    seconds=round(waited[name]),
                    in_force=(state.epoch, state.champion, state.challenger),
                    running=(worker.epoch, worker.champion, worker.challenger),
                    refused=worker.refused,
                    remedy="look at its log and at TIDEGATE_MODEL_TRUSTED; `tidegate models publish` tells all again",
                )

    async def run(self) -> None:
        """Look again and again until cancelled."""
        while self._deps.model_registry is not None:
            try:
                await self._threads.run(self.look)
            except (TidegateError, ProblemError) as error:
                _LOG.warning("workers and registry could not be compared", error=str(error))
            await asyncio.sleep(LOOK_SECONDS)
