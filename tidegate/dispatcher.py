"""Putting the dispatcher together from its parts."""

from __future__ import annotations

import random
import ssl
import threading
from collections.abc import Callable

import structlog
from confluent_kafka.admin import AdminClient
from prometheus_client import CollectorRegistry, start_http_server

from alerts.dispatcher import DispatcherConfig, DispatcherParts, run_dispatcher
from alerts.guard import AddressGuard, parse_networks
from alerts.metrics import DispatcherMetrics
from alerts.sender import Sender
from domain.clock import SystemClock
from domain.errors import Fatal, RegistryUnavailable
from domain.pipeline import Pipeline
from lifecycle.database import Database
from lifecycle.webhook_queue import WebhookQueue
from stream.lists_follower import ListsFollower
from stream.log_identity import log_identity
from stream.topics import Topics
from tidegate.loading import load
from tidegate.settings import Settings
from tidegate.snoozes import Snoozes
from tidegate.version import CODE_VERSION

__all__ = ["dispatcher", "dispatcher_config", "dispatcher_parts"]

log = structlog.get_logger(__name__)

_AGAIN_SECONDS = 2.0


def dispatcher(settings: Settings, stop: threading.Event) -> None:
    """Deliver alerts to webhooks until ``stop`` is set."""
    pipeline = load(settings.pipeline)
    registry = CollectorRegistry()
    parts_of = dispatcher_parts(settings, pipeline, DispatcherMetrics(registry))
    if settings.metrics_port:
        start_http_server(settings.metrics_port, settings.metrics_host, registry)
    log.info("dispatcher starts", pipeline=pipeline.name)
    database = _opened(settings, stop)
    if database is None:
        return
    try:
        run_dispatcher(dispatcher_config(settings), parts_of(database), stop)
    finally:
        database.close()
    log.info("dispatcher stopped")


def dispatcher_config(settings: Settings) -> DispatcherConfig:
    """Its settings."""
    return DispatcherConfig(owner=settings.worker_id, keep_days=settings.webhook_days)


def dispatcher_parts(
    settings: Settings, pipeline: Pipeline, metrics: DispatcherMetrics
) -> Callable[[Database], DispatcherParts]:
    """Its parts, once there is a database. Raises Fatal for settings that can not be used."""
    guard = AddressGuard(parse_networks(settings.webhook_private))
    trust, box, clock = _trust(settings), settings.webhook_box(), SystemClock()
    kafka, topic = settings.kafka(), Topics(pipeline.name).alerts
    client_id = f"tidegate-dispatcher-{settings.worker_id}"

    def sender() -> Sender:
        return Sender(guard, clock, user_agent=f"Tidegate/{CODE_VERSION}", trust=trust)

    def parts(database: Database) -> DispatcherParts:
        admin = AdminClient(kafka.client(client_id))
        return DispatcherParts(
            # the group is named, as clients must, but never joined
            conf=kafka.reader(client_id, f"{pipeline.name}.dispatcher"),
            topic=topic,
            key_field=pipeline.event.key,
            identity=lambda: log_identity(admin, topic),
            queue=WebhookQueue(database, pipeline.name, box),
            sender=sender,
            clock=clock,
            draw=random.SystemRandom().random,
            metrics=metrics,
            snoozed=Snoozes(ListsFollower(kafka, pipeline.name, clock, client_id=f"{client_id}-lists")),
        )

    return parts


def _trust(settings: Settings) -> ssl.SSLContext | None:
    if settings.webhook_ca is None:
        return None
    try:
        return ssl.create_default_context(cafile=str(settings.webhook_ca.expanduser()))
    except OSError as error:
        raise Fatal(
            f"TIDEGATE_WEBHOOK_CA can not be read: {error.strerror or error}",
            remedy="name a PEM file with the certificates of your authorities",
        ) from error


def _opened(settings: Settings, stop: threading.Event) -> Database | None:
    """The database, as soon as it answers; None when we shall stop before."""
    while not stop.is_set():
        try:
            return Database(settings.database())
        except RegistryUnavailable as error:
            log.warning("trying again", process="dispatcher", error=str(error))
            stop.wait(_AGAIN_SECONDS)
    return None
