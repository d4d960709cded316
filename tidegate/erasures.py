"""The chore that carries erasures out, step by step; every step may be repeated, by any API process."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import structlog

from domain.clock import Clock
from featurestore.erase_verdicts import erase_hot, erase_offline
from featurestore.offline import OfflineStore
from featurestore.ports import StateStore
from featurestore.redis_client import Client
from lifecycle.database import Database
from lifecycle.erasure_store import ErasureRequest, ErasureStep, ErasureStore
from stream.erasure_log import ErasureLog

__all__ = ["Eraser"]

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Eraser:
    """Parts of the chore; ``log_of_verdicts`` names the log whose offsets the offline store holds.

    ``forget``: called with entity, value and reason before the last step, each removes what the database has on it
    (cases, deliveries), and may be called again.
    """

    database: Callable[[], Database]
    pipeline: str
    events: ErasureLog
    state: StateStore
    client: Client
    offline: OfflineStore
    log_of_verdicts: Callable[[], str]
    clock: Clock
    forget: tuple[Callable[[str, str, str], int], ...] = ()

    def __call__(self) -> None:
        """Move every open erasure on as far as it goes now. Raises TidegateError."""
        store = ErasureStore(self.database(), self.pipeline)
        for request in store.open():
            moved = self._step(store, request)
            while moved is not None:
                log.info("erasure", id=moved.id, step=moved.step.value)
                moved = self._step(store, moved)

    def _step(self, store: ErasureStore, request: ErasureRequest) -> ErasureRequest | None:
        """``request`` after its next step; None when it has to wait, or somebody else is at it."""
        now, value = self.clock.now(), request.value
        if value is None:
            return None
        if request.step in (ErasureStep.REQUESTED, ErasureStep.LOGGING):
            if not store.claim(request, now):
                return None
            moved = store.logged(
                request, self.events.write(request.id, request.entity, value), self.clock.now()
            )
        elif request.step is ErasureStep.LOGGED:
            if not all(self._applied(partition) > offset for partition, offset in request.points.items()):
                return None
            moved = store.online(request, self.events.last_verdicts(), now)
        elif request.step is ErasureStep.ONLINE:
            if not (self.events.archived(request.verdicts) and self._in_store(request.verdicts)):
                return None
            hot = erase_hot(self.client, self.pipeline, request.entity, value, request.points)
            offline = erase_offline(self.offline, request.entity, value, request.points)
            for what in self.forget:
                what(request.entity, value, f"erasure {request.id}: {request.reason}")
            moved = store.done(request, hot, offline, now)
        else:
            return None
        return store.get(request.id) if moved else None

    def _applied(self, partition: int) -> int:
        applied = self.state.load_applied(partition)
        return 0 if applied is None else applied.next_offset

    def _in_store(self, verdicts: dict[int, int]) -> bool:
        """Whether the offline store, where there is one, holds all of ``verdicts``."""
        if self.offline.verdicts.snapshot() is None:
            return True
        name = self.log_of_verdicts()
        held = {p: self.offline.verdicts.position(name, p) for p, last in verdicts.items() if last >= 0}
        return all(position is not None and position >= verdicts[p] for p, position in held.items())
