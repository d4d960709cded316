"""What must have come out of one partition: the pure engine over its topic, and the slow reference on a sample."""

from __future__ import annotations

import math
import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from detectors.ensemble import Ensemble
from domain.batch import EventBatch, Floats
from domain.codec import EventCodec
from domain.pipeline import AggregateFeature, ExpressionFeature, Feature, Pipeline, ValueFeature
from domain.verdict import DECISIONS, Verdict
from featurestore.tables import FeatureTables
from scoring.engine import PartitionScorer
from scoring.scored import FLAG_BITS, ScoredBatch
from stream.decoding import decode_messages
from tests.chaos.watch import Seen
from tests.reference import Reference, Row
from tests.unit.featurestore.harness import tolerance

__all__ = ["PartitionOracle", "own_features"]

SAMPLED_KEYS = 25
SAMPLED_ROWS = 250
"""Per partition; the reference takes time that grows with the square of them."""
LARGEST = 25_000.0
"""No amount in the traffic is above it; bounds of rounding follow from it."""


class _Message:
    """What decoding wants of a Kafka message."""

    def __init__(self, seen: Seen) -> None:
        self._seen = seen

    def key(self) -> bytes | None:
        return self._seen.key

    def value(self) -> bytes | None:
        return self._seen.value

    def timestamp(self) -> tuple[int, int]:
        return 2, self._seen.timestamp_ms


def own_features(pipeline: Pipeline) -> list[str]:
    """Features whose value one partition alone decides: of the event, of the key entity, or made of such."""
    own: list[str] = []
    foreign: set[str] = set()
    for feature in pipeline.features:
        if isinstance(feature, ExpressionFeature):
            mixed = foreign & set(re.findall(r"[A-Za-z_]\w*", feature.expression))
        else:
            mixed = set()
            if isinstance(feature, AggregateFeature) and feature.entity != pipeline.event.key:
                mixed = {feature.name}
        if mixed:
            foreign.add(feature.name)
        else:
            own.append(feature.name)
    return own


def _bits(values: Floats) -> Any:
    """Comparable bits; every NaN is the same missing value."""
    return np.ascontiguousarray(np.where(np.isnan(values), np.nan, values)).view(np.int64)


def _same(left: float | None, right: float) -> bool:
    return bool(np.isnan(right)) if left is None else left == right


