"""Fakes of the API's ports, and an application made of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import msgspec
from prometheus_client import CollectorRegistry

from api.deps import ApiDeps, ApiLimits
from api.ports import WorkerReport
from domain.clock import ManualClock
from domain.codec import EventCodec
from domain.pipeline_file import parse_pipeline
from domain.privacy import Protector
from domain.verdict import DecisionName, Verdict
from featurestore.hot_verdicts_memory import MemoryHotVerdicts
from tests.contract.check_hot_verdicts import NOW, verdict

__all__ = ["EVENT", "PIPELINE_TEXT", "FakeFeed", "FakeGateway", "World", "verdict"]

PIPELINE_TEXT = """
pipeline: payments
version: 1
event:
  id: transaction_id
  time: event_time
  key: account_id
  max_bytes: 4096
  fields:
    transaction_id: {type: string, max_length: 64}
    event_time: {type: timestamp}
    account_id: {type: string, sensitive: true}
    merchant_id: {type: string}
    amount: {type: number, minimum: 0}
features:
  amount: {value: amount}
  merchant_count_1d: {entity: merchant_id, aggregate: count, window: 1d}
detectors:
  hst: {kind: half_space_trees}
decision:
  review: {budget: 0.01}
"""

EVENT: dict[str, Any] = {
    "transaction_id": "t/1",
    "event_time": "2023-11-14T22:13:20Z",
    "account_id": "4929-1",
    "merchant_id": "m1",
    "amount": 12.5,
}


class FakeGateway:
    """Answers with ``answer`` (an exception is raised), and remembers what it was given."""

    def __init__(self, answer: bytes | Exception | None) -> None:
        self.answer = answer
        self.seen: list[tuple[bytes, bytes, float, str | None]] = []

    async def submit(
        self, raw: bytes, key: bytes, deadline_s: float, traceparent: str | None = None
    ) -> bytes | None:
        self.seen.append((raw, key, deadline_s, traceparent))
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


class FakeLabels:
    """Remembers what was written; raises ``failure``."""

    def __init__(self) -> None:
        self.failure: Exception | None = None
        self.written: list[tuple[bytes, bytes]] = []

    async def write(self, records: Sequence[tuple[bytes, bytes]], deadline_s: float) -> None:
        if self.failure is not None:
            raise self.failure
        self.written += records


@dataclass(frozen=True)
class Entry:
    raw: bytes
    partition: int
    offset: int
    dropped: int = 0


class FakeFeed:
    """Offers ``entries`` to whoever comes, then stays silent."""

    def __init__(self) -> None:
        self.entries: list[tuple[Verdict, int]] = []
        self.watching = 0

    async def subscribe(
        self, wanted: Callable[[DecisionName, float | None], bool]
    ) -> AsyncIterator[Entry | None]:
        self.watching += 1
        try:
            yield None
            for v, dropped in self.entries:
                if wanted(v.decision, v.score):
                    yield Entry(msgspec.json.encode(v), v.source.partition, v.source.offset, dropped)
            await asyncio.Event().wait()
        finally:
            self.watching -= 1


@dataclass
class FakeModels:
    found: list[WorkerReport] = field(default_factory=list)

    def workers(self) -> Sequence[WorkerReport]:
        return self.found


@dataclass
class FakeDryRunner:
    answer: Verdict | Exception

    def score(self, raw: bytes) -> Verdict:
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


class World:
    """One application's fakes."""

    def __init__(self, **limits: Any) -> None:
        pipeline = parse_pipeline(PIPELINE_TEXT, source="test")
        self.clock = ManualClock(NOW)
        self.protector = Protector(b"k" * 32)
        self.gateway = FakeGateway(msgspec.json.encode(verdict(1)))
        self.feed = FakeFeed()
        self.labels = FakeLabels()
        self.hot = MemoryHotVerdicts(self.clock)
        self.models = FakeModels()
        self.dry_runner = FakeDryRunner(verdict(2))
        self.registry = CollectorRegistry()
        self.probes: dict[str, Callable[[], None]] = {"kafka": lambda: None, "redis": lambda: None}
        self.deps = ApiDeps(
            pipeline=pipeline,
            codec=EventCodec(pipeline, self.protector),
            protector=self.protector,
            gateway=self.gateway,
            labels=self.labels,
            feed=self.feed,
            hot=self.hot,
            models=self.models,
            dry_runner=self.dry_runner,
            registry=self.registry,
            probes=self.probes,
            clock=self.clock,
            limits=replace(ApiLimits(), **limits),
        )
