"""The database of models: SQLite in a file, or PostgreSQL by URL; opened, and moved on to today's tables.

Every process may open it first: migrations run under a lock of the database, so of several that start at once
one moves the tables on and the others wait.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, Engine, NullPool, create_engine, event, make_url, text
from sqlalchemy.exc import (
    ArgumentError,
    DataError,
    DBAPIError,
    IntegrityError,
    NoSuchModuleError,
    ProgrammingError,
)
from sqlalchemy.exc import TimeoutError as PoolTimeout

from domain.errors import Fatal, RegistryUnavailable, ServiceMissing

__all__ = ["Database", "usable_url"]

_MIGRATIONS = Path(__file__).parent / "migrations"
_MIGRATION_LOCK = 0x7469_6465_6761_7465
"""Any number that nobody else uses: "tidegate" in ASCII."""
BUSY_SECONDS = 15
"""A writer waits so long for another one; the longest write is a model of some 30 MB."""
CONNECT_SECONDS = 5
_MISTAKES = ("0A", "22", "23", "42")
"""Classes of SQLSTATE: not supported, bad data, a constraint, bad SQL or rights."""
ANSWER_SECONDS = 60
"""For one statement; the server ends it somewhat earlier, and says why."""


class Database:
    """Connections to one database. Raises Fatal for a URL that can not be used, RegistryUnavailable."""

    def __init__(self, url: str) -> None:
        self._url = usable_url(url)
        self.shown = self._url.render_as_string(hide_password=True)
        self._engine = _engine(self._url)
        self._writer = self._engine.execution_options(tidegate_write=True)
        # several SELECTs of one reading transaction must agree; SQLite's do anyway
        postgres = self._url.get_backend_name() == "postgresql"
        self._reader = self._engine.execution_options(
            isolation_level="REPEATABLE READ" if postgres else "SERIALIZABLE"
        )
        try:
            self._move_on()
        except BaseException:
            self._engine.dispose()
            raise

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """A transaction that sees one state of the data. Raises RegistryUnavailable."""
        with self._answers(), self._reader.connect() as connection:
            yield connection

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """A transaction, committed unless an exception leaves it. Raises RegistryUnavailable."""
        with self._answers(), self._writer.begin() as connection:
            yield connection

    def close(self) -> None:
        """Close idle connections; a later use opens new ones."""
        self._engine.dispose()

    @contextmanager
    def _answers(self) -> Iterator[None]:
        try:
            yield
        except (DBAPIError, PoolTimeout) as error:
            if _ours(error):
                raise
            raise RegistryUnavailable(
                f"the database of models {self.shown} did not answer: {_told(error)}",
                remedy="start it, or check TIDEGATE_DATABASE_URL, its rights and its disk",
            ) from error

    def _move_on(self) -> None:
        # half a second, and only who opens a database needs it
        from alembic.config import Config
        from alembic.runtime.environment import EnvironmentContext
        from alembic.runtime.migration import MigrationContext
        from alembic.script import ScriptDirectory
        from alembic.util import CommandError

        config = Config()
        config.set_main_option("script_location", _MIGRATIONS.as_posix().replace("%", "%%"))
        config.set_main_option("path_separator", "os")
        script = ScriptDirectory.from_config(config)
        head = script.get_current_head()
        with self.reading() as connection:
            if MigrationContext.configure(connection).get_current_revision() == head:
                return
        with self.writing() as connection:
            if connection.dialect.name == "postgresql":
                connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _MIGRATION_LOCK})

            def upgrade(revision: Any, _: Any) -> Any:
                return script._upgrade_revs("head", revision)

            with EnvironmentContext(config, script, fn=upgrade) as environment:
                environment.configure(connection=connection, transactional_ddl=True)
                try:
                    environment.run_migrations()
                except CommandError as error:
                    raise Fatal(
                        f"the tables in {self.shown} are of another version of Tidegate: {error}",
                        remedy="run the version that made them, or a newer one; older ones can not read them",
                    ) from error


def _server_says(error: Exception) -> dict[str, str]:
    """The fields of PostgreSQL's answer (``C``: SQLSTATE, ``M``: message), as pg8000 passes them on; else nothing."""
    said = getattr(getattr(error, "orig", None), "args", ())
    return said[0] if said and isinstance(said[0], dict) else {}


