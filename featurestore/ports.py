"""The online store as a port: what the worker and the API need of Redis, and nothing more.

Implementations: :class:`featurestore.online.RedisStateStore` and, for unit tests,
:class:`featurestore.memory.MemoryStateStore`; both pass ``tests/contract/check_state_store.py``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

__all__ = ["Applied", "EntityRequest", "ModelSnapshot", "PartitionFlush", "StateStore"]


@dataclass(frozen=True, slots=True)
class Applied:
    """How far a partition's entity state reflects its input.

    next_offset       the first source offset that is NOT applied (as Kafka counts committed offsets)
    stream_time       greatest event time among applied events, UTC microseconds
    verdict_position  an offset in the verdicts partition of the same number: the verdicts of all source
                      offsets from ``next_offset`` on lie at or after it
    labels_offset     the first offset of ``labels.joined`` that is NOT applied (0 where labels feed nothing)
    incomplete_until  the log lost events that this state should hold: until stream time reaches this (UTC
                      microseconds), features may lack some; 0 where nothing is missing
    erased            erasures that labels to come must respect (featurestore.erased)
    """

    next_offset: int
    stream_time: int
    verdict_position: int
    labels_offset: int = 0
    incomplete_until: int = 0
    erased: tuple[tuple[int, int], ...] = ()

    @property
    def progress(self) -> int:
        """One number that grows whenever events or labels are applied; the fence compares it."""
        return self.next_offset + self.labels_offset


@dataclass(frozen=True, slots=True)
class ModelSnapshot:
    """A partition's detectors at a source offset: ``blob`` reflects all verdicts of offsets < next_offset."""

    next_offset: int
    verdict_position: int
    blob: bytes


@dataclass(frozen=True, slots=True)
class EntityRequest:
    """State wanted of some entities of one kind as partition ``partition`` wrote it."""

    partition: int
    entity: str
    keys: Sequence[str]


@dataclass(frozen=True, slots=True)
class PartitionFlush:
    """State to write for one partition after a commit.

    ``expected`` is what the caller believes is stored (None: nothing yet). When the store holds another
    ``progress``, nothing of ``applied`` is written and StateFenced is raised. ``blobs`` are
    (entity, key, blob) with the blob's own progress in its first 8 bytes (little-endian int64); a blob
    whose stored progress is greater is left alone. A blob of these 8 bytes alone deletes what is stored, likewise.
    """

    partition: int
    expected: Applied | None
    applied: Applied
    blobs: Sequence[tuple[str, str, bytes]]


class StateStore(Protocol):
    """Online state of one pipeline. All methods raise StoreUnavailable when the store does not answer."""

    def load_applied(self, partition: int) -> Applied | None:
        """How far ``partition`` is applied; None when nothing was ever written."""
        ...

    def load_entities(self, requests: Sequence[EntityRequest]) -> list[list[bytes | None]]:
        """Blobs in the order of requests and keys, None where there is none; one round trip for all."""
        ...

    def flush(self, flushes: Sequence[PartitionFlush]) -> None:
        """Write state after a commit; one round trip for all (or few, of bounded size).

        Blobs first, ``applied`` last: a torn write leaves blobs ahead of ``applied``, never behind.
        Raises StateFenced naming the partition.
        """
        ...

    def load_model(self, partition: int) -> ModelSnapshot | None:
        """The newest snapshot of the partition's detectors."""
        ...

    def save_model(self, partition: int, snapshot: ModelSnapshot) -> None:
        """Store a snapshot, unless the stored one has a greater ``next_offset`` (then it is left alone)."""
        ...

    def reset(self, partition: int) -> None:
        """Delete everything the partition wrote (an operator's choice before a rebuild from the log)."""
        ...
