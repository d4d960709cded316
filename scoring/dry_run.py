"""Scoring one event against present state without changing anything: ``POST /v1/score?dry_run=true``.

The same engine on scratch tables, filled from the online store, the newest detector snapshot, and the models and
rules in force. The answer is what a worker would have said of the event next, but for what it has committed since its
last flush (a fraction of a second) and its last snapshot (ten seconds).
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from domain.clock import Clock
from domain.codec import EventCodec
from domain.errors import StateMismatch
from domain.pipeline import Pipeline
from domain.verdict import Verdict
from featurestore.ports import StateStore
from featurestore.tables import FeatureTables
from scoring.engine import PartitionScorer
from scoring.models_in_use import NO_MODELS, ModelsInUse
from scoring.rules_in_use import NO_RULES, RulesInUse
from scoring.verdicts import VerdictEncoder, decode_verdict

__all__ = ["StateDryRunner"]

NOWHERE = 2**53 - 1
"""A source offset after every real one, so that the event counts as new; shown to the caller as -1."""


class StateDryRunner:
    """:class:`api.ports.DryRunner` on a state store. One call at a time."""

    def __init__(
        self,
        pipeline: Pipeline,
        codec: EventCodec,
        encoder: VerdictEncoder,
        store: StateStore,
        clock: Clock,
        *,
        partitions: int,
        partition_of: Callable[[bytes, int], int],
        models: Callable[[], ModelsInUse] = lambda: NO_MODELS,
        rules: Callable[[], RulesInUse] = lambda: NO_RULES,
    ) -> None:
        self._pipeline = pipeline
        self._codec = codec
        self._encoder = encoder
        self._store = store
        self._clock = clock
        self._partitions = partitions
        self._partition_of = partition_of
        self._models = models
        self._rules = rules
        self._known: dict[int, tuple[int, PartitionScorer]] = {}

    def score(self, raw: bytes) -> Verdict:
        """The verdict that ``raw`` would get. Raises EventRejected, StoreUnavailable, StateMismatch."""
        now = self._clock.now()
        event = self._codec.decode(raw, received_at=now)
        partition = self._partition_of(self._codec.expected_key(event), self._partitions)
        batch = self._codec.to_batch([event], [NOWHERE])
        applied = self._store.load_applied(partition)
        known = self._learned(partition)
        scorer = PartitionScorer(
            self._pipeline,
            partition,
            tables=FeatureTables(self._pipeline, partitions=self._partitions),
            fetch=self._store.load_entities,
            stream_time=0 if applied is None else applied.stream_time,
            ensemble=known.ensemble,
            learned=known.learned,
            models=self._models(),
            rules=self._rules(),
        )
        scored = scorer.preview(batch)
        [record] = self._encoder.verdicts(scored, partition=partition, scored_at=now)
        verdict = decode_verdict(self._encoder.encode(record))
        return msgspec.structs.replace(verdict, source=msgspec.structs.replace(verdict.source, offset=-1))

    def _learned(self, partition: int) -> PartitionScorer:
        """The partition's detectors as last snapshotted; rebuilt only when there is a newer snapshot."""
        snapshot = self._store.load_model(partition)
        at = -1 if snapshot is None else snapshot.next_offset
        known = self._known.get(partition)
        if known is not None and known[0] == at:
            return known[1]
        tables = FeatureTables(self._pipeline, partitions=self._partitions)
        learned = PartitionScorer(self._pipeline, partition, tables=tables)
        if snapshot is not None:
            try:
                learned.restore(snapshot.blob)
            except ValueError as error:
                raise StateMismatch(
                    f"the detectors' snapshot of partition {partition} can not be used: {error}",
                    remedy="run API and workers with the same pipeline file",
                ) from error
        self._known[partition] = (at, learned)
        return learned
