"""Recent verdicts from the hot store, older ones from the offline store, as one."""

from __future__ import annotations

from dataclasses import replace
from typing import Protocol

from domain.errors import Retriable
from featurestore.hot_verdicts_port import Cursor, VerdictPage, VerdictQuery, record_of

__all__ = ["ReachingVerdicts", "VerdictReader"]


class VerdictReader(Protocol):
    """What the API asks of a store of verdicts; both of ours are one."""

    def get(self, event_id: str) -> bytes | None:
        """The verdict on an event as JSON, None when it is not here. Raises Retriable."""
        ...

    def page(self, query: VerdictQuery) -> VerdictPage:
        """Matching verdicts, newest first. Raises BadCursorError, Retriable."""
        ...


class ReachingVerdicts:
    """Asks ``near`` first, and ``far`` for what is not there (any more).

    Cursors are good for both: the list goes on in ``far`` with what is older than the last verdict of ``near``. While
    ``far`` is away, so is only what ``near`` does not have.
    """

    def __init__(self, near: VerdictReader, far: VerdictReader) -> None:
        self._near = near
        self._far = far

    def get(self, event_id: str) -> bytes | None:
        """The verdict on an event. Raises Retriable."""
        found = self._near.get(event_id)
        return self._far.get(event_id) if found is None else found

    def page(self, query: VerdictQuery) -> VerdictPage:
        """Matching verdicts, newest first. Raises BadCursorError, Retriable."""
        near = self._near.page(query)
        if near.next is not None:
            return near
        older, last = query, None
        if near.verdicts:
            record = record_of(near.verdicts[-1])
            last = Cursor(record.scored_at, record.position).format(query)
            older = replace(query, cursor=last)
        left = query.limit - len(near.verdicts)
        try:
            far = self._far.page(replace(older, limit=max(left, 1)))
        except Retriable:
            if last is None:
                raise
            # what is near is shown; whoever wants more is told why there is none
            return VerdictPage(near.verdicts, last)
        if left:
            return VerdictPage(near.verdicts + far.verdicts, far.next)
        return VerdictPage(near.verdicts, last if far.verdicts or far.next else None)
