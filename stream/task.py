"""What a worker knows of one partition it holds."""

from __future__ import annotations

from dataclasses import dataclass

from featurestore.ports import Applied, ModelSnapshot, PartitionFlush
from scoring.engine import PartitionScorer

__all__ = ["PartitionTask"]


@dataclass(slots=True)
class PartitionTask:
    """A held partition: its scorer, and how far log, store and snapshot have come.

    next_offset       first source offset not yet committed
    applied           what the store holds (None: nothing)
    verdict_position  end of the verdicts that belong to offsets below next_offset
    snapshot_offset   next_offset of the last detector snapshot
    incomplete        recovery could not reach back far enough: verdicts are flagged ``degraded``
    ahead             state in memory holds events that are not committed: it must never reach the store
    """

    partition: int
    scorer: PartitionScorer
    next_offset: int
    applied: Applied | None
    verdict_position: int
    snapshot_offset: int
    incomplete: bool
    ahead: bool = False

    @property
    def behind(self) -> int:
        """Committed offsets that the store does not reflect yet."""
        return self.next_offset - (0 if self.applied is None else self.applied.next_offset)

    def flush(self) -> PartitionFlush | None:
        """What to write so that the store reflects everything committed; None when it does."""
        if self.ahead:
            return None
        if self.applied is not None and self.applied.next_offset == self.next_offset:
            return None
        if self.applied is None and self.next_offset == 0:
            return None
        applied = Applied(self.next_offset, self.scorer.stream_time, self.verdict_position)
        blobs = self.scorer.tables.dirty(self.partition)
        return PartitionFlush(self.partition, self.applied, applied, blobs)

    def flushed(self, flush: PartitionFlush) -> None:
        """The store took ``flush``."""
        self.applied = flush.applied
        self.scorer.tables.mark_clean(self.partition)

    def snapshot(self) -> ModelSnapshot | None:
        """The detectors as they are, unless nothing came since the last snapshot."""
        if self.ahead or self.snapshot_offset == self.next_offset:
            return None
        return ModelSnapshot(self.next_offset, self.verdict_position, self.scorer.ensemble.snapshot())
