"""The online store as a dictionary, for unit tests and backtests; same semantics as the Redis one."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from threading import Lock

from domain.errors import StateFenced
from featurestore.ports import Applied, EntityRequest, ModelSnapshot, PartitionFlush

__all__ = ["MemoryStateStore"]

_PROGRESS = struct.Struct("<q")


class MemoryStateStore:
    """:class:`featurestore.ports.StateStore` in this process; nothing survives it."""

    def __init__(self) -> None:
        self._applied: dict[int, Applied] = {}
        self._blobs: dict[int, dict[tuple[str, str], bytes]] = {}
        self._models: dict[int, ModelSnapshot] = {}
        self._lock = Lock()

    def load_applied(self, partition: int) -> Applied | None:
        """How far ``partition`` is applied."""
        return self._applied.get(partition)

    def load_entities(self, requests: Sequence[EntityRequest]) -> list[list[bytes | None]]:
        """Blobs in the order of requests and keys."""
        with self._lock:
            return [
                [self._blobs.get(r.partition, {}).get((r.entity, key)) for key in r.keys] for r in requests
            ]

    def flush(self, flushes: Sequence[PartitionFlush]) -> None:
        """Write each partition that is not fenced; raises StateFenced afterwards for those that are."""
        for flush in flushes:
            for entity, _, blob in flush.blobs:
                if len(blob) < _PROGRESS.size:
                    raise ValueError(f"blob of {entity} has {len(blob)} bytes, without room for its progress")
        fenced = []
        with self._lock:
            for flush in flushes:
                if self._is_fenced(flush):
                    fenced.append(f"partition {flush.partition}")
                    continue
                held = self._blobs.setdefault(flush.partition, {})
                for entity, key, blob in flush.blobs:
                    old = held.get((entity, key))
                    if old is None or _PROGRESS.unpack_from(old) <= _PROGRESS.unpack_from(blob):
                        if len(blob) == _PROGRESS.size:
                            held.pop((entity, key), None)
                        else:
                            held[entity, key] = bytes(blob)
                self._applied[flush.partition] = flush.applied
        if fenced:
            raise StateFenced(
                f"another owner has moved the online state on: {', '.join(fenced)}",
                remedy="reload the partition's state before writing",
            )

    def _is_fenced(self, flush: PartitionFlush) -> bool:
        stored = self._applied.get(flush.partition)
        if stored is None:
            return flush.expected is not None
        if stored.progress == flush.applied.progress:
            return False
        return flush.expected is None or stored.progress != flush.expected.progress

    def load_model(self, partition: int) -> ModelSnapshot | None:
        """The newest snapshot."""
        return self._models.get(partition)

    def save_model(self, partition: int, snapshot: ModelSnapshot) -> None:
        """Store a snapshot unless a newer one is there."""
        with self._lock:
            stored = self._models.get(partition)
            if stored is None or stored.next_offset <= snapshot.next_offset:
                self._models[partition] = snapshot

    def reset(self, partition: int) -> None:
        """Delete everything the partition wrote."""
        with self._lock:
            self._applied.pop(partition, None)
            self._blobs.pop(partition, None)
            self._models.pop(partition, None)
