"""Committing one micro-batch, and writing state, in the background while the next batch is being scored.

At most one transaction and one write of state are under way. State was captured when memory stood exactly at the
end of a batch; its writing begins only after that batch's commit (promise P2), and the next transactions do not
wait for it.
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

__all__ = ["Committer", "Outcome", "StateWrites", "Written"]


@dataclass(frozen=True, slots=True)
class StateWrites:
    """State captured at one moment, to be written once everything in it is committed."""

    flushes: list[tuple[PartitionTask, PartitionFlush]] = field(default_factory=list)
    snapshots: list[tuple[PartitionTask, ModelSnapshot]] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.flushes or self.snapshots)


@dataclass(frozen=True, slots=True)
class Outcome:
    """A committed micro-batch: the end of its verdicts per partition, and when (UTC microseconds)."""

    batch: MicroBatch
    ends: dict[int, int]
    committed_at: int


@dataclass(frozen=True, slots=True)
class Written:
    """A finished write of state; after a ``failure`` the store holds none, some or all of it: repeat it."""

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
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="state")
        self._under_way: Future[Outcome] | None = None
        # set by the commit thread, looked at by the main thread only after it has settled that commit
        self._writing: Future[Written] | None = None
        self._promised = False

    @property
    def writing(self) -> bool:
        """Whether captured state is under way to the store, or about to be."""
        return self._promised

    def submit(self, batch: MicroBatch, group: Any, writes: StateWrites) -> None:
        """Begin to commit ``batch``; the one before must be settled."""
        if self._under_way is not None or (writes and self._promised):
            raise RuntimeError("a transaction or a write of state is under way; settle it first")
        self._promised = self._promised or bool(writes)
        self._under_way = self._thread.submit(self._commit, batch, group, writes)

    def settle(self) -> Outcome | None:
        """Wait for the transaction under way and return what came of it; None when there is none.

        Raises TransactionAborted, OutcomeUnknown or Fenced; its state then counts for nothing.
        """
        if self._under_way is None:
            return None
        under_way, self._under_way = self._under_way, None
        try:
            return under_way.result()
        except BaseException:
            self._promised = self._writing is not None
            raise

    def written(self, *, wait: bool) -> Written | None:
        """The write of state under way, once it is over (``wait``: then); None when there is none or not yet.

        To be called with no unsettled transaction.
        """
        if self._writing is None or not (wait or self._writing.done()):
            return None
        writing, self._writing = self._writing, None
        self._promised = False
        return writing.result()

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
        self._writer.shutdown(wait=True)

    def _commit(self, batch: MicroBatch, group: Any, writes: StateWrites) -> Outcome:
        started = self._clock.monotonic()
        ends = self._outbox.send(batch.outgoing, batch.offsets, group)
        committed_at = self._clock.now()
        self._metrics.stage_seconds.labels("commit").inc(self._clock.monotonic() - started)
        if writes:
            self._writing = self._writer.submit(self._write_captured, writes)
        return Outcome(batch, ends, committed_at)

    def _write_captured(self, writes: StateWrites) -> Written:
        try:
            self.write(writes)
        except (StoreUnavailable, StateFenced) as error:
            return Written(writes, error)
        return Written(writes, None)
