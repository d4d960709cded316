"""Putting processes together from their parts; the API has a module of its own (tidegate.api_process)."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from contextlib import suppress

import structlog
from prometheus_client import CollectorRegistry, start_http_server

from domain.clock import SystemClock
from domain.codec import EventCodec
from domain.errors import StoreUnavailable
from domain.pipeline import Pipeline
from domain.raw_label import RawLabelCodec
from featurestore.drift_reports import DriftReports
from featurestore.online import RedisStateStore
from featurestore.redis_client import connect
from featurestore.worker_reports import WorkerReports
from scoring.verdicts import VerdictEncoder
from stream.archiver import ArchiverMetrics, run_archiver
from stream.joiner_metrics import JoinerMetrics
from stream.label_joiner import JoinerParts, run_joiner
from stream.verdict_scan import TopicVerdictFinder
from stream.worker import WorkerConfig, WorkerParts, run_worker
from stream.worker_metrics import WorkerMetrics
from tidegate.loading import load
from tidegate.offline import ArchivedVerdicts, offline_store
from tidegate.parts import hot_verdicts, models_follower, rules_follower
from tidegate.settings import Settings
from tidegate.version import CODE_VERSION
from tidegate.warm import warm_up

__all__ = ["archiver", "joiner", "monitor", "worker"]

log = structlog.get_logger(__name__)

REPORT_TTL_SECONDS = 15.0
"""A worker that has not reported for this long is no longer shown."""


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
    models = models_follower(settings, pipeline, f"tidegate-{pipeline.name}-{settings.worker_id}-models")
    rules = rules_follower(settings, pipeline, f"tidegate-{pipeline.name}-{settings.worker_id}-rules")
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
        models=models,
        rules=rules,
    )
    config = WorkerConfig(
        worker_id=settings.worker_id,
        max_batch=settings.max_batch,
        max_entities=settings.max_entities,
        state_bytes=settings.state_bytes,
        flush_seconds=settings.flush_seconds,
        snapshot_seconds=settings.snapshot_seconds,
    )
    warm_up(pipeline)
    if settings.metrics_port:
        # only now: who waits for this port waits for compiled kernels too
        start_http_server(settings.metrics_port, settings.metrics_host, metrics.registry)
    # the commit thread must get its turn between two steps of Python code, not after 5 ms
    sys.setswitchinterval(0.0005)
    log.info("worker starts", pipeline=pipeline.name, worker_id=settings.worker_id)
    try:
        run_worker(config, parts, stop)
    finally:
        models.close()
        rules.close()
        with suppress(StoreUnavailable):  # then the report expires by itself
            reports.remove(settings.worker_id)
    log.info("worker stopped")


def archiver(settings: Settings, stop: threading.Event) -> None:
    """Keep recent verdicts in Redis until ``stop`` is set."""
    pipeline = load(settings.pipeline)
    registry = CollectorRegistry()
    if settings.metrics_port:
        start_http_server(settings.metrics_port, settings.metrics_host, registry)
    log.info("archiver starts", pipeline=pipeline.name)
    run_archiver(
        settings.kafka().client("tidegate-archiver"),
        pipeline.name,
        hot_verdicts(settings, pipeline),
        stop,
        SystemClock(),
        metrics=ArchiverMetrics(registry),
    )


def monitor(settings: Settings, stop: threading.Event) -> None:
    """Watch for drift, or stand by for whoever does, until ``stop`` is set."""
    # loading River takes seconds, and no other process needs it
    from stream.monitor import MonitorConfig, MonitorParts, run_monitor
    from stream.monitor_metrics import MonitorMetrics

    pipeline = load(settings.pipeline)
    registry = CollectorRegistry()
    if settings.metrics_port:
        start_http_server(settings.metrics_port, settings.metrics_host, registry)
    log.info("monitor starts", pipeline=pipeline.name)
    client = connect(settings.redis_url.get_secret_value())
    parts = MonitorParts(
        kafka=settings.kafka(),
        pipeline=pipeline,
        settings=settings.drift(pipeline),
        publish=DriftReports(client, pipeline.name).put,
        clock=SystemClock(),
        metrics=MonitorMetrics(registry),
    )
    run_monitor(MonitorConfig(), parts, stop)


def joiner(settings: Settings, stop: threading.Event) -> None:
    """Join labels to their events until ``stop`` is set."""
    pipeline = load(settings.pipeline)
    registry = CollectorRegistry()
    if settings.metrics_port:
        start_http_server(settings.metrics_port, settings.metrics_host, registry)
    log.info("joiner starts", pipeline=pipeline.name)
    run_joiner(
        JoinerParts(
            kafka=settings.kafka(),
            pipeline=pipeline,
            codec=RawLabelCodec(pipeline, settings.protector()),
            near=hot_verdicts(settings, pipeline),
            far=ArchivedVerdicts(
                offline_store(settings, pipeline), TopicVerdictFinder(settings.kafka(), pipeline.name)
            ),
            clock=SystemClock(),
            metrics=JoinerMetrics(registry),
        ),
        stop,
    )
