"""The caser put together from its parts."""

from __future__ import annotations

import threading
from collections.abc import Callable

import structlog
from prometheus_client import CollectorRegistry, start_http_server

from domain.clock import SystemClock
from domain.pipeline import Pipeline
from domain.raw_label import RawLabelCodec
from lifecycle.case_labels import CaseLabels
from lifecycle.case_stats import CaseStatsReader
from lifecycle.case_store import SqlCaseStore
from lifecycle.database import Database
from stream.case_metrics import CaserMetrics
from stream.case_opener import CaserParts, run_case_opener
from stream.wire_ids import EventIds
from tidegate.loading import load
from tidegate.settings import Settings

__all__ = ["caser", "parts_of"]

log = structlog.get_logger(__name__)


def _nowhere(_: str) -> None:
    """Fault tests pass something else."""


def parts_of(
    settings: Settings,
    pipeline: Pipeline,
    database: Database,
    metrics: CaserMetrics,
    at: Callable[[str], None] = _nowhere,
) -> CaserParts:
    """The parts of a caser."""
    kafka, clock, name = settings.kafka(), SystemClock(), pipeline.name
    protector = settings.protector()
    return CaserParts(
        kafka=kafka,
        pipeline=pipeline,
        codec=RawLabelCodec(pipeline, protector),
        store=SqlCaseStore(database, name, pipeline.reviewing, clock),
        labels=CaseLabels(database, name),
        stats=CaseStatsReader(database, name),
        wire_ids=EventIds(kafka, pipeline, protector),
        clock=clock,
        metrics=metrics,
        at=at,
    )


def caser(settings: Settings, stop: threading.Event) -> None:
    """Turn alerts into review cases, and decisions into labels, until ``stop`` is set."""
    pipeline = load(settings.pipeline)
    registry = CollectorRegistry()
    database = Database(settings.database())
    if settings.metrics_port:
        start_http_server(settings.metrics_port, settings.metrics_host, registry)
    log.info("caser starts", pipeline=pipeline.name)
    try:
        run_case_opener(parts_of(settings, pipeline, database, CaserMetrics(registry)), stop)
    finally:
        database.close()
    log.info("caser stopped")
