"""One Delta table: opened or created, appended to exactly once per log position, read as of a version.

**Exactly once.** Each commit carries, per partition of the log, a Delta *application transaction*: the log's name and
partition, and the last offset in the batch. A batch first drops what the table's transactions say it holds. Should
somebody else commit the same partition in between, Delta's optimistic concurrency refuses our commit (one of the two
application transactions must have read the other), and we look again. So rows and position change in one atomic step,
whoever is killed where, and the consumer's own offsets in Kafka are only a hint where to start.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
from deltalake import CommitProperties, DeltaTable, Transaction, WriterProperties, write_deltalake
from deltalake.exceptions import CommitFailedError, DeltaError, TableNotFoundError

from domain.errors import Fatal
from featurestore.offline_port import Appended, LogRecord, OfflineUnavailable, PinGone
from featurestore.offline_schema import MAX_COLUMNS, TableKind

__all__ = ["OfflineTable", "Snapshot", "answers", "properties"]

_ATTEMPTS = 20
"""Commits refused in a row: with a handful of writers each refusal means that another one got through."""
LOG_RETENTION = "interval 30 days"
"""How long an old version can be read at all: pins live as long, unless vacuum takes their files first."""
ROW_GROUP = 20_000
"""Rows that are read together for one that is wanted: 30 MB of verdicts, a 50th of a busy day."""


@contextmanager
def answers(doing: str) -> Iterator[None]:
    """Turns what Delta Lake and its object store raise into OfflineUnavailable."""
    try:
        yield
    except (DeltaError, OSError, pa.ArrowException) as error:
        raise OfflineUnavailable(
            f"The offline store failed while {doing}: {error}",
            remedy="check TIDEGATE_OFFLINE_URL, the rights on it, and the disk or object store behind it",
        ) from error


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One version of a table, to read from. Threads may share it: nothing moves it on."""

    name: str
    table: DeltaTable

    @property
    def version(self) -> int:
        """Which version."""
        return self.table.version()

    def columns(self) -> frozenset[str]:
        """Names of all columns."""
        return frozenset(field.name for field in self.table.schema().fields)

    def files(self) -> Any:
        """An Arrow table with a row for each file: path, num_records, partition.*, and the min.* and max.* kept."""
        return pa.table(self.table.get_add_actions(flatten=True))

    def read(self, columns: Sequence[str], where: str) -> Any:
        """A stream (pyarrow.RecordBatchReader) of the rows for which ``where`` (SQL) holds, in no order.

        Delta's engine reads, not pyarrow's: it skips by the table's log, by Parquet's footers and inside of pages, and
        has no threads that call Python back (one that does so while the process ends takes it down).
        """
        with answers(f"reading {self.name}"):
            return pa.RecordBatchReader.from_stream(self.table.scan(columns=list(columns), predicate=where))


