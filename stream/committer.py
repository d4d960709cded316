"""Committing one micro-batch in the background while the next one is being scored.

At most one transaction is under way. State that goes with it was captured when memory stood exactly at its end,
and is written only after its commit (promise P2), in the same background step.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from domain.clock import Clock
from domain.errors import StateFenced, StoreUnavailable
from featurestore.ports import ModelSnapshot, PartitionFlush, StateStore
from stream.micro_batch import MicroBatch
from stream.outbox import Outbox
from stream.task import PartitionTask
from stream.worker_metrics import WorkerMetrics

__all__ = ["Committer", "Outcome", "StateWrites"]


@dataclass(frozen=True, slots=True)
class StateWrites:
    """State captured at one moment, to be written once everything in it is committed."""

    flushes: list[tuple[PartitionTask, PartitionFlush]] = field(default_factory=list)
    snapshots: list[tuple[PartitionTask, ModelSnapshot]] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.flushes or self.snapshots)


@dataclass(frozen=True, slots=True)
class Outcome:
    """A committed micro-batch. ``failure``: its state is not (wholly) in the store, try ``writes`` again.

    ``ends`` is the end of the verdicts per partition, ``committed_at`` UTC microseconds.
    """

    batch: MicroBatch
    ends: dict[int, int]
    committed_at: int
    writes: StateWrites
    failure: StoreUnavailable | StateFenced | None


class Committer:
    """The background step of a session; used by its one main thread."""

    def __init__(
        self,
        outbox: Outbox,
        store: StateStore,
        clock: Clock,
        metrics: WorkerMetrics,
        at: Callable[[str], None],
    ) -> None:
        self._outbox = outbox
        self._store = store
        self._clock = clock
        self._metrics = metrics
        self._at = at
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="commit")
        self._under_way: Future[Outcome] | None = None

    @property
    def busy(self) -> bool:
        """Whether a transaction is under way (or not yet settled)."""
        return self._under_way is not None

    def submit(self, batch: MicroBatch, group: Any, writes: StateWrites) -> None:
        """Begin to commit ``batch``; the one before must be settled."""
        if self._under_way is not None:
            raise RuntimeError("a transaction is under way; settle it first")
        self._under_way = self._thread.submit(self._commit, batch, group, writes)

    def settle(self) -> Outcome | None:
        """Wait for the transaction under way and return what came of it; None when there is none.

        Raises TransactionAborted, OutcomeUnknown or Fenced; its state then counts for nothing.
        """
        if self._under_way is None:
            return None
        under_way, self._under_way = self._under_way, None
        return under_way.result()

    def write(self, writes: StateWrites) -> None:
        """Write captured state. Raises StoreUnavailable or StateFenced; repeating it does no harm."""
        started = self._clock.monotonic()
        if writes.flushes:
            self._at("before_flush")
            self._store.flush([flush for _, flush in writes.flushes])
            self._at("after_flush")
        flushed = self._clock.monotonic()
        for task, snapshot in writes.snapshots:
            self._store.save_model(task.partition, snapshot)
        self._metrics.stage_seconds.labels("flush").inc(flushed - started)
        self._metrics.stage_seconds.labels("snapshot").inc(self._clock.monotonic() - flushed)

    def close(self) -> None:
        """End the thread; what is under way is waited for and forgotten."""
        self._thread.shutdown(wait=True)

    def _commit(self, batch: MicroBatch, group: Any, writes: StateWrites) -> Outcome:
        started = self._clock.monotonic()
        ends = self._outbox.send(batch.outgoing, batch.offsets, group)
        committed_at = self._clock.now()
        self._metrics.stage_seconds.labels("commit").inc(self._clock.monotonic() - started)
        failure: StoreUnavailable | StateFenced | None = None
        if writes:
            try:
                self.write(writes)
            except (StoreUnavailable, StateFenced) as error:
                failure = error
        return Outcome(batch, ends, committed_at, writes, failure)
