"""The valid keys in memory: asked for each request, read from the database now and then."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import structlog

from api.problems import ProblemError
from api.threads import Threads
from domain.clock import Clock
from domain.errors import Retriable
from lifecycle.keys import StoredKey

__all__ = ["KeyRing"]

_LOG = structlog.get_logger(__name__)
FRESH_SECONDS = 0.5
"""So long after a key was made or revoked elsewhere everybody here knows; half of a query a millisecond long."""
LATE_SECONDS = 5.0
"""Keys this old are read again before one is believed; younger ones while the request goes on."""
GRACE_SECONDS = 300.0
"""While the database does not answer, keys read before are good for so long: scoring must not end with it. So long
may a key that is revoked meanwhile be used."""


class KeyRing:
    """Finds keys by id. ``load`` gives all valid ones; blocking, run in a thread; may raise Retriable."""

    def __init__(
        self, load: Callable[[], Sequence[StoredKey]], clock: Clock, *, answer_seconds: float = 5.0
    ) -> None:
        self._load = load
        self._clock = clock
        self._threads = Threads(1, answer_seconds)
        self._keys: dict[str, StoredKey] = {}
        self._read_at: float | None = None
        self._tried_at: float | None = None
        self._lock = asyncio.Lock()
        self._reading: asyncio.Task[None] | None = None

    async def find(self, key_id: str) -> StoredKey | None:
        """The key with this id, None when no valid one has it. Raises Retriable when that can not be known."""
        found, age = self._keys.get(key_id), self._age(self._read_at)
        if age > LATE_SECONDS or (found is None and age > FRESH_SECONDS):
            await self._refresh()
        elif age > FRESH_SECONDS and (self._reading is None or self._reading.done()):
            self._reading = asyncio.create_task(self._refresh())
        if self._age(self._read_at) > GRACE_SECONDS:
            raise Retriable("the database of keys does not answer", remedy="start it; see /readyz")
        return self._keys.get(key_id)

    def forget(self) -> None:
        """Read again before the next key is looked for: one was made or revoked here."""
        self._read_at = self._tried_at = None

    def _age(self, moment: float | None) -> float:
        return float("inf") if moment is None else self._clock.monotonic() - moment

    async def _refresh(self) -> None:
        """Read all keys, unless somebody just did or failed to; a failure leaves what is there."""
        async with self._lock:
            if self._age(self._tried_at) <= FRESH_SECONDS:
                return
            self._tried_at = began = self._clock.monotonic()
            try:
                keys = await self._threads.run(self._load)
            except (Retriable, ProblemError) as error:
                _LOG.warning("the keys could not be read; those read before go on", error=str(error))
                return
            self._keys = {stored.key.id: stored for stored in keys}
            self._read_at = began
