"""Recent verdicts in memory: the obvious implementation, for unit tests and as the contract's reference."""

from __future__ import annotations

import threading
from collections.abc import Collection, Sequence

from domain.clock import Clock
from domain.verdict import Verdict
from featurestore.hot_verdicts_port import (
    Cursor,
    HotLimits,
    HotRecord,
    VerdictPage,
    VerdictQuery,
    record_of,
)

__all__ = ["MemoryHotVerdicts"]


class MemoryHotVerdicts:
    """:class:`featurestore.hot_verdicts.HotVerdicts` in a dict; ``bytes`` counts the JSON alone."""

    def __init__(self, clock: Clock, limits: HotLimits | None = None) -> None:
        self._clock = clock
        self._limits = limits or HotLimits()
        self._records: dict[str, HotRecord] = {}
        self._lock = threading.Lock()

    def put_many(self, verdicts: Sequence[bytes | Verdict]) -> None:
        """Store verdicts, then drop the oldest over the caps. Raises BadVerdictError."""
        records = [record_of(verdict) for verdict in verdicts]
        with self._lock:
            for record in records:
                self._records[record.position] = record
            self._trim()

    def get(self, event_id: str) -> bytes | None:
        """The first verdict on the event that is no duplicate."""
        with self._lock:
            found = [r for r in self._records.values() if r.id == event_id and r.scored_at >= self._oldest()]
        return min(found, key=lambda r: (r.duplicate, r.scored_at, r.position)).raw if found else None

    def find(self, ids: Collection[str]) -> dict[str, bytes]:
        """What get answers for each of ``ids``."""
        answers = {id_: self.get(id_) for id_ in ids}
        return {id_: raw for id_, raw in answers.items() if raw is not None}

    def page(self, query: VerdictQuery) -> VerdictPage:
        """Matching verdicts, newest first. Raises BadCursorError."""
        cursor = Cursor.parse(query)
        with self._lock:
            newest_first = sorted(self._records.values(), key=_order, reverse=True)
        oldest = self._oldest() if query.start is None else max(query.start, self._oldest())
        found = [
            r
            for r in newest_first
            if r.scored_at >= oldest
            and (query.end is None or r.scored_at < query.end)
            and (query.decision is None or r.decision == query.decision)
            and (query.entity is None or query.entity in r.entities)
            and (cursor is None or _order(r) < (cursor.scored_at, cursor.position))
        ]
        shown = found[: query.limit]
        more = Cursor(*_order(shown[-1])).format(query) if len(found) > len(shown) else None
        return VerdictPage([r.raw for r in shown], more)

    def _oldest(self) -> int:
        return self._clock.now() - self._limits.age

    def _trim(self) -> None:
        used = sum(len(r.raw) for r in self._records.values())
        for record in sorted(self._records.values(), key=_order):
            if (
                len(self._records) <= self._limits.count
                and used <= self._limits.bytes
                and record.scored_at >= self._oldest()
            ):
                return
            del self._records[record.position]
            used -= len(record.raw)


def _order(record: HotRecord) -> tuple[int, str]:
    return record.scored_at, record.position
