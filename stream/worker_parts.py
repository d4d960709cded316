"""What a worker is made of: settings and ports."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from domain.clock import Clock
from domain.codec import EventCodec
from domain.pipeline import Pipeline
from featurestore.ports import StateStore
from scoring.verdicts import VerdictEncoder
from stream.kafka import KafkaConnection
from stream.models_follower import ModelsFollower
from stream.rules_follower import RulesFollower
from stream.worker_metrics import WorkerMetrics

__all__ = ["WorkerConfig", "WorkerParts"]


@dataclass(frozen=True, slots=True)
class WorkerConfig:
    """Settings of a worker; durations in seconds.

    ``state_bytes`` bounds the entity state in memory (None: only ``max_entities`` does).
    """

    worker_id: str
    max_batch: int = 1_000
    max_entities: int = 200_000
    state_bytes: int | None = None
    flush_seconds: float = 0.5
    snapshot_seconds: float = 10.0
    report_seconds: float = 2.0


@dataclass(frozen=True, slots=True)
class WorkerParts:
    """The ports and helpers a worker is made of."""

    kafka: KafkaConnection
    pipeline: Pipeline
    codec: EventCodec
    encoder: VerdictEncoder
    store: StateStore
    publish_report: Callable[[bytes], None]
    clock: Clock
    metrics: WorkerMetrics
    at: Callable[[str], None]
    models: ModelsFollower | None = None
    """Trained models from the registry; None: the pipeline's own detectors only."""
    rules: RulesFollower | None = None
    """Rules and lists from the database; None: models and thresholds decide alone."""
