"""The worker process: sessions, one after the other, until told to stop."""

from __future__ import annotations

import threading

import structlog

from domain.errors import Retriable, StateFenced
from stream.outbox import Fenced
from stream.session import Session
from stream.worker_parts import WorkerConfig, WorkerParts

__all__ = ["WorkerConfig", "WorkerParts", "run_worker"]

log = structlog.get_logger(__name__)

FIRST_PAUSE_SECONDS = 0.2
LONGEST_PAUSE_SECONDS = 15.0
"""Between fresh starts: short, because nothing is scored meanwhile; growing, so as not to flood the log."""
MOST_FENCED = 3
"""A worker taken for dead is fenced by its successor, once, and goes on with a new session. Two workers with one
id fence each other without end: after so many sessions in a row that ended so, a person has to look."""


def run_worker(config: WorkerConfig, parts: WorkerParts, stop: threading.Event) -> None:
    """Score events until ``stop`` is set; then write state and leave within a few seconds.

    A Retriable error ends the session (its memory is worthless then) and begins a new one, which recovers
    from store and log; so does StateFenced, which only says that store and log know better than this memory, and
    Fenced, until it has happened MOST_FENCED times in a row. Other Fatal errors are raised: they need a person.
    """
    pause = FIRST_PAUSE_SECONDS
    fenced = 0
    while not stop.is_set():
        session: Session | None = None
        started = parts.clock.monotonic()
        try:
            session = Session(config, parts)
            session.run(stop)
        except (Retriable, StateFenced, Fenced) as error:
            if parts.clock.monotonic() - started > LONGEST_PAUSE_SECONDS:
                fenced, pause = 0, FIRST_PAUSE_SECONDS
            fenced = fenced + 1 if isinstance(error, Fenced) else 0
            if isinstance(error, Fenced) and fenced >= MOST_FENCED:
                raise
            parts.metrics.restarts.inc()
            log.warning("starting afresh", error=str(error), pause=pause)
        finally:
            if session is not None:
                session.close()
        if not stop.is_set():
            stop.wait(pause)
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)
