"""What others see of a worker: its counters, and the report that the API shows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import msgspec
import numpy as np
import structlog
from confluent_kafka import TopicPartition

from domain.clock import from_micros
from domain.errors import StoreUnavailable
from domain.verdict import DECISIONS, ModelRole
from featurestore.tables import FeatureTables
from scoring.scored import flags_of
from stream.committer import Outcome
from stream.recovery import Recovered
from stream.task import PartitionTask
from stream.topics import Topics
from stream.worker_metrics import WorkerMetrics
from stream.worker_parts import WorkerConfig, WorkerParts

__all__ = ["count", "report", "tell_recovered"]

log = structlog.get_logger(__name__)


def count(metrics: WorkerMetrics, outcome: Outcome) -> None:
    """Count a committed micro-batch."""
    messages = [message for part in outcome.batch.parts for message in part.messages]
    metrics.events.inc(len(messages))
    metrics.batch_size.observe(len(messages))
    metrics.transactions.labels("committed").inc()
    stamps = np.array([message.timestamp()[1] for message in messages], dtype=np.float64)
    metrics.latency.observe(np.maximum(outcome.committed_at / 1e6 - stamps / 1e3, 0.0))
    for part in outcome.batch.parts:
        for _, why in part.decoded.rejected:
            metrics.dead_letters.labels(why.reason.value).inc()
    for scored in outcome.batch.scored:
        for code, number in enumerate(np.bincount(scored.decision, minlength=3).tolist()):
            if number:
                metrics.verdicts.labels(("allow", "review", "block")[code]).inc(number)
        for mask, number in zip(*np.unique(scored.flags, return_counts=True), strict=True):
            for flag in flags_of(int(mask)):
                metrics.flagged.labels(flag.value).inc(int(number))
        fresh = scored.first_offset < 0
        for (rule, mode), number in Counter(
            (one.id, one.mode.value) for listed in scored.rules.values() for one in listed
        ).items():
            metrics.rule_hits.labels(rule, mode).inc(number)
        for rule, number in scored.rule_failures.items():
            metrics.rule_failures.labels(rule).inc(number)
        # the ensemble alone is there for the rows that rules moved
        for one in scored.models if len(scored.models) > 1 else ():
            metrics.model_decisions.labels(one.role.value).inc(int(one.decided.sum()))
            if one.role is not ModelRole.OWN:
                metrics.model_failures.labels(one.role.value).inc(int(np.isnan(one.score[fresh]).sum()))
        for segment in scored.segments:
            for name in segment.abstained:
                metrics.abstentions.labels(name).inc(segment.stop - segment.start)


def tell_recovered(metrics: WorkerMetrics, partition: int, found: Recovered, seconds: float) -> None:
    """Count and log a recovery that took ``seconds``."""
    metrics.recoveries.inc()
    metrics.recovery_seconds.set(seconds)
    metrics.rebuilt_events.inc(found.rebuilt_events)
    metrics.recovery_mismatches.inc(found.mismatches)
    log.info(
        "partition recovered",
        partition=partition,
        offset=found.next_offset,
        rebuilt=found.rebuilt_events,
        relearned=found.relearned,
        seconds=round(seconds, 3),
    )
    if found.mismatches:
        log.error("scores differ when learned again", partition=partition, count=found.mismatches)
    if found.incomplete_until > found.stream_time:
        log.error(
            "the log no longer holds all events that state needs; verdicts are flagged degraded for a time",
            partition=partition,
            until_event_time=from_micros(found.incomplete_until).isoformat(),
            remedy="keep events at least as long as the longest window, or restore Redis from a backup",
        )


def report(
    config: WorkerConfig,
    parts: WorkerParts,
    consumer: Any,
    tables: FeatureTables,
    tasks: Mapping[int, PartitionTask],
) -> None:
    """Set the gauges, and publish what this worker runs and how far it has come."""
    metrics = parts.metrics
    events = Topics(parts.pipeline.name).events
    metrics.entities.set(tables.entities)
    metrics.arena_bytes.set(tables.arena_bytes)
    metrics.unflushed.set(sum(task.behind for task in tasks.values()))
    metrics.incomplete_state.set(sum(task.incomplete for task in tasks.values()))
    models: dict[str, str] = {}
    progress: dict[str, Any] = {}
    for partition, task in sorted(tasks.items()):
        place = TopicPartition(events, partition)
        _, high = consumer.get_watermark_offsets(place, cached=True)
        lag = max(high - task.next_offset, 0) if high >= 0 else None
        if lag is not None:
            metrics.lag.labels(str(partition)).set(lag)
        ensemble = task.scorer.ensemble
        # detectors follow each partition's own traffic, so a version belongs to a partition
        models |= {f"{name}@{partition}": version for name, version in ensemble.versions().items()}
        progress[str(partition)] = {
            "next_offset": task.next_offset,
            "lag": lag,
            "learned": ensemble.seen,
            "abstained": {**ensemble.abstained(), **_abstained_thresholds(task)},
            "failed_lessons": ensemble.failed_lessons,
        }
    report = {
        "worker": config.worker_id,
        "reported_at": parts.clock.now(),
        "partitions": sorted(tasks),
        "code": parts.encoder.code_version,
        "pipeline": parts.pipeline.version,
        "pipeline_digest": parts.pipeline.digest,
        "models": models,
        "progress": progress,
        **_registry_models(parts),
        **_rules(parts),
    }
    try:
        parts.publish_report(msgspec.json.encode(report))
    except StoreUnavailable as error:
        log.warning("this worker's report was not published", error=str(error))


def _registry_models(parts: WorkerParts) -> dict[str, Any]:
    """What this worker runs of the models in force, and what it refuses; sets their gauges."""
    follower, metrics = parts.models, parts.metrics
    if follower is None:
        return {"epoch": 0, "champion": None, "challenger": None, "refused": {}}
    running = {role.value: model.version for role, model in follower.models.running}
    metrics.models_epoch.set(follower.epoch)
    metrics.models_refused.set(len(follower.refused))
    metrics.models_running.clear()
    for role, version in running.items():
        metrics.models_running.labels(role, version).set(1)
    return {
        "epoch": follower.epoch,
        "champion": running.get("champion"),
        "challenger": running.get("challenger"),
        "refused": follower.refused,
    }


def _rules(parts: WorkerParts) -> dict[str, Any]:
    """What rules and lists this worker goes by, and what it refuses; sets their gauges."""
    follower, metrics = parts.rules, parts.metrics.rules
    if follower is None:
        return {"rules": 0, "rules_refused": {}, "lists": 0}
    metrics.epoch.set(follower.epoch)
    metrics.refused.set(len(follower.refused))
    metrics.lists_version.set(follower.lists_version)
    metrics.entries.set(follower.entries)
    metrics.unreadable.set(follower.unreadable)
    return {
        "rules": follower.epoch,
        "rules_refused": follower.refused,
        "lists": follower.lists_version,
    }


def _abstained_thresholds(task: PartitionTask) -> dict[str, str]:
    """Why a threshold that learns from labels grants nothing yet, by its place in the pipeline file."""
    return {f"decision.{DECISIONS[code]}": why for code, why in task.scorer.learned.abstained.items()}
