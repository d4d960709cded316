"""Feature state of a pipeline in memory, and its one operation: advance a batch of events.

The caller (worker, backtest, API) moves state in and out through :class:`featurestore.ports.StateStore`::

    requests = tables.missing(partition, batch)
    tables.load(requests, store.load_entities(requests))
    advanced = tables.advance(partition, batch, stream_time=...)
    tables.set_results(partition, batch, ...)      # scores, for later duplicates
    store.flush([PartitionFlush(..., blobs=tables.dirty(partition))]); tables.mark_clean(partition)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from domain.batch import EventBatch, Floats, Ints
from domain.label import LabelBatch
from domain.pipeline import LatePolicy, Pipeline, ValueFeature
from featurestore import kernels
from featurestore.entity_table import EntityTable
from featurestore.erased import Erased
from featurestore.kernels_hash import hash_numbers, hash_texts
from featurestore.plan import L_CHANGE, L_OFFSET, L_ROW, L_SLOT, L_TIME, memory_of, plan_entities
from featurestore.ports import EntityRequest

__all__ = ["Advanced", "FeatureTables"]

Bools = npt.NDArray[np.bool_]

_NO_ROWS: Ints = np.empty(0, dtype=np.int64)
_NO_LABELS: Ints = np.empty((0, 5), dtype=np.int64)


@dataclass(frozen=True, slots=True)
class Advanced:
    """What a batch of n events yielded.

    features        float64[n, F], NaN missing; columns of expression features are left NaN
    duplicate       bool[n]; their rows of ``features`` are NaN
    first_offset    int64[n], source offset of the first occurrence of a duplicate, else -1
    first_score     float64[n], the first occurrence's score where it lies in an earlier batch, else NaN
    first_decision  int64[n], likewise its decision code
    late            bool[n]
    stream_time     greatest event time so far, UTC microseconds
    labels_applied  int64[n], how many of the given label changes were applied before each row
    """

    features: Floats
    duplicate: Bools
    first_offset: Ints
    first_score: Floats
    first_decision: Ints
    late: Bools
    stream_time: int
    labels_applied: Ints


class FeatureTables:
    """Hot feature state of the partitions this process holds.

    ``partitions`` is how many partitions feed the pipeline: the state of an entity other than the key is
    merged over all of them. Partitions that are not ``held`` here are read from the store for every batch.

    ``max_entities`` of each kind and ``state_bytes`` in all (None: no limit) stay in memory after :meth:`evict`;
    what changed since it was last stored always does.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        *,
        partitions: int = 1,
        max_entities: int = 200_000,
        state_bytes: int | None = None,
    ) -> None:
        self._pipeline = pipeline
        self._partitions = partitions
        self._max_entities = max_entities
        self._state_bytes = state_bytes
        self._tables = [EntityTable(plan, reserve_bytes=state_bytes or 0) for plan in plan_entities(pipeline)]
        self._held: set[int] = set()
        self._erased: dict[int, Erased] = {}
        self._tick = 0
        self._hash_key = f"tidegate:{pipeline.name}"
        self._values = [(i, f.field) for i, f in enumerate(pipeline.features) if isinstance(f, ValueFeature)]
        width = max(table.plan.sections for table in self._tables)
        self._starts: Ints = np.zeros((max(partitions, 1), width + 1), dtype=np.int64)

    @property
    def held(self) -> frozenset[int]:
        """Partitions whose state in memory is the newest there is."""
        return frozenset(self._held)

    @property
    def entities(self) -> int:
        """Entities in memory, copies of foreign ones included."""
        return sum(len(table) for table in self._tables)

    @property
    def held_bytes(self) -> int:
        """Bytes of memory that hold a blob."""
        return sum(table.held_bytes for table in self._tables)

    @property
    def arena_bytes(self) -> int:
        """Bytes of memory given to blobs."""
        return sum(table.arena_bytes for table in self._tables)

    @property
    def crowded(self) -> bool:
        """Whether blobs take more than ``state_bytes``: time to store what changed, and to :meth:`evict`."""
        return self._state_bytes is not None and self.arena_bytes > self._state_bytes

    @property
    def partitions(self) -> int:
        """How many partitions feed the pipeline."""
        return self._partitions

    def hold(self, partition: int) -> None:
        """Begin with an empty memory of ``partition``: from now on it is authoritative for it."""
        self.drop(partition)
        self._held.add(partition)

    def drop(self, partition: int) -> None:
        """Forget all state of ``partition`` (revoked, or to be recovered)."""
        self._held.discard(partition)
        self._erased.pop(partition, None)
        for table in self._tables:
            table.drop_partition(partition)

    def missing(
        self, partition: int, batch: EventBatch, labels: LabelBatch | None = None
    ) -> list[EntityRequest]:
        """State that must be loaded before ``batch`` of ``partition``, with ``labels``, can advance."""
        requests = []
        for table in self._tables:
            keys = batch.entities[table.plan.entity]
            labelled = self._labelled_keys(table, labels, self._counted(partition, table, labels))
            sources = [partition] if table.plan.is_key else range(self._partitions)
            for source in sources:
                index = table.index(source)
                if source in self._held or source == partition:
                    wanted = [key for key in keys if key not in index]
                    if source == partition:
                        wanted += [key for key in labelled if key not in index]
                else:
                    wanted = list(keys)
                if wanted:
                    requests.append(EntityRequest(source, table.plan.entity, list(dict.fromkeys(wanted))))
        return requests

    def load(self, requests: Sequence[EntityRequest], blobs: Sequence[Sequence[bytes | None]]) -> None:
        """Take over what the store answered to ``missing``. Raises StateMismatch for foreign layouts."""
        tables = {table.plan.entity: table for table in self._tables}
        for request, found in zip(requests, blobs, strict=True):
            tables[request.entity].put(request.partition, request.keys, found)

    def advance(
        self,
        partition: int,
        batch: EventBatch,
        *,
        stream_time: int,
        want_features: bool = True,
        labels: LabelBatch | None = None,
        repeated: Bools | None = None,
    ) -> Advanced:
        """Process a batch in order: features of each event, then its effect on state.

        ``stream_time`` is the greatest event time of the partition's earlier events. With
        ``want_features=False`` only state moves (recovery). All state named by ``missing`` must be loaded.

        ``labels`` are applied in between, in their order: each before the first row at whose stream time
        (that row's event included) it and all labels before it are known. Raises ValueError when one of them
        is not known by the last row (``LabelBatch.due`` tells how many are).

        ``repeated`` (bool[n]): rows known to be repeats, which change nothing. State read back after a torn write may
        be ahead of these rows, and then no longer remembers the ids that would tell.
        """
        n = len(batch)
        self._tick += 1
        features: Floats = np.full((n, len(self._pipeline.features)), np.nan)
        before = np.maximum.accumulate(np.concatenate([[stream_time], batch.times]))
        labels_applied = _labels_before(labels, before[1:])
        late: Bools = batch.times < before[:-1] - self._pipeline.event.max_lateness
        action = np.zeros(n, dtype=np.uint8)
        if self._pipeline.event.late is LatePolicy.IGNORE:
            action[late] = kernels.READ_ONLY
        if repeated is not None:
            action[repeated] = kernels.NOTHING
        first_offset: Ints = np.full(n, -1, dtype=np.int64)
        first_score: Floats = np.full(n, np.nan)
        first_decision: Ints = np.zeros(n, dtype=np.int64)
        no_hashes: Ints = np.zeros(n, dtype=np.int64)
        for table in self._tables:
            plan = table.plan
            slots = table.slots_of(partition, batch.entities[plan.entity], self._tick)
            peers, peer_start = self._peers(table, batch, slots)
            values = self._number_columns(plan.number_fields, batch)
            hashes = self._hash_columns(plan.hash_fields, batch)
            id_hashes = hash_texts(batch.ids, self._hash_key) if plan.is_key else no_hashes
            changes = self._label_rows(partition, table, labels, labels_applied)
            row = 0
            while True:
                row = kernels.advance(
                    table.words,
                    table.floats,
                    table.bases,
                    table.classes,
                    table.free,
                    table.top,
                    plan.arrays,
                    plan.head_words,
                    plan.growth_words,
                    slots,
                    peers,
                    peer_start,
                    batch.times,
                    batch.offsets,
                    action,
                    values,
                    hashes,
                    id_hashes,
                    changes,
                    features,
                    first_offset,
                    first_score,
                    first_decision,
                    self._starts,
                    want_features,
                    row,
                )
                if row == n:
                    break
                table.grow()
            table.touch(slots[action == kernels.APPLY])
            table.touch(changes[:, L_SLOT])
        duplicate: Bools = action == kernels.NOTHING
        if want_features:
            for column, field in self._values:
                features[:, column] = batch.numbers[field]
            features[duplicate] = np.nan
        return Advanced(
            features,
            duplicate,
            first_offset,
            first_score,
            first_decision,
            late,
            int(before[-1]),
            labels_applied,
        )

    def apply_labels(self, partition: int, labels: LabelBatch) -> None:
        """Apply all of ``labels`` at once, without events: in recovery, after the events were rebuilt.

        Gives the same state as applying them between the events. What ``missing`` names of an empty batch
        and ``labels`` must be loaded.
        """
        self._tick += 1
        for table in self._tables:
            changes = self._label_rows(partition, table, labels, _NO_ROWS)
            at = 0
            while at < len(changes):
                at = kernels.apply_labels(
                    table.words,
                    table.floats,
                    table.bases,
                    table.classes,
                    table.free,
                    table.top,
                    table.plan.arrays,
                    table.plan.growth_words,
                    changes,
                    at,
                    0,
                    self._starts,
                )
                if at < len(changes):
                    table.grow()
            table.touch(changes[:, L_SLOT])

    def missing_entity(self, partition: int, entity: str, key: str) -> list[EntityRequest]:
        """State that must be loaded before :meth:`erase`."""
        return [
            EntityRequest(partition, entity, [key])
            for table in self._tables
            if table.plan.entity == entity and key not in table.index(partition)
        ]

    def erase(self, partition: int, entity: str, key: str, offset: int, stream_time: int) -> None:
        """Forget all that events and labels below the source offset ``offset`` told of one entity.

        What it named by :meth:`missing_entity` must be loaded. Labels about events not after ``stream_time`` no longer
        count, whenever they come.
        """
        if self._pipeline.follows_labels:
            self._erased.setdefault(partition, Erased()).add(entity, key, stream_time)
        for table in self._tables:
            if table.plan.entity == entity:
                table.erase(table.index(partition)[key], offset)

    def erased(self, partition: int, stream_time: int) -> tuple[tuple[int, int], ...]:
        """What is remembered of erasures, to be stored with the state; only what a label can still be about."""
        held = self._erased.get(partition)
        return () if held is None else held.newest(stream_time - memory_of(self._pipeline))

    def restore_erased(self, partition: int, stored: tuple[tuple[int, int], ...]) -> None:
        """Take over what :meth:`erased` gave."""
        if stored:
            self._erased[partition] = Erased(stored)

    def set_results(
        self, partition: int, keys: Sequence[str], offsets: Ints, scores: Floats, decisions: Ints
    ) -> None:
        """Remember results of events (not duplicates) for the duplicates that may follow."""
        table = self._tables[0]
        index = table.index(partition)
        slots = np.fromiter((index[key] for key in keys), np.int64, len(keys))
        kernels.set_results(
            table.words,
            table.floats,
            table.bases,
            slots,
            offsets,
            scores,
            decisions,
            table.plan.arrays,
            self._starts,
        )

    def dirty(self, partition: int) -> list[tuple[str, str, bytes]]:
        """(entity, key, blob) of everything of ``partition`` that changed since ``mark_clean``."""
        return [
            (table.plan.entity, key, blob)
            for table in self._tables
            for key, blob in table.blobs(table.dirty_slots(partition))
        ]

    def take_dirty(self, partition: int) -> list[tuple[str, str, bytes]]:
        """:meth:`dirty`, which counts as clean from here on.

        Nothing may be evicted (:meth:`evict`) until what was taken is stored: reading it back would
        otherwise find an older state.
        """
        taken = []
        for table in self._tables:
            slots = table.dirty_slots(partition)
            taken += [(table.plan.entity, key, blob) for key, blob in table.blobs(slots)]
            table.dirty[slots] = False
        return taken

    def evict(self) -> None:
        """Let entries leave memory, oldest use first, until the limits hold; each kind gives its share of bytes.

        Where bytes are short, a tenth more than needed goes, so that it is not done again at once.
        """
        if self._state_bytes is None or not self.crowded:
            for table in self._tables:
                table.evict(self._max_entities)
            return
        wanted = self._state_bytes - self._state_bytes // 10
        held = [table.held_bytes for table in self._tables]
        for table, bytes_ in zip(self._tables, held, strict=True):
            table.evict(self._max_entities, bytes_ * wanted // max(sum(held), wanted))
            table.compact()

    def mark_clean(self, partition: int) -> None:
        """What ``dirty`` gave is safely stored: forget that it changed, and evict."""
        for table in self._tables:
            table.dirty[table.dirty_slots(partition)] = False
        self.evict()

    def _counted(self, partition: int, table: EntityTable, labels: LabelBatch | None) -> Ints:
        """Rows of ``labels`` that change state of one kind: not those about events from before an erasure."""
        if labels is None or not table.plan.label_fed:
            return _NO_ROWS
        counted = np.flatnonzero(labels.change)
        erased = self._erased.get(partition)
        if erased is None or not len(erased):
            return counted
        keys, times = labels.entities[table.plan.entity], labels.times
        kept = [i for i in counted.tolist() if not erased.covers(table.plan.entity, keys[i], int(times[i]))]
        return np.array(kept, dtype=np.int64)

    @staticmethod
    def _labelled_keys(table: EntityTable, labels: LabelBatch | None, counted: Ints) -> list[str]:
        """Entities of one kind whose state the rows ``counted`` of ``labels`` change."""
        if labels is None or not len(counted):
            return []
        keys = labels.entities[table.plan.entity]
        return [keys[i] for i in counted.tolist()]

    def _label_rows(
        self, partition: int, table: EntityTable, labels: LabelBatch | None, applied: Ints
    ) -> Ints:
        """The label changes that concern one table, int64[m, 5] (the ``L_`` columns of featurestore.plan)."""
        if labels is None or not table.plan.label_fed:
            return _NO_LABELS
        counted = self._counted(partition, table, labels)
        rows: Ints = np.empty((len(counted), 5), dtype=np.int64)
        rows[:, L_SLOT] = table.slots_of(partition, self._labelled_keys(table, labels, counted), self._tick)
        rows[:, L_TIME] = labels.times[counted]
        rows[:, L_OFFSET] = labels.offsets[counted]
        rows[:, L_CHANGE] = labels.change[counted]
        rows[:, L_ROW] = np.searchsorted(applied, counted, side="right")
        return rows

    def _peers(self, table: EntityTable, batch: EventBatch, slots: Ints) -> tuple[Ints, Ints]:
        n = len(slots)
        if table.plan.is_key or self._partitions == 1:
            return slots, np.arange(n + 1, dtype=np.int64)
        keys = batch.entities[table.plan.entity]
        columns = [table.slots_of(p, keys, self._tick) for p in range(self._partitions)]
        return (
            np.ascontiguousarray(np.stack(columns, axis=1)).reshape(-1),
            np.arange(n + 1, dtype=np.int64) * self._partitions,
        )

    def _number_columns(self, fields: tuple[str, ...], batch: EventBatch) -> Floats:
        values: Floats = np.empty((len(batch), len(fields)))
        for i, field in enumerate(fields):
            values[:, i] = batch.numbers[field]
        return values

    def _hash_columns(self, fields: tuple[str, ...], batch: EventBatch) -> Ints:
        hashes: Ints = np.empty((len(batch), len(fields)), dtype=np.int64)
        for i, field in enumerate(fields):
            numbers = batch.numbers.get(field)
            if numbers is not None:
                hashes[:, i] = hash_numbers(numbers)
            else:
                texts = batch.strings.get(field)
                hashes[:, i] = hash_texts(batch.entities[field] if texts is None else texts, self._hash_key)
        return hashes


def _labels_before(labels: LabelBatch | None, stream_times: Ints) -> Ints:
    """How many label changes are applied before each row, given the stream time at it; int64[n]."""
    if labels is None or len(labels) == 0:
        return np.zeros(len(stream_times), dtype=np.int64)
    known = np.maximum.accumulate(labels.known_at)
    applied: Ints = np.searchsorted(known, stream_times, side="right").astype(np.int64)
    if len(applied) == 0 or applied[-1] < len(labels):
        due = 0 if len(applied) == 0 else int(applied[-1])
        raise ValueError(
            f"{len(labels) - due} of {len(labels)} label changes are not known by the last row of the batch; "
            "pass only those that LabelBatch.due counts"
        )
    return applied
