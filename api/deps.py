"""Everything the application is given."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry

from api.access import Access, EverybodyOnThisMachine
from api.ports import (
    DriftView,
    DryRunner,
    LabelSink,
    ModelRegistry,
    ModelsView,
    Probe,
    ScoreGateway,
    VerdictFeed,
    VerdictReader,
)
from domain.clock import Clock, SystemClock
from domain.codec import EventCodec
from domain.pipeline import Pipeline
from domain.privacy import Protector
from domain.rule_records import Rule, RuleSet, Typology
from lifecycle.database import Database
from lifecycle.rule_trial import TrialReport
from lifecycle.webhook_store import WebhookStore

__all__ = ["ApiDeps", "ApiLimits"]


@dataclass(frozen=True, slots=True)
class ApiLimits:
    """Bounds (P5). Times are seconds.

    body_seconds     for a body to arrive; a client on a poor line needs two
    answer_seconds   for stores and the dry run; above their own time-outs of 2 s
    streams          live streams at once
    heartbeat        between comments on an idle stream, below the usual 60 s of proxies
    stream_send      until a client that takes nothing is cut off
    probe_seconds    for each readiness check
    publish_seconds  for telling the workers of a new champion: a transaction of Kafka, and at worst the end of
                     somebody else's
    requests         under way at once, live streams too; more are told to come back
    connections      open at once; a request each, and idle ones
    head_seconds     for the head of a request to arrive
    stall_seconds    until a client that takes nothing of an answer is cut off
    """

    body_seconds: float = 10.0
    answer_seconds: float = 5.0
    streams: int = 64
    heartbeat: float = 15.0
    stream_send: float = 30.0
    probe_seconds: float = 2.0
    publish_seconds: float = 30.0
    requests: int = 256
    connections: int = 1_024
    head_seconds: float = 10.0
    stall_seconds: float = 30.0


async def _nothing() -> None:
    return


def _nobody_listens() -> None:
    return


class _NoDrift:
    """For an API beside which no monitor runs."""

    def get(self) -> bytes | None:
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiDeps:
    """Ports and settings of one pipeline's API.

    ``hot`` answers questions about verdicts: recent ones, and older ones where there is an offline store.
    ``probes`` are the readiness checks by name (``kafka``, ``redis``). ``start`` and ``close`` run on the
    server's event loop before the first and after the last request; the gateway and the feed belong there.
    ``database`` opens the database of whatever people change (rules, lists, keys, endpoints, cases), or raises
    RegistryUnavailable; ``access`` says who asks and what they may.
    ``keys_changed`` is called when a key was made or revoked here.
    ``webhooks`` gives the store of webhook endpoints, or raises RegistryUnavailable.
    ``model_registry`` gives the registry, or raises RegistryUnavailable; ``publish_models`` tells the workers what
    is in force. Without them there are no trained models here. ``publish_rules`` and ``publish_lists`` do so for
    rules and lists in the database. ``first_rules`` reads those to begin with, where nobody stored any; ``try_rules``
    tries a rule set on the newest verdicts.
    """

    pipeline: Pipeline
    codec: EventCodec
    protector: Protector
    gateway: ScoreGateway
    labels: LabelSink
    feed: VerdictFeed
    hot: VerdictReader
    models: ModelsView
    dry_runner: DryRunner
    registry: CollectorRegistry
    probes: Mapping[str, Probe]
    drift: DriftView = field(default_factory=_NoDrift)
    clock: Clock = field(default_factory=SystemClock)
    limits: ApiLimits = field(default_factory=ApiLimits)
    database: Callable[[], Database] | None = None
    webhooks: Callable[[], WebhookStore] | None = None
    access: Access = field(default_factory=EverybodyOnThisMachine)
    keys_changed: Callable[[], None] = _nobody_listens
    model_registry: Callable[[], ModelRegistry] | None = None
    publish_models: Callable[[], None] | None = None
    first_rules: Callable[[], tuple[tuple[Rule, ...], tuple[Typology, ...]]] | None = None
    try_rules: Callable[[RuleSet, int], TrialReport] | None = None
    publish_rules: Callable[[], object] | None = None
    publish_lists: Callable[[], object] | None = None
    start: Callable[[], Awaitable[None]] = _nothing
    close: Callable[[], Awaitable[None]] = _nothing