def _ours(error: DBAPIError | PoolTimeout) -> bool:
    """Whether this is a mistake of ours, which no waiting mends."""
    # pg8000 calls most of what a server may refuse a ProgrammingError: a lock that is held, a database that is absent
    state = _server_says(error).get("C")
    if state is not None:
        return state[:2] in _MISTAKES
    return isinstance(error, (DataError, IntegrityError, ProgrammingError))


def _told(error: Exception) -> str:
    cause = _server_says(error).get("M") or str(getattr(error, "orig", None) or error)
    return cause.strip().partition("\n")[0]


def usable_url(url: str) -> URL:
    """``url`` as it is connected to, without connecting. Raises Fatal, which never shows a password."""
    try:
        parsed = make_url(url)
    except ArgumentError:
        # not the text: it may hold a password
        raise Fatal(
            "TIDEGATE_DATABASE_URL is no database URL",
            remedy="write sqlite:////var/lib/tidegate/tidegate.sqlite or postgresql://user:password@host/database",
        ) from None
    if parsed.drivername in ("postgresql", "postgres"):
        parsed = parsed.set(drivername="postgresql+pg8000")
    if parsed.get_backend_name() not in ("sqlite", "postgresql"):
        raise Fatal(
            f"TIDEGATE_DATABASE_URL names {parsed.get_backend_name()}, which is not supported",
            remedy="use sqlite:///FILE or postgresql://user:password@host/database",
        )
    if parsed.get_backend_name() == "sqlite" and parsed.database in (None, "", ":memory:"):
        raise Fatal(
            "TIDEGATE_DATABASE_URL names no file, and a database in memory is seen by one connection only",
            remedy="name a file: sqlite:////var/lib/tidegate/tidegate.sqlite",
        )
    return parsed


def _engine(url: URL) -> Engine:
    try:
        if url.get_backend_name() == "sqlite":
            return _sqlite(url)
        return create_engine(
            url,
            pool_size=2,
            max_overflow=4,
            pool_pre_ping=True,
            pool_timeout=CONNECT_SECONDS,
            connect_args={
                # of every answer, the first one too
                "timeout": ANSWER_SECONDS,
                "startup_params": {
                    "lock_timeout": str(BUSY_SECONDS * 1000),
                    "statement_timeout": str(ANSWER_SECONDS * 1000 - 5_000),
                },
            },
        )
    except (ModuleNotFoundError, NoSuchModuleError) as error:
        raise ServiceMissing(
            f"the driver for {url.drivername} is not installed",
            remedy="write postgresql://..., which uses pg8000, or install that driver",
        ) from error


def _sqlite(url: URL) -> Engine:
    path = Path(str(url.database)).expanduser()
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise RegistryUnavailable(
            f"there is no folder for {path}: {error.strerror}",
            remedy="make it, or name another file in TIDEGATE_DATABASE_URL",
        ) from error
    # a connection for each transaction (0.1 ms): none is left open, or carried into another thread or process
    engine = create_engine(
        url.set(database=str(path)), poolclass=NullPool, connect_args={"timeout": BUSY_SECONDS}
    )

    @event.listens_for(engine, "connect")
    def _connected(connection: Any, _: Any) -> None:
        # we say BEGIN ourselves: the sqlite3 module would begin late, and end transactions before DDL
        connection.isolation_level = None

    @event.listens_for(engine, "begin")
    def _begun(connection: Connection) -> None:
        # who will write locks at once; a reader that turns writer half-way could only fail
        immediate = connection.get_execution_options().get("tidegate_write")
        connection.exec_driver_sql("BEGIN IMMEDIATE" if immediate else "BEGIN")

    return engine
