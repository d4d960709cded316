"""SQL over the offline store, for people: DuckDB with a view for each table.

Files of a local folder are read by DuckDB itself, which reads no more columns and rows than the query needs. Those of
an object store come as a stream of all columns of the range asked for, since DuckDB's own access to object stores is
an extension that it downloads.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from featurestore.offline import OfflineStore, Pin
from featurestore.offline_schema import day_of
from featurestore.offline_sql import SqlLimits, connected
from featurestore.offline_table import OfflineTable, Snapshot

__all__ = ["queried"]

_TIME = {"verdicts": "event_time", "labels": "event_time", "dead_letters": "received_at"}
_FOREVER = 2**62


@contextmanager
def queried(
    store: OfflineStore,
    sql: str,
    *,
    pin: Pin | None = None,
    start: int = 0,
    stop: int = _FOREVER,
    limits: SqlLimits | None = None,
) -> Iterator[Any]:
    """The query's rows (a DuckDB relation), to be used inside of the ``with``.

    Views: ``verdicts``, ``labels`` and ``dead_letters``, with rows whose time (of the event, or of the refusal) lies
    in ``start`` to ``stop``, as of ``pin`` where one is given. Raises OfflineUnavailable, PinGone, Fatal.
    """
    versions = {} if pin is None else {"verdicts": pin.verdicts, "labels": pin.labels}
    streams, views = {}, []
    for table in store.tables:
        name = table.kind.name
        snapshot = table.snapshot(versions.get(name))
        during = f'"{_TIME[name]}" >= {start} AND "{_TIME[name]}" < {stop}'
        files = [] if snapshot is None else _local(table, snapshot)
        if snapshot is None:
            streams[name] = table.kind.fixed.empty_table()
        elif files:
            quoted = ", ".join("'" + path.replace("'", "''") + "'" for path in files)
            key = table.kind.partition
            views.append(
                f"CREATE VIEW {name} AS SELECT * FROM read_parquet([{quoted}], union_by_name=true, "  # noqa: S608
                f"hive_partitioning=true, hive_types={{'{key}': DATE}}) WHERE {during}"
            )
        else:
            # the day itself, so that files outside of the range are not opened
            near = f" AND day >= DATE '{day_of(start)}'" if start and table.kind.partition == "day" else ""
            streams[name] = snapshot.read(sorted(snapshot.columns()), during + near)
    with connected(limits or SqlLimits(), streams) as connection:
        for view in views:
            connection.execute(view)
        yield connection.sql(sql)


def _local(table: OfflineTable, snapshot: Snapshot) -> list[str]:
    """Paths of the files, when they lie in a folder of this machine."""
    if "://" in table.url:
        return []
    root = Path(table.url)
    return [str(root / path) for path in snapshot.files()["path"].to_pylist()]
