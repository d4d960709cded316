"""Putting the API together from its parts."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable

import msgspec
import structlog
from confluent_kafka.admin import AdminClient
from prometheus_client import CollectorRegistry

from api.app import create_app
from api.deps import ApiDeps
from api.ports import WorkerReport
from api.server import serve
from domain.clock import SystemClock
from domain.codec import EventCodec
from featurestore.drift_reports import DriftReports
from featurestore.online import RedisStateStore
from featurestore.reaching_verdicts import ReachingVerdicts
from featurestore.redis_client import connect
from featurestore.worker_reports import WorkerReports
from lifecycle.audit_trail import AuditTrail
from lifecycle.case_upkeep import CaseUpkeep
from lifecycle.registry import ModelRegistry
from lifecycle.registry_sql import SqlModelRegistry
from lifecycle.webhook_queue import WebhookQueue
from lifecycle.webhook_store import WebhookStore
from scoring.dry_run import StateDryRunner
from scoring.models_in_use import ModelsInUse
from scoring.rules_in_use import RulesInUse
from scoring.verdicts import VerdictEncoder
from stream.audit_topic import HeadExporter
from stream.erasure_log import ErasureLog
from stream.feed import KafkaVerdictFeed
from stream.gateway import KafkaScoreGateway
from stream.label_gateway import KafkaLabelSink
from stream.log_identity import log_identity
from stream.models_follower import ModelsFollower
from stream.models_topic import publish
from stream.rules_follower import RulesFollower
from stream.topics import Topics, partition_of, partitions_of
from tidegate.entrance import entrance_of
from tidegate.erasures import Eraser
from tidegate.keeper import Keeper, head_chore
from tidegate.loading import load
from tidegate.model_registry import DatabaseWhenNeeded
from tidegate.offline import offline_store
from tidegate.parts import hot_verdicts, models_follower, rules_follower
from tidegate.rules import first_rules, tell_lists, tell_rules, try_rules
from tidegate.settings import Settings
from tidegate.version import CODE_VERSION

__all__ = ["api"]

log = structlog.get_logger(__name__)


class _ReportedModels:
    """:class:`api.ports.ModelsView` on the workers' heartbeats."""

    def __init__(self, reports: WorkerReports) -> None:
        self._reports = reports
        self._decode = msgspec.json.Decoder(WorkerReport).decode

    def workers(self) -> list[WorkerReport]:
        return [self._decode(report) for report in self._reports.all()]


def api(settings: Settings, stop: threading.Event, *, ready: Callable[[int], None] | None = None) -> None:
    """Serve HTTP until ``stop`` is set; ``ready`` is told the port (of use with port 0)."""
    pipeline = load(settings.pipeline)
    database = DatabaseWhenNeeded(settings.database())
    registry = CollectorRegistry()
    # before anything is started: it may refuse
    entrance = entrance_of(settings, pipeline.name, database, SystemClock(), registry)
    protector = settings.protector()
    codec = EventCodec(pipeline, protector)
    conf = settings.kafka().client(f"tidegate-api-{settings.worker_id}")
    admin = AdminClient(conf)
    topics = Topics(pipeline.name)
    client = connect(settings.redis_url.get_secret_value())
    gateway = KafkaScoreGateway(conf, pipeline.name, f"{settings.worker_id}:{settings.api_port}")
    feed = KafkaVerdictFeed(conf, pipeline.name)
    models = models_follower(settings, pipeline, f"tidegate-api-{settings.worker_id}-models")
    rules = rules_follower(settings, pipeline, f"tidegate-api-{settings.worker_id}-rules")
    labels = KafkaLabelSink(conf, pipeline.name)
    hot = hot_verdicts(settings, pipeline)

    def models_registry() -> SqlModelRegistry:
        return SqlModelRegistry(database(), pipeline.name, SystemClock())

    box = settings.webhook_box()

    def webhooks() -> WebhookStore:
        return WebhookStore(database(), pipeline.name, SystemClock(), box)

    exporter = HeadExporter(settings.kafka(), pipeline.name, f"tidegate-api-{settings.worker_id}-audit")
    eraser = Eraser(
        database=database,
        pipeline=pipeline.name,
        events=ErasureLog(
            settings.kafka(), pipeline.name, codec.erasures, f"tidegate-api-{settings.worker_id}-erasures"
        ),
        state=RedisStateStore(client, pipeline.name),
        client=client,
        offline=offline_store(settings, pipeline),
        log_of_verdicts=lambda: log_identity(admin, topics.verdicts),
        clock=SystemClock(),
        forget=(
            lambda field, value, reason: CaseUpkeep(database(), pipeline.name, SystemClock()).forget(
                (field, value), by="keeper", reason=reason
            ),
            lambda field, value, _: WebhookQueue(database(), pipeline.name, box).erase(field, value),
        ),
    )
    head = head_chore(database, AuditTrail(pipeline.name), exporter, SystemClock())
    keeper = Keeper({"erasures": eraser, "audit head": head})

    async def start() -> None:
        keeper.start()
        await gateway.start()
        await feed.start()
        await labels.start()

    async def close() -> None:
        await asyncio.to_thread(keeper.close)
        await labels.close()
        await feed.close()
        await gateway.close()
        models.close()
        rules.close()
        database.close()

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
            rules=_current_rules(rules),
        ),
        drift=DriftReports(client, pipeline.name),
        registry=registry,
        database=database,
        webhooks=webhooks,
        access=entrance.access,
        keys_changed=entrance.keys_changed,
        model_registry=models_registry,
        publish_models=lambda: _publish_models(settings, models_registry()),
        first_rules=lambda: first_rules(pipeline, settings.pipeline),
        try_rules=lambda wanted, last: try_rules(settings, pipeline, wanted, last),
        publish_rules=lambda: tell_rules(settings, pipeline, database()),
        publish_lists=lambda: tell_lists(settings, pipeline, database()),
        probes={"kafka": lambda: _ask_kafka(admin, topics.events), "redis": hot.ping},
        start=start,
        close=close,
    )
    log.info("API starts", host=settings.api_host, port=settings.api_port)
    serve(create_app(deps), settings.api_host, settings.api_port, stop=stop, ready=ready)


def _publish_models(settings: Settings, registry: ModelRegistry) -> None:
    publish(settings.kafka(), registry.pipeline, registry)


def _current(follower: ModelsFollower) -> Callable[[], ModelsInUse]:
    """The models in force now; reads on first."""

    def models() -> ModelsInUse:
        follower.begin()
        follower.poll()
        return follower.models

    return models


def _current_rules(follower: RulesFollower) -> Callable[[], RulesInUse]:
    """The rules in force now; reads on first."""

    def rules() -> RulesInUse:
        follower.begin()
        follower.poll()
        return follower.rules

    return rules


def _ask_kafka(admin: AdminClient, topic: str) -> None:
    partitions_of(admin, topic, timeout=1.5)
