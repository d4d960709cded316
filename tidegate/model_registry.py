"""Opening the database that the settings name, and the model registry in it."""

from __future__ import annotations

import threading

from domain.clock import Clock
from lifecycle.database import Database, usable_url
from lifecycle.registry_sql import SqlModelRegistry

__all__ = ["DatabaseWhenNeeded", "open_registry"]


def open_registry(database_url: str, pipeline: str, clock: Clock) -> SqlModelRegistry:
    """The registry of ``pipeline``, its tables made or moved on. Raises RegistryUnavailable, Fatal."""
    return SqlModelRegistry(Database(database_url), pipeline, clock)


class DatabaseWhenNeeded:
    """Opens the database at the first call, so that an API serves verdicts while it is away.

    Raises Fatal for a URL that can never be opened.
    """

    def __init__(self, database_url: str) -> None:
        usable_url(database_url)
        self._database_url = database_url
        self._lock = threading.Lock()
        self._database: Database | None = None

    def __call__(self) -> Database:
        """The database, its tables moved on; raises RegistryUnavailable, and tries again at the next call."""
        with self._lock:
            if self._database is None:
                self._database = Database(self._database_url)
            return self._database

    def close(self) -> None:
        """Close it, if it was opened."""
        with self._lock:
            if self._database is not None:
                self._database.close()
