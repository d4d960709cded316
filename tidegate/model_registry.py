"""Opening the model registry that the settings name."""

from __future__ import annotations

import threading

from domain.clock import Clock
from lifecycle.database import Database, usable_url
from lifecycle.registry_sql import SqlModelRegistry

__all__ = ["RegistryWhenNeeded", "open_registry"]


def open_registry(database_url: str, pipeline: str, clock: Clock) -> SqlModelRegistry:
    """The registry of ``pipeline``, its tables made or moved on. Raises RegistryUnavailable, Fatal."""
    return SqlModelRegistry(Database(database_url), pipeline, clock)


class RegistryWhenNeeded:
    """Opens the registry at the first call, so that an API serves verdicts while the database is away.

    Raises Fatal for a URL that can never be opened.
    """

    def __init__(self, database_url: str, pipeline: str, clock: Clock) -> None:
        usable_url(database_url)
        self._database_url = database_url
        self._pipeline = pipeline
        self._clock = clock
        self._lock = threading.Lock()
        self._registry: SqlModelRegistry | None = None

    def __call__(self) -> SqlModelRegistry:
        """The registry; raises as :func:`open_registry`, and tries again at the next call."""
        with self._lock:
            if self._registry is None:
                self._registry = open_registry(self._database_url, self._pipeline, self._clock)
            return self._registry

    def close(self) -> None:
        """Close it, if it was opened."""
        with self._lock:
            if self._registry is not None:
                self._registry.close()