class OfflineTable:
    """The table at ``url``. Safe to share between threads; each holds what it read as of one version."""

    def __init__(
        self, url: str, kind: TableKind, columns: Mapping[str, Any], options: Mapping[str, str] | None = None
    ) -> None:
        self.url = url
        self.kind = kind
        self._columns = dict(columns)
        self._options = dict(options or {})
        self._lock = threading.Lock()
        self._table: DeltaTable | None = None
        self._latest: Snapshot | None = None

    def snapshot(self, version: int | None = None) -> Snapshot | None:
        """The table as of ``version`` (None: the newest); None when there is no table, or version is -1.

        Raises PinGone when that version can not be read any more, OfflineUnavailable.
        """
        with self._lock, answers(f"opening {self.kind.name}"):
            if version is None or (self._latest is not None and version == self._latest.version):
                table = self._refreshed()
                if table is None:
                    return None
                if version in (None, table.version()):
                    if self._latest is None or self._latest.version != table.version():
                        self._latest = self._at(table.version())
                    return self._latest
            if version is None or version < 0:
                return None
            return self._older(version)

    def opened(self) -> DeltaTable | None:
        """A handle of the caller's own, for upkeep beside reading and writing; None while there is no table.

        Raises OfflineUnavailable.
        """
        with answers(f"opening {self.kind.name}"):
            try:
                return DeltaTable(self.url, storage_options=self._options)
            except TableNotFoundError:
                return None

    def version(self) -> int:
        """The newest version, -1 while there is no table."""
        with self._lock, answers(f"opening {self.kind.name}"):
            table = self._refreshed()
            return -1 if table is None else table.version()

    def _older(self, version: int) -> Snapshot:
        try:
            return self._at(version)
        except (DeltaError, OSError) as error:
            table = self._refreshed()
            newest = -1 if table is None else table.version()
            raise PinGone(
                f"version {version} of the table {self.kind.name} cannot be read (the newest is {newest}): {error}",
                remedy="pin the present version; old ones can be read for 30 days, unless vacuum took their files",
            ) from error

    def _at(self, version: int) -> Snapshot:
        table = DeltaTable(self.url, version=version, storage_options=self._options)
        return Snapshot(self.kind.name, table)

    def position(self, log: str, partition: int) -> int | None:
        """The last offset of that log's partition that the table holds, None when it holds nothing of it."""
        with self._lock, answers(f"opening {self.kind.name}"):
            table = self._refreshed()
            return None if table is None else table.transaction_version(_app_id(log, partition))

    def append(self, records: Sequence[LogRecord], log: str) -> Appended:
        """Append what is not there yet, in one commit. ``records`` are in log order within each partition.

        Raises OfflineUnavailable; then perhaps they are in, and calling again is right.
        """
        rows = [(record, self.kind.row(record)) for record in records]
        strangers = sum(row is None for _, row in rows)
        with self._lock, answers(f"writing {self.kind.name}"):
            table = self._refreshed() or self._create()
            for _ in range(_ATTEMPTS):
                held = {p: _held(table, log, p) for p in {record.partition for record in records}}
                fresh = [(record, row) for record, row in rows if record.offset > held[record.partition]]
                good = [row for _, row in fresh if row is not None]
                if good:
                    ends: dict[int, int] = {}
                    for record, _ in fresh:
                        ends[record.partition] = max(ends.get(record.partition, -1), record.offset)
                    try:
                        self._write(table, good, log, ends)
                    except CommitFailedError:
                        table = self._refreshed(anew=True) or self._create()
                        continue
                return Appended(len(good), len(records) - len(fresh), strangers, table.version())
        raise OfflineUnavailable(
            f"{_ATTEMPTS} commits to {self.kind.name} were refused in a row",
            remedy="see who else writes to the offline store; one archiver per partition is enough",
        )

    def _write(self, table: DeltaTable, rows: list[dict[str, Any]], log: str, ends: dict[int, int]) -> None:
        held = pa.schema(table.schema().to_arrow())
        columns = self.kind.columns(rows, held)
        if len(columns.schema) > MAX_COLUMNS:
            raise Fatal(
                f"the table {self.kind.name} would have {len(columns.schema):,} columns",
                remedy="see what writes verdicts with ever new features; let nobody but our workers do",
            )
        write_deltalake(
            table,
            columns,
            mode="append",
            schema_mode="merge" if len(columns.schema) > len(held) else None,
            writer_properties=properties(),
            commit_properties=CommitProperties(
                app_transactions=[Transaction(_app_id(log, p), end) for p, end in ends.items()],
            ),
        )

    def _refreshed(self, *, anew: bool = False) -> DeltaTable | None:
        if self._table is None or anew:
            try:
                self._table = DeltaTable(self.url, storage_options=self._options)
            except TableNotFoundError:
                return None
        else:
            self._table.update_incremental()
        return self._table

    def _create(self) -> DeltaTable:
        kind = self.kind
        schema = pa.schema([*kind.fixed, *(pa.field(n, t) for n, t in self._columns.items())])
        try:
            DeltaTable.create(
                self.url,
                schema=schema,
                mode="ignore",
                partition_by=[kind.partition],
                name=kind.name,
                storage_options=self._options,
                configuration={
                    "delta.dataSkippingStatsColumns": ",".join(kind.skipping),
                    "delta.logRetentionDuration": LOG_RETENTION,
                },
            )
        except DeltaError:
            # somebody else made it at this moment
            if not DeltaTable.is_deltatable(self.url, storage_options=self._options):
                raise
        self._table = DeltaTable(self.url, storage_options=self._options)
        return self._table


def properties() -> WriterProperties:
    """How Parquet files are written."""
    return WriterProperties(compression="ZSTD", compression_level=3, max_row_group_size=ROW_GROUP)


def _app_id(log: str, partition: int) -> str:
    return f"{log}/{partition}"


def _held(table: DeltaTable, log: str, partition: int) -> int:
    version = table.transaction_version(_app_id(log, partition))
    return -1 if version is None else version
