"""Putting each process together from its parts: the only place where rooms meet."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable

import structlog
from prometheus_client import CollectorRegistry, start_http_server

from domain.clock import SystemClock
from domain.codec import EventCodec
from domain.pipeline import Pipeline
from featurestore.online import RedisStateStore
from featurestore.redis_client import connect
from featurestore.worker_reports import WorkerReports
from scoring.verdicts import VerdictEncoder
from stream.worker import WorkerConfig, WorkerParts, run_worker
from stream.worker_metrics import WorkerMetrics
from tidegate.loading import load
from tidegate.settings import Settings
from tidegate.version import CODE_VERSION

__all__ = ["stop_on_signals", "worker"]

log = structlog.get_logger(__name__)

REPORT_TTL_SECONDS = 15.0
"""A worker that has not reported for this long is no longer shown."""


def stop_on_signals() -> threading.Event:
    """An event that SIGTERM and SIGINT set; a second signal ends the process at once."""
    stop = threading.Event()

    def on_signal(number: int, _: object) -> None:
        if stop.is_set():
            os._exit(128 + number)
        stop.set()

    signal.signal(signal.SIGTERM, on_signal)
    signal.signal(signal.SIGINT, on_signal)
    return stop


def _nowhere(_: str) -> None:
    """Fault tests pass something else."""


def worker(settings: Settings, stop: threading.Event, *, at: Callable[[str], None] = _nowhere) -> None:
    """Run a worker until ``stop`` is set."""
    pipeline: Pipeline = load(settings.pipeline)
    client = connect(settings.redis_url.get_secret_value())
    store = RedisStateStore(client, pipeline.name)
    for warning in store.check_server():
        log.warning("redis", warning=warning)
    reports = WorkerReports(client, pipeline.name)
    metrics = WorkerMetrics(CollectorRegistry())
    if settings.metrics_port:
        start_http_server(settings.metrics_port, settings.metrics_host, metrics.registry)
    parts = WorkerParts(
        kafka=settings.kafka(),
        pipeline=pipeline,
        codec=EventCodec(pipeline, settings.protector()),
        encoder=VerdictEncoder(pipeline, code_version=CODE_VERSION),
        store=store,
        publish_report=lambda report: reports.put(settings.worker_id, report, REPORT_TTL_SECONDS),
        clock=SystemClock(),
        metrics=metrics,
        at=at,
    )
    config = WorkerConfig(
        worker_id=settings.worker_id,
        max_batch=settings.max_batch,
        max_entities=settings.max_entities,
        flush_seconds=settings.flush_seconds,
        snapshot_seconds=settings.snapshot_seconds,
    )
    log.info("worker starts", pipeline=pipeline.name, worker_id=settings.worker_id)
    try:
        run_worker(config, parts, stop)
    finally:
        reports.remove(settings.worker_id)
    log.info("worker stopped")
