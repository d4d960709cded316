"""A training set from Kafka: the log played again as the workers saw it, so that the rows are what they scored.

Each verdict says which labels its features counted (``labels_offset``), so labels are applied where they were,
whenever they arrived. Partitions are played side by side in the order in which their events were appended: the
state of an entity that several of them feed never holds what came later. Reads up to what is committed in the
verdicts when it starts; memory holds the engine's state, 32 bytes a label, and some thousand records a partition.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from confluent_kafka import Consumer

from domain.clock import Clock
from domain.codec import EventCodec
from domain.errors import EventRejected, Fatal
from domain.label_codec import LabelCodec
from domain.pipeline import AggregateFeature, ExpressionFeature, Pipeline
from featurestore.tables import FeatureTables
from lifecycle.features_export import Engine, TrainingFile
from lifecycle.label_index import LabelIndex
from stream.feature_lane import Lane, Logs, Tally, one_by_one, side_by_side
from stream.kafka import KafkaConnection
from stream.spool import Span, Spool, spans_of
from stream.topics import Topics, partitions_of

__all__ = ["LogSpans", "TopicExport", "export_topics", "find_log", "shared_features"]

_CLIENT = "tidegate-features-export"


@dataclass(frozen=True, slots=True)
class LogSpans:
    """What there is of each topic, by partition."""

    events: Mapping[int, Span]
    verdicts: Mapping[int, Span]
    labels: Mapping[int, Span]

    @property
    def truncated(self) -> list[str]:
        """Which topics no longer hold their beginning, in words."""
        found = []
        for name, spans in (
            ("events", self.events),
            ("verdicts", self.verdicts),
            ("labels.joined", self.labels),
        ):
            lost = {partition: first for partition, (first, _) in spans.items() if first > 0}
            if lost:
                where = ", ".join(f"partition {partition} at {first:,}" for partition, first in lost.items())
                found.append(f"{name} begins in {where}")
        return found

    @property
    def verdict_records(self) -> int:
        """How many records the verdicts have at most (markers of transactions count, too)."""
        return sum(end - first for first, end in self.verdicts.values())


@dataclass(frozen=True, slots=True)
class TopicExport:
    """What was exported, and how it compares with what was scored.

    rows, labelled, positives  written rows, those with a label, those with label 1
    verdicts                   verdicts read (duplicates included)
    duplicates                 repeats, which are no rows
    compared                   vectors held against those in verdicts: of this pipeline digest, not degraded
    differing                  feature to number of compared rows in which it has other bits; only those that differ
    without_verdict            valid events without a verdict, left out: another pipeline file refused them then
    without_event              verdicts without a valid event, left out: another pipeline file took them then
    by_known_at                rows whose verdict does not say which labels it counted: those known by stream time
    """

    rows: int
    labelled: int
    positives: int
    verdicts: int
    duplicates: int
    compared: int
    differing: Mapping[str, int]
    without_verdict: int
    without_event: int
    by_known_at: int
    truncated: tuple[str, ...]


def shared_features(pipeline: Pipeline) -> frozenset[str]:
    """Features of entities other than the key, and expressions over them.

    Where several partitions feed such an entity, live features know what the others did a little late, so a
    vector that is computed again may differ in these.
    """
    found: set[str] = set()
    for feature in pipeline.features:
        if isinstance(feature, AggregateFeature):
            if feature.entity != pipeline.event.key:
                found.add(feature.name)
        elif isinstance(feature, ExpressionFeature) and found & set(re.findall(r"\w+", feature.expression)):
            found.add(feature.name)
    return frozenset(found)


def find_log(kafka: KafkaConnection, pipeline: Pipeline, *, allow_truncated: bool = False) -> LogSpans:
    """What there is to export: verdicts as committed now, and what they are about.

    Raises Fatal when a topic no longer holds its beginning, unless ``allow_truncated``; ServiceMissing, Retriable.
    """
    topics = Topics(pipeline.name)
    consumer = Consumer({**kafka.reader(_CLIENT, _CLIENT), "log_level": 2})
    try:
        partitions = partitions_of(consumer, topics.events)
        for other in (topics.verdicts, topics.labels_joined):
            if partitions_of(consumer, other) != partitions:
                raise Fatal(
                    f"{other} has not as many partitions as {topics.events}",
                    remedy="an export needs a verdict partition for each partition of the events",
                )
    finally:
        consumer.close()
    # verdicts first: what they are about was in the other topics before them
    verdicts = spans_of(kafka, topics.verdicts, partitions, _CLIENT)
    spans = LogSpans(
        events=spans_of(kafka, topics.events, partitions, _CLIENT),
        verdicts=verdicts,
        labels=spans_of(kafka, topics.labels_joined, partitions, _CLIENT),
    )
    if spans.truncated and not allow_truncated:
        raise Fatal(
            f"the log of {pipeline.name} no longer holds its beginning: {'; '.join(spans.truncated)}. Features would "
            "miss what was deleted",
            remedy="keep the topics longer (retention.ms) or export from a file of all events (--events); "
            "--allow-truncated exports what is there, with windows that begin empty",
        )
    return spans


def export_topics(
    kafka: KafkaConnection,
    pipeline: Pipeline,
    codec: EventCodec,
    spans: LogSpans,
    engine_factory: Callable[[int, FeatureTables], Engine],
    out: Path,
    clock: Clock,
    *,
    as_of: int | None = None,
    since: int | None = None,
    progress: Callable[[int], None] = lambda verdicts: None,
) -> TopicExport:
    """Write a training set of what ``spans`` hold to ``out``.

    ``engine_factory`` makes the engine of a partition over tables that all share. Rows carry the label that was
    known at ``as_of`` (UTC microseconds; None: whatever the log says); only events at or after ``since`` become rows.
    ``progress`` is told of verdicts. Raises Retriable (Kafka away), Fatal (the log contradicts itself).
    """
    topics = Topics(pipeline.name)
    index = _read_labels(kafka, pipeline, spans, as_of, clock)
    tally = Tally(differing=np.zeros(len(pipeline.feature_names), dtype=np.int64))
    tables = FeatureTables(pipeline, partitions=len(spans.events))
    duplicates = told = 0
    with ExitStack() as stack:

        def spool(topic: str, of: Mapping[int, Span]) -> Spool:
            made = Spool(kafka, topic, of, _CLIENT, clock)
            stack.callback(made.close)
            return made

        logs = Logs(
            events=spool(topics.events, spans.events),
            verdicts=spool(topics.verdicts, spans.verdicts),
            labels=spool(topics.labels_joined, spans.labels) if pipeline.label_fed else None,
            cut=frozenset(partition for partition, (first, _) in spans.verdicts.items() if first > 0),
        )
        lanes = [
            Lane(pipeline, partition, engine_factory(partition, tables), codec, logs, tally)
            for partition in spans.events
        ]
        apart = len(lanes) == 1 or len(pipeline.entities) == 1
        with TrainingFile(out, pipeline, since=since) as file:
            for piece in one_by_one(lanes) if apart else side_by_side(lanes):
                duplicates += int((piece.advanced.duplicate & piece.exported).sum())
                rows = file.wanted(piece.batch, piece.advanced)
                rows = rows[piece.exported[rows]]
                ids = [piece.batch.ids[i] for i in rows.tolist()]
                file.write(
                    piece.partition,
                    piece.batch,
                    piece.advanced,
                    rows,
                    *index.look_up(ids, piece.batch.times[rows]),
                )
                if tally.verdicts > told:
                    progress(tally.verdicts - told)
                    told = tally.verdicts
    counts = zip(pipeline.feature_names, tally.differing.tolist(), strict=True)
    return TopicExport(
        rows=file.rows,
        labelled=file.labelled,
        positives=file.positives,
        verdicts=tally.verdicts,
        duplicates=duplicates,
        compared=tally.compared,
        differing={name: count for name, count in counts if count},
        without_verdict=tally.without_verdict,
        without_event=tally.without_event,
        by_known_at=tally.by_known_at,
        truncated=tuple(spans.truncated),
    )


def _read_labels(
    kafka: KafkaConnection, pipeline: Pipeline, spans: LogSpans, as_of: int | None, clock: Clock
) -> LabelIndex:
    """Every label of the log, for the label column."""
    index, codec = LabelIndex(as_of), LabelCodec(pipeline)
    spool = Spool(kafka, Topics(pipeline.name).labels_joined, spans.labels, _CLIENT, clock)
    try:
        for partition in spans.labels:
            while (message := spool.take(partition)) is not None:
                try:
                    index.add(codec.decode(message.value() or b"", received_at=message.timestamp()[1] * 1000))
                except EventRejected:
                    continue  # a dead letter
    finally:
        spool.close()
    return index
