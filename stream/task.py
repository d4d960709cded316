"""What a worker knows of one partition it holds."""

from __future__ import annotations

from dataclasses import dataclass, field

from featurestore.ports import Applied, ModelSnapshot, PartitionFlush
from scoring.engine import PartitionScorer
from stream.outbox import Record

__all__ = ["PartitionTask"]


@dataclass(slots=True)
class PartitionTask:
    """A held partition: its scorer, and how far memory, log, store and snapshot have come.

    scored_offset     first source offset that memory has not scored
    next_offset       first source offset not known to be committed; at most scored_offset
    scored_labels     first offset of ``labels.joined`` that memory has not counted
    next_labels       first one not known to be committed; at most scored_labels
    applied           what the store holds (None: nothing)
    verdict_position  an offset in the verdicts partition at or before all verdicts of next_offset and later
    snapshot_offset   next_offset of the last detector snapshot
    taken_over        when the former owner committed last (UTC microseconds), until our own first commit
    letters           dead letters of label records passed over, to go out with the next transaction
    incomplete_until  recovery could not reach back far enough: verdicts are flagged ``degraded`` until stream time
                      reaches this (UTC microseconds); 0: nothing is missing
    captured          state was captured, and is not known to be in the store
    """

    partition: int
    scorer: PartitionScorer
    scored_offset: int
    next_offset: int
    applied: Applied | None
    verdict_position: int
    snapshot_offset: int
    incomplete_until: int
    taken_over: int | None = None
    scored_labels: int = 0
    next_labels: int = 0
    letters: list[Record] = field(default_factory=list)
    captured: bool = False

    @property
    def behind(self) -> int:
        """Committed offsets that the store does not reflect yet."""
        return self.next_offset - (0 if self.applied is None else self.applied.next_offset)

    @property
    def ahead(self) -> bool:
        """Whether memory holds events or labels that are not known to be committed."""
        return (self.scored_offset, self.scored_labels) != (self.next_offset, self.next_labels)

    @property
    def writable(self) -> bool:
        """Whether what memory calls changed is all that the store lacks, and all of it is committed.

        It is not once captured state was lost with the transaction that it belonged to: memory takes that for
        stored. Such a task has to be recovered, or dropped without another write.
        """
        return not (self.ahead or self.captured)

    @property
    def incomplete(self) -> bool:
        """Whether features may still lack events that the log lost."""
        return self.scorer.stream_time < self.incomplete_until

    def capture_flush(self) -> PartitionFlush | None:
        """Entity state as memory has it now, to be written once ``scored_offset`` is committed.

        None when the store has it. What is captured counts as clean from here on, so it must be written
        before anything is evicted from memory: :meth:`flushed` says that it is. Raises RuntimeError when an
        earlier capture has not been.
        """
        if self.captured:
            raise RuntimeError(f"state of partition {self.partition} was captured before and is not written")
        stored = (0, 0) if self.applied is None else (self.applied.next_offset, self.applied.labels_offset)
        if stored == (self.scored_offset, self.scored_labels):
            return None
        applied = Applied(
            self.scored_offset,
            self.scorer.stream_time,
            self.verdict_position,
            self.scored_labels,
            self.incomplete_until if self.incomplete else 0,
            self.scorer.tables.erased(self.partition, self.scorer.stream_time),
        )
        self.captured = True
        return PartitionFlush(
            self.partition, self.applied, applied, self.scorer.tables.take_dirty(self.partition)
        )

    def flushed(self, flush: PartitionFlush) -> None:
        """The store holds what :meth:`capture_flush` gave."""
        self.applied = flush.applied
        self.captured = False

    def capture_snapshot(self) -> ModelSnapshot | None:
        """The detectors as memory has them now, likewise; None when nothing came since the last snapshot."""
        if self.snapshot_offset == self.scored_offset:
            return None
        return ModelSnapshot(self.scored_offset, self.verdict_position, self.scorer.snapshot())
