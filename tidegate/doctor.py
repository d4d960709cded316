"""``tidegate doctor``: is everything there that the processes need?"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass

from confluent_kafka.admin import AdminClient

from domain.clock import SystemClock
from domain.errors import TidegateError
from featurestore.online import RedisStateStore
from featurestore.redis_client import connect
from lifecycle.registry import OWN
from stream.topics import Topics, partitions_of
from tidegate.loading import load
from tidegate.model_registry import open_registry
from tidegate.settings import Settings

__all__ = ["Finding", "examine"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One check: what it found, and what to do when it failed."""

    check: str
    ok: bool
    detail: str
    remedy: str = ""


def examine(settings: Settings) -> list[Finding]:
    """Run all checks; each takes at most ten seconds."""
    return [
        _try("pipeline file", lambda: _pipeline(settings)),
        _try("Redis", lambda: _redis(settings)),
        _try("Kafka topics", lambda: _kafka(settings)),
        _try("model registry", lambda: _registry(settings)),
    ]


def _try(check: str, run: Callable[[], str]) -> Finding:
    try:
        return Finding(check, True, run())
    except TidegateError as error:
        return Finding(check, False, error.message, error.remedy)


def _pipeline(settings: Settings) -> str:
    pipeline = load(settings.pipeline)
    return f"{settings.pipeline}: {pipeline.name}, {len(pipeline.features)} features"


def _redis(settings: Settings) -> str:
    store = RedisStateStore(connect(settings.redis_url.get_secret_value()), "doctor")
    return "; ".join(store.check_server()) or "answers, noeviction, append-only file"


def _kafka(settings: Settings) -> str:
    names = Topics(load(settings.pipeline).name)
    client = AdminClient(settings.kafka().client("tidegate-doctor"))
    counts = {partitions_of(client, topic) for topic in (names.events, names.verdicts)}
    return f"{names.events} and {names.verdicts} have {' and '.join(map(str, sorted(counts)))} partition(s)"


def _registry(settings: Settings) -> str:
    name = load(settings.pipeline).name
    with closing(open_registry(settings.database(), name, SystemClock())) as registry:
        state = registry.state()
    trusted = len(settings.trusted_models().keys)
    return f"epoch {state.epoch}, champion {state.champion or OWN}; {trusted} key(s) trusted"
