"""Chores of an API process, in a thread of their own: the head of the audit into its topic, and what joins later.

A chore looks whether there is something to do, does it, and says nothing otherwise. One that fails is tried again; the
others go on. Several API processes may do the same chores at once: each chore must stand that.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping

import structlog

from domain.clock import Clock
from domain.errors import TidegateError
from lifecycle.audit_trail import AuditTrail
from lifecycle.database import Database
from stream.audit_topic import HeadExporter

__all__ = ["Keeper", "head_chore"]

log = structlog.get_logger(__name__)

Chore = Callable[[], None]
"""Raises TidegateError where it could not be done now."""

EVERY_SECONDS = 5.0
"""Between two rounds: how far the exported head may lie behind the audit."""
_LEAVE_SECONDS = 30.0
"""For a round under way to end when the process does; longer than its longest wait for a broker."""


class Keeper:
    """Does ``chores`` (by name) again and again from :meth:`start` to :meth:`close`."""

    def __init__(self, chores: Mapping[str, Chore], *, every: float = EVERY_SECONDS) -> None:
        self._chores = dict(chores)
        self._every = every
        self._failing: dict[str, str] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="keeper", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def close(self) -> None:
        """End after the chore under way."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(_LEAVE_SECONDS)

    def round(self) -> None:
        """Every chore once. A failure is told once until it changes or passes."""
        for name, chore in self._chores.items():
            try:
                chore()
            except TidegateError as error:
                why = error.message
                if self._failing.get(name) != why:
                    self._failing[name] = why
                    log.warning("a chore waits", chore=name, why=why, remedy=error.remedy)
            except Exception as error:
                # a mistake of ours in one chore must not end the others; the type says enough, the text may tell data
                if self._failing.get(name) != type(error).__name__:
                    self._failing[name] = type(error).__name__
                    log.exception("a chore failed", chore=name)
            else:
                if self._failing.pop(name, None) is not None:
                    log.info("a chore goes on", chore=name)

    def _run(self) -> None:
        while not self._stop.is_set():
            self.round()
            self._stop.wait(self._every)


def head_chore(
    database: Callable[[], Database], trail: AuditTrail, exporter: HeadExporter, clock: Clock
) -> Chore:
    """Puts the newest head into the topic ``audit``."""

    def chore() -> None:
        with database().reading() as connection:
            head = trail.head(connection, now=clock.now())
        if exporter.export(head):
            log.info("audit head exported", number=head.number, hash=head.hash)

    return chore
