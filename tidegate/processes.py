"""Putting each process together from its parts: the only place where rooms meet."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable
from contextlib import suppress

import msgspec
import structlog
from confluent_kafka.admin import AdminClient
from prometheus_client import CollectorRegistry, start_http_server

from api.app import create_app
from api.deps import ApiDeps
from api.ports import WorkerReport
from api.server import serve
from domain.clock import SystemClock
from domain.codec import EventCodec
from domain.errors import StoreUnavailable
from domain.pipeline import Pipeline
from domain.raw_label import RawLabelCodec
from featurestore.drift_reports import DriftReports
from featurestore.hot_verdicts import RedisHotVerdicts
from featurestore.hot_verdicts_port import HotLimits
from featurestore.online import RedisStateStore
from featurestore.reaching_verdicts import ReachingVerdicts
from featurestore.redis_client import connect
from featurestore.worker_reports import WorkerReports
from lifecycle.artefact import unseal
from lifecycle.model_keys import TrustedKeys
from lifecycle.registry import ModelRegistry
from scoring.dry_run import StateDryRunner
from scoring.models_in_use import ModelsInUse
from scoring.verdicts import VerdictEncoder
from stream.archiver import ArchiverMetrics, run_archiver
from stream.feed import KafkaVerdictFeed
from stream.gateway import KafkaScoreGateway
from stream.joiner_metrics import JoinerMetrics
from stream.label_gateway import KafkaLabelSink
from stream.label_joiner import JoinerParts, run_joiner
from stream.models_follower import ModelsFollower
from stream.models_topic import publish
from stream.topics import Topics, partition_of, partitions_of
from stream.verdict_scan import TopicVerdictFinder
from stream.worker import WorkerConfig, WorkerParts, run_worker
from stream.worker_metrics import WorkerMetrics
from tidegate.loading import load
from tidegate.model_registry import RegistryWhenNeeded
from tidegate.offline import ArchivedVerdicts, offline_store
from tidegate.settings import Settings
from tidegate.version import CODE_VERSION
from tidegate.warm import warm_up

__all__ = ["api", "archiver", "joiner", "monitor", "stop_on_signals", "worker"]

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
    models = _follower(settings, pipeline, f"tidegate-{pipeline.name}-{settings.worker_id}-models")
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
        with suppress(StoreUnavailable):  # then the report expires by itself
            reports.remove(settings.worker_id)
    log.info("worker stopped")


def _follower(settings: Settings, pipeline: Pipeline, client_id: str) -> ModelsFollower:
    """Follows the models in force; takes those that somebody trusted has signed for this pipeline."""
    try:
        trusted = settings.trusted_models()
    except OSError as error:
        # nobody said whose models to run, and there is no place for a key of this machine: then nobody's
        log.warning(
            "no model from the registry will be run: TIDEGATE_MODEL_TRUSTED is empty", error=str(error)
        )
        trusted = TrustedKeys.parse("")

    def opened(sealed: bytes) -> bytes:
        _, model = unseal(sealed, trusted, pipeline=pipeline.name)
        return model

    return ModelsFollower(settings.kafka(), pipeline, opened, SystemClock(), client_id=client_id)


class _ReportedModels:
    """:class:`api.ports.ModelsView` on the workers' heartbeats."""

    def __init__(self, reports: WorkerReports) -> None:
        self._reports = reports
        self._decode = msgspec.json.Decoder(WorkerReport).decode

    def workers(self) -> list[WorkerReport]:
        return [self._decode(report) for report in self._reports.all()]


def _hot(settings: Settings, pipeline: Pipeline) -> RedisHotVerdicts:
    limits = HotLimits(count=settings.hot_verdicts, age=round(settings.hot_hours * 3.6e9))
    return RedisHotVerdicts(
        connect(settings.redis_url.get_secret_value()), pipeline.name, SystemClock(), limits
    )


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
        _hot(settings, pipeline),
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
            near=_hot(settings, pipeline),
            far=ArchivedVerdicts(
                offline_store(settings, pipeline), TopicVerdictFinder(settings.kafka(), pipeline.name)
            ),
            clock=SystemClock(),
            metrics=JoinerMetrics(registry),
        ),
        stop,
    )


def api(settings: Settings, stop: threading.Event) -> None:
    """Serve HTTP until ``stop`` is set."""
    pipeline = load(settings.pipeline)
    protector = settings.protector()
    codec = EventCodec(pipeline, protector)
    conf = settings.kafka().client(f"tidegate-api-{settings.worker_id}")
    admin = AdminClient(conf)
    topics = Topics(pipeline.name)
    client = connect(settings.redis_url.get_secret_value())
    gateway = KafkaScoreGateway(conf, pipeline.name, f"{settings.worker_id}:{settings.api_port}")
    feed = KafkaVerdictFeed(conf, pipeline.name)
    models = _follower(settings, pipeline, f"tidegate-api-{settings.worker_id}-models")
    labels = KafkaLabelSink(conf, pipeline.name)
    hot = _hot(settings, pipeline)
    registry = RegistryWhenNeeded(settings.database(), pipeline.name, SystemClock())

    async def start() -> None:
        await gateway.start()
        await feed.start()
        await labels.start()

    async def close() -> None:
        await labels.close()
        await feed.close()
        await gateway.close()
        models.close()
        registry.close()

    deps = ApiDeps(
        pipeline=pipeline,
        codec=codec,
        protector=protector,
        gateway=gateway,
        labels=labels,
        feed=feed,
        hot=ReachingVerdicts(hot, offline_store(settings, pipeline)),
        models=_ReportedModels(WorkerReports(client, pipeline.name)),
        dry_runner=StateDryRunner(
            pipeline,
            codec,
            VerdictEncoder(pipeline, code_version=CODE_VERSION),
            RedisStateStore(client, pipeline.name),
            SystemClock(),
            partitions=partitions_of(admin, topics.events),
            partition_of=partition_of,
            models=_current(models),
        ),
        drift=DriftReports(client, pipeline.name),
        registry=CollectorRegistry(),
        model_registry=registry,
        publish_models=lambda: _publish_models(settings, registry()),
        probes={"kafka": lambda: _ask_kafka(admin, topics.events), "redis": hot.ping},
        start=start,
        close=close,
    )
    log.info("API starts", host=settings.api_host, port=settings.api_port)
    serve(create_app(deps), settings.api_host, settings.api_port, stop=stop)


def _publish_models(settings: Settings, registry: ModelRegistry) -> None:
    publish(settings.kafka(), registry.pipeline, registry)


def _current(follower: ModelsFollower) -> Callable[[], ModelsInUse]:
    """The models in force now; reads on first."""

    def models() -> ModelsInUse:
        follower.begin()
        follower.poll()
        return follower.models

    return models


def _ask_kafka(admin: AdminClient, topic: str) -> None:
    partitions_of(admin, topic, timeout=1.5)
