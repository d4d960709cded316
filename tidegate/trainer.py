"""The trainer put together from its parts."""

from __future__ import annotations

import threading
from contextlib import ExitStack, closing

import structlog
from prometheus_client import CollectorRegistry, start_http_server

from domain.clock import SystemClock
from domain.pipeline_retraining import Retraining
from lifecycle.loop_parts import LoopParts, Vault
from lifecycle.model_keys import TrustedKeys
from lifecycle.registry import ModelRegistry
from stream.models_topic import publish
from stream.trainer import TopicAlarms, TopicVerdicts, TrainerMetrics, run_trainer
from tidegate.dask import training_runs
from tidegate.loading import load
from tidegate.model_registry import open_registry
from tidegate.offline import offline_store
from tidegate.settings import Settings
from tidegate.version import CODE_VERSION

__all__ = ["ON_REQUEST", "trainer"]

log = structlog.get_logger(__name__)

ON_REQUEST = Retraining(on_drift=False)
"""Of a pipeline that does not declare retraining: a person may still ask for it."""


def trainer(settings: Settings, stop: threading.Event) -> None:
    """Train, prove, promote and guard until ``stop`` is set."""
    pipeline = load(settings.pipeline)
    kafka, key = settings.kafka(), settings.signing_key()
    name = f"tidegate-{pipeline.name}.trainer-{settings.worker_id}"
    metrics = CollectorRegistry()
    own = TrainerMetrics(metrics)
    with ExitStack() as left:
        registry = left.enter_context(
            closing(open_registry(settings.database(), pipeline.name, SystemClock()))
        )
        alarms = left.enter_context(closing(TopicAlarms(kafka, pipeline.name, name)))
        live = left.enter_context(closing(TopicVerdicts(kafka, pipeline.name, name)))
        parts = LoopParts(
            pipeline=pipeline,
            rules=pipeline.retraining or ON_REQUEST,
            registry=registry,
            rows=offline_store(settings, pipeline),
            live=live,
            vault=Vault(key, TrustedKeys.parse(f"{settings.model_trusted} {key.public}")),
            owner=settings.worker_id,
            code=CODE_VERSION,
            publish=lambda: _publish(settings, pipeline.name, registry),
            run=left.enter_context(training_runs(settings.dask)),
        )
        if settings.metrics_port:
            start_http_server(settings.metrics_port, settings.metrics_host, metrics)
        log.info("trainer starts", pipeline=pipeline.name, declared=pipeline.retraining is not None)
        run_trainer(parts, alarms.read, stop, own)
    log.info("trainer stopped")


def _publish(settings: Settings, pipeline: str, registry: ModelRegistry) -> None:
    publish(settings.kafka(), pipeline, registry)
