"""DuckDB over parts of the offline store: what every reader shares."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb

from domain.errors import Fatal
from featurestore.offline_port import OfflineUnavailable, PinGone

__all__ = ["SqlLimits", "connected"]


@dataclass(frozen=True, slots=True)
class SqlLimits:
    """What one query may take; beyond the memory it spills to the machine's temporary folder."""

    memory_mb: int = 1_024
    threads: int = 2


@contextmanager
def connected(limits: SqlLimits, sources: Mapping[str, Any]) -> Iterator[Any]:
    """A DuckDB connection with a view for each of ``sources`` (anything of Arrow). Nothing else can be read.

    Raises Fatal when a query needs more than the limits and the disk give, PinGone, OfflineUnavailable.
    """
    spill = Path(tempfile.gettempdir()) / f"tidegate-duckdb-{os.getpid()}"
    connection = duckdb.connect(
        config={
            # both would look for a server of DuckDB's
            "autoinstall_known_extensions": False,
            "autoload_known_extensions": False,
            "memory_limit": f"{limits.memory_mb}MB",
            "threads": limits.threads,
            "temp_directory": str(spill),
        }
    )
    try:
        for name, source in sources.items():
            connection.register(name, source)
        yield connection
    except duckdb.OutOfMemoryException as error:
        raise Fatal(
            f"a query of the offline store needs more than {limits.memory_mb} MB: {error}",
            remedy="ask for a shorter range or a smaller share of it, or free disk space in the temporary folder",
        ) from error
    except duckdb.Error as error:
        if "not found" in str(error):
            raise PinGone(
                f"files of a pinned version are gone: {error}",
                remedy="pin the present version; vacuum keeps files for TIDEGATE_OFFLINE_VERSION_DAYS",
            ) from error
        raise OfflineUnavailable(
            f"The offline store failed while rows were read: {error}",
            remedy="check TIDEGATE_OFFLINE_URL, the rights on it, and the disk or object store behind it",
        ) from error
    finally:
        connection.close()
