"""The valid keys in memory: asked for each request, read from the database now and then."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import structlog

from api.problems import ProblemError
from api.threads import Threads
from domain.clock import Clock
from domain.errors import Retriable, TidegateError
from lifecycle.keys import StoredKey

__all__ = ["KeyRing"]

_LOG = structlog.get_logger(__name__)
FRESH_SECONDS = 0.5
"""So long after a key was made or revoked elsewhere everybody here knows: a short query, at most twice a second."""
LATE_SECONDS = 5.0
"""Keys this old are read again before one is believed; younger ones while the request goes on."""
KNOWN_SECONDS = 0.25
"""Nobody with a known key waits longer for that: a database that hangs must not slow scoring down."""
GRACE_SECONDS = 300.0
"""While the database does not answer, keys read before are good for so long: scoring must not end with it. So long
may a key that is revoked meanwhile be used."""


class KeyRing:
    """Finds keys by id. ``load`` gives all valid ones; blocking, run in a thread; may raise TidegateError."""

    def __init__(
        self,
        load: Callable[[], Sequence[StoredKey]],
        clock: Clock,
        *,
        answer_seconds: float = 5.0,
        known_seconds: float = KNOWN_SECONDS,
    ) -> None:
        self._load = load
        self._clock = clock
        self._threads = Threads(1, answer_seconds)
        self._known_seconds = known_seconds
        self._keys: dict[str, StoredKey] = {}
        self._read_at: float | None = None
        self._tried_at: float | None = None
        self._changes = self._changes_read = 0
        self._reading: asyncio.Task[None] | None = None
        self._reading_since = 0.0

    async def find(self, key_id: str) -> StoredKey | None:
        """The key with this id, None when no valid one has it. Raises Retriable when that can not be known."""
        age = self._age(self._read_at)
        changed = self._changes > self._changes_read
        if changed or key_id not in self._keys or age > GRACE_SECONDS:
            # the answer is worth waiting for; once more if somebody had begun to read before the change
            for _ in range(2):
                if (changed or age > FRESH_SECONDS) and (reading := self._read()) is not None:
                    await asyncio.wait({reading})
                age, changed = self._age(self._read_at), self._changes > self._changes_read
        elif age > FRESH_SECONDS and (reading := self._read()) is not None and age > LATE_SECONDS:
            left = self._reading_since + self._known_seconds - asyncio.get_running_loop().time()
            if left > 0:
                await asyncio.wait({reading}, timeout=left)
        found, age = self._keys.get(key_id), self._age(self._read_at)
        # somebody unknown may have got their key since then
        if age > (LATE_SECONDS if found is None else GRACE_SECONDS):
            raise Retriable("the database of keys does not answer", remedy="start it; see /readyz")
        return found

    def forget(self) -> None:
        """Read again before the next key is looked for: one was made or revoked here."""
        self._changes += 1
        self._tried_at = None

    def _age(self, moment: float | None) -> float:
        return float("inf") if moment is None else self._clock.monotonic() - moment

    def _read(self) -> asyncio.Task[None] | None:
        """The reading under way, or a new one; None when somebody has just tried."""
        if self._reading is None or self._reading.done():
            if self._age(self._tried_at) <= FRESH_SECONDS:
                return None
            self._tried_at = self._clock.monotonic()
            self._reading_since = asyncio.get_running_loop().time()
            self._reading = asyncio.create_task(self._read_all(self._tried_at, self._changes))
        return self._reading

    async def _read_all(self, began: float, changes: int) -> None:
        """Read all keys; a failure leaves what is there."""
        try:
            keys = await self._threads.run(self._load)
        except (TidegateError, ProblemError) as error:
            _LOG.warning("the keys could not be read; those read before go on", error=str(error))
            return
        self._keys = {stored.key.id: stored for stored in keys}
        self._read_at, self._changes_read = began, changes