@dataclass
class PartitionOracle:
    """The engine over everything in one partition of the events topic."""

    pipeline: Pipeline
    partition: int
    batch: EventBatch
    rejected: set[int]
    end: int
    scored: ScoredBatch

    @classmethod
    def of(
        cls, pipeline: Pipeline, codec: EventCodec, partition: int, inputs: Sequence[Seen]
    ) -> PartitionOracle:
        """``inputs``: the partition's records in order of offsets."""
        decoded = decode_messages(codec, [_Message(seen) for seen in inputs])
        offsets = [inputs[i].offset for i in decoded.accepted]
        batch = codec.to_batch(decoded.events, offsets)
        scored = _scorer(pipeline, partition).process(batch)
        rejected = {inputs[i].offset for i, _ in decoded.rejected}
        end = inputs[-1].offset + 1 if inputs else 0
        return cls(pipeline, partition, batch, rejected, end, scored)

    def wrong_features(self, verdicts: Mapping[int, Verdict]) -> list[int]:
        """Offsets whose verdict has another vector, flag or first occurrence."""
        names = self.pipeline.feature_names
        own = [i for i, name in enumerate(names) if name in set(own_features(self.pipeline))]
        visible = FLAG_BITS_COMPARED
        wrong = []
        for row, offset in enumerate(self.batch.offsets.tolist()):
            verdict = verdicts.get(offset)
            if verdict is None:
                continue
            given = verdict.features or {}
            got = np.array([_number(given.get(names[i])) for i in own])
            flags = sum(FLAG_BITS[flag] for flag in verdict.flags) & visible
            first = -1 if verdict.first is None else verdict.first.offset
            if (
                not np.array_equal(_bits(got), _bits(self.scored.features[row, own]))
                or flags != int(self.scored.flags[row]) & visible
                or first != int(self.scored.first_offset[row])
                or verdict.id != self.batch.ids[row]
            ):
                wrong.append(offset)
        return wrong

    def wrong_scores(self, verdicts: Mapping[int, Verdict]) -> tuple[list[int], Ensemble]:
        """Offsets whose scores the detectors do not give again over the log's own vectors; the detectors then."""
        names = self.pipeline.feature_names
        ensemble = Ensemble(self.pipeline)
        order = [verdicts[offset] for offset in sorted(verdicts)]
        fresh = [v for v in order if v.features is not None]
        x: Floats = np.array([[_number(v.features.get(n)) for n in names] for v in fresh], dtype=np.float64)
        wrong = []
        if fresh:
            keys = [v.entities[self.pipeline.event.key] for v in fresh]
            taught = None if ensemble.guard is None else ensemble.guard.admit(keys)
            again = ensemble.step(x.reshape(len(fresh), len(names)), teach=taught)
            decisions = again.reached
            for row, verdict in enumerate(fresh):
                same = (
                    _same(verdict.score, again.score[row]) and verdict.decision == DECISIONS[decisions[row]]
                )
                for column, name in enumerate(ensemble.names):
                    said = verdict.detectors[name]
                    same &= _same(said.score, again.raw[row, column]) and _same(
                        said.rank, again.ranks[row, column]
                    )
                if not same:
                    wrong.append(verdict.source.offset)
        for verdict in order:
            first = None if verdict.first is None else verdicts.get(verdict.first.offset)
            if first is not None and (first.score, first.decision) != (verdict.score, verdict.decision):
                wrong.append(verdict.source.offset)
        return wrong, ensemble

    def state(self, verdicts: Mapping[int, Verdict]) -> PartitionScorer:
        """The engine's state over the topic, remembering the results that the verdicts told."""
        scorer = _scorer(self.pipeline, self.partition)
        said = [verdicts.get(offset) for offset in self.batch.offsets.tolist()]
        score: Floats = np.array([np.nan if v is None else _number(v.score) for v in said])
        decision = np.array([0 if v is None else DECISIONS.index(v.decision) for v in said], dtype=np.int64)
        # memory holds everything from the first event on, so it knows repeats by itself
        scorer.rebuild(self.batch, score, decision, np.zeros(len(self.batch), dtype=np.bool_))
        return scorer

    def against_reference(self, seed: int) -> tuple[int, int]:
        """(compared, wrong) features of a sample of keys: the slow reference beside the engine."""
        keys = list(dict.fromkeys(self.batch.entities[self.pipeline.event.key]))
        chosen = set(random.Random(f"{seed}:{self.partition}").sample(keys, min(SAMPLED_KEYS, len(keys))))
        reference = Reference(self.pipeline)
        before: Any = np.maximum.accumulate(self.batch.times)
        of_key = self.batch.entities[self.pipeline.event.key]
        rows = [row for row, key in enumerate(of_key) if key in chosen][:SAMPLED_ROWS]
        compared = wrong = 0
        exact = {
            f.name: i
            for i, f in enumerate(self.pipeline.features)
            if isinstance(f, ValueFeature)
            or (isinstance(f, AggregateFeature) and f.entity == self.pipeline.event.key)
        }
        for row in rows:
            if row:
                # what the events left out of the sample would have told it
                reference._partitions[0].stream_time = int(before[row - 1])
            [outcome] = reference.process(0, [self._row(row)])
            if outcome.features is None:
                wrong += int(self.scored.first_offset[row]) != outcome.first_offset
                compared += 1
                continue
            for name, column in exact.items():
                compared += 1
                wrong += not _near(
                    self.pipeline.features[column],
                    outcome.features[name],
                    float(self.scored.features[row, column]),
                )
        return compared, wrong

    def _row(self, row: int) -> Row:
        batch = self.batch
        fields: dict[str, float | str | None] = {}
        for name, numbers in batch.numbers.items():
            fields[name] = None if math.isnan(numbers[row]) else float(numbers[row])
        for name, texts in batch.strings.items():
            fields[name] = texts[row]
        entities = {name: values[row] for name, values in batch.entities.items()}
        return Row(
            batch.ids[row], int(batch.times[row]), int(batch.offsets[row]), entities, {**entities, **fields}
        )


FLAG_BITS_COMPARED = sum(bit for flag, bit in FLAG_BITS.items() if flag in ("duplicate", "late"))
"""Flags that follow from the events alone; the others follow from scores, or from what was missing."""


def _scorer(pipeline: Pipeline, partition: int) -> PartitionScorer:
    """An engine that knows nothing of other partitions: what it says of entities they feed does not count."""
    return PartitionScorer(pipeline, partition, tables=FeatureTables(pipeline, partitions=partition + 1))


def _number(value: float | None) -> float:
    return math.nan if value is None else value


def _near(feature: Feature, wanted: float | None, got: float) -> bool:
    if wanted is None:
        return math.isnan(got)
    return abs(got - wanted) <= tolerance(feature, wanted, LARGEST, SAMPLED_ROWS)
