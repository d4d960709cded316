"""The offline store as the settings describe it, and the process that fills it."""

from __future__ import annotations

import os
import threading
from collections.abc import Collection

import structlog
from prometheus_client import CollectorRegistry, start_http_server

from domain.clock import SystemClock
from domain.pipeline import Pipeline
from featurestore.offline import OfflineStore
from featurestore.offline_upkeep import Housekeeper, UpkeepMetrics, UpkeepSettings
from featurestore.verdict_finder import VerdictFinder
from stream.archiver_offline import (
    OfflineArchiverMetrics,
    OfflineArchiverSettings,
    run_offline_archiver,
)
from stream.quality import QualityMetrics, QualityReporter
from tidegate.loading import load
from tidegate.settings import Settings

__all__ = ["ArchivedVerdicts", "archiver_offline", "offline_store", "upkeep_settings"]

log = structlog.get_logger(__name__)

_DAY = 86_400_000_000
_GRACE_SECONDS = 60.0
"""From the end of a window until its last verdict should be in the store, beside the archiver's own delay."""
_LAST_ROUND_SECONDS = 5.0
"""For a round of upkeep to end; one that is cut leaves files that vacuum finds, never a torn table."""


def offline_store(settings: Settings, pipeline: Pipeline) -> OfflineStore:
    """The pipeline's offline store; nothing is opened or created yet."""
    url = settings.offline_url or str(settings.state_dir.expanduser() / "offline")
    return OfflineStore(url, pipeline, options=settings.offline_options)


class ArchivedVerdicts:
    """A finder of verdicts: in the offline store, or where nobody fills one, by ``otherwise``."""

    def __init__(self, store: OfflineStore, otherwise: VerdictFinder) -> None:
        self._store = store
        self._otherwise = otherwise

    def find(self, ids: Collection[str]) -> dict[str, bytes]:
        """JSON of the verdicts on ``ids``, of those that are there. Raises Retriable."""
        if self._store.verdicts.snapshot() is None:
            return self._otherwise.find(ids)
        return self._store.find(ids)


def upkeep_settings(settings: Settings) -> UpkeepSettings:
    """How the store is kept up."""
    days = settings.offline_days
    return UpkeepSettings(
        keep_rows=None if days is None else round(days * _DAY),
        keep_versions=round(settings.offline_version_days * _DAY),
    )


def archiver_offline(settings: Settings, stop: threading.Event) -> None:
    """Fill the offline store, and keep it up, until ``stop`` is set."""
    pipeline = load(settings.pipeline)
    store = offline_store(settings, pipeline)
    registry, clock = CollectorRegistry(), SystemClock()
    if settings.metrics_port:
        start_http_server(settings.metrics_port, settings.metrics_host, registry)
    log.info("archiver of the offline store starts", pipeline=pipeline.name, url=store.verdicts.url)
    leads = threading.Event()
    keeper = Housekeeper(store, clock, upkeep_settings(settings), UpkeepMetrics(registry))
    reporter = QualityReporter(
        store,
        pipeline,
        settings.kafka(),
        clock,
        QualityMetrics(registry),
        grace_seconds=_GRACE_SECONDS + 2 * settings.offline_seconds,
    )
    # beside the archiver: a rewrite of a large day takes minutes
    rounds = [
        threading.Thread(target=beside.run, args=(stop, leads), daemon=True) for beside in (keeper, reporter)
    ]
    for thread in rounds:
        thread.start()
    try:
        run_offline_archiver(
            settings.kafka(),
            pipeline.name,
            store,
            stop,
            clock,
            settings=OfflineArchiverSettings(seconds=settings.offline_seconds),
            metrics=OfflineArchiverMetrics(registry),
            leads=leads,
            client_id=f"tidegate-archiver-offline-{settings.worker_id}",
        )
    finally:
        stop.set()
        for thread in rounds:
            thread.join(_LAST_ROUND_SECONDS)
    if any(thread.is_alive() for thread in rounds):
        log.info("left a round of upkeep; the next start does it again")
        os._exit(0)
