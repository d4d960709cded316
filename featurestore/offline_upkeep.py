"""Upkeep of the offline store: small files made into large ones, days sorted, old rows and old versions let go.

None of it changes what a reader sees: a version that is pinned keeps its files until ``vacuum`` takes them, and while
rows are being moved appends go on (Delta lets an append pass, and refuses the upkeep if anything else came between).

*Compacting* joins the small files of a Delta partition (a day of verdicts, a month of labels). *Sorting* rewrites a
partition that has been quiet for a while in the order of its sort column, so that looking for an id reads one group
of rows of each file. A partition needs it while its files overlap in that column; a single file of several groups
says nothing of its order, and is sorted if it is new and this process has not done so.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import date
from itertools import pairwise
from typing import Any

import pyarrow as pa
import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge

from domain.clock import Clock
from domain.errors import Retriable
from featurestore.offline import OfflineStore
from featurestore.offline_port import Pin
from featurestore.offline_schema import LABELS, day_of, month_of
from featurestore.offline_table import ROW_GROUP, OfflineTable, answers, properties

__all__ = ["Housekeeper", "UpkeepMetrics", "UpkeepSettings", "compact", "expire", "sort", "vacuum"]

log = structlog.get_logger(__name__)

_HOUR = 3_600_000_000
_DAY = 24 * _HOUR
_NEW = 3 * _DAY
"""A single file older than this is taken to be sorted already."""
_SPILL_BYTES = 512 << 20
"""Memory of one rewrite; beyond it Delta's engine spills to disk."""


@dataclass(frozen=True, slots=True)
class UpkeepSettings:
    """How often, and when. Microseconds of time where nothing else is said.

    every_seconds   between two rounds
    small_files     a partition with so many files below ``target_bytes`` / 2 is compacted
    target_bytes    size of a large file
    quiet           a partition without a new file for so long is sorted
    keep_rows       events older than this are deleted; None: never
    keep_versions   files that no version younger than this needs are deleted: what a pin can rely on
    """

    every_seconds: float = 600.0
    small_files: int = 30
    target_bytes: int = 256 << 20
    quiet: int = 6 * _HOUR
    keep_rows: int | None = None
    keep_versions: int = 30 * _DAY


class UpkeepMetrics:
    """Metrics, in a registry of the caller's."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.files = Gauge(
            "tidegate_offline_files", "Files of the table's newest version", ["table"], registry=registry
        )
        self.bytes = Gauge(
            "tidegate_offline_bytes", "Bytes of the table's newest version", ["table"], registry=registry
        )
        self.rows = Gauge(
            "tidegate_offline_table_rows", "Rows of the table's newest version", ["table"], registry=registry
        )
        self.done = Counter(
            "tidegate_offline_upkeep",
            "Upkeep done: partitions compacted or sorted, versions that dropped old rows, files deleted",
            ["table", "what"],
            registry=registry,
        )
        self.failures = Counter(
            "tidegate_offline_upkeep_failures", "Rounds of upkeep that failed", registry=registry
        )


@dataclass(frozen=True, slots=True)
class _Partition:
    """Files of one Delta partition."""

    value: date
    sizes: tuple[int, ...]
    rows: int
    newest: int
    spans: tuple[tuple[int, int], ...]

    @property
    def overlapping(self) -> bool:
        """Whether two files share a stretch of the sort column."""
        spans = sorted(self.spans)
        return any(later[0] <= earlier[1] for earlier, later in pairwise(spans))


def compact(table: OfflineTable, settings: UpkeepSettings) -> int:
    """Join small files where there are many. Returns how many partitions it did. Raises OfflineUnavailable."""
    small = settings.target_bytes // 2
    crowded = [
        p.value for p in _partitions(table) if sum(s < small for s in p.sizes) >= max(2, settings.small_files)
    ]
    for value in crowded:
        _rewrite(table, value, settings, ordered=False)
    return len(crowded)


def sort(table: OfflineTable, settings: UpkeepSettings, now: int, done: set[date]) -> int:
    """Sort what has been quiet at ``now``; ``done`` remembers what was. Returns how many partitions it did.

    Raises OfflineUnavailable.
    """
    count = 0
    for p in list(_partitions(table)):
        if p.newest > now - settings.quiet:
            done.discard(p.value)
            continue
        single = len(p.sizes) == 1 and p.rows > ROW_GROUP and p.newest > now - _NEW and p.value not in done
        if single or p.overlapping:
            _rewrite(table, p.value, settings, ordered=True)
            done.add(p.value)
            count += 1
    return count


def expire(table: OfflineTable, before: int) -> bool:
    """Delete the rows of events before that day (or month: labels); whether there were any.

    Raises OfflineUnavailable.
    """
    limit = (month_of if table.kind is LABELS else day_of)(before)
    if not any(p.value < limit for p in _partitions(table)):
        return False
    with answers(f"expiring {table.kind.name}"):
        handle = table.opened()
        if handle is not None:
            handle.delete(f"{table.kind.partition} < DATE '{limit}'")
    return True


def vacuum(table: OfflineTable, keep: int, pins: Iterable[int] = ()) -> int:
    """Delete files that no version needs that is younger than ``keep`` (microseconds) or among ``pins``.

    Returns how many. Raises OfflineUnavailable.
    """
    with answers(f"vacuuming {table.kind.name}"):
        handle = table.opened()
        if handle is None:
            return 0
        return len(
            handle.vacuum(
                retention_hours=keep // _HOUR,
                dry_run=False,
                enforce_retention_duration=False,
                # also files of writers that were killed before their commit
                full=True,
                keep_versions=sorted(v for v in pins if 0 <= v <= handle.version()) or None,
            )
        )


class Housekeeper:
    """Does the rounds in a thread of its own, for as long as ``leads`` is set (one process of a deployment)."""

    def __init__(
        self,
        store: OfflineStore,
        clock: Clock,
        settings: UpkeepSettings,
        metrics: UpkeepMetrics,
        pins: Callable[[], Iterable[Pin]] = tuple,
    ) -> None:
        self._store = store
        self._clock = clock
        self._settings = settings
        self._metrics = metrics
        self._pins = pins
        self._sorted: dict[str, set[date]] = {table.kind.name: set() for table in store.tables}

    def run(self, stop: threading.Event, leads: threading.Event) -> None:
        """Rounds until ``stop`` is set."""
        while not stop.wait(self._settings.every_seconds):
            if leads.is_set():
                self.round()

    def round(self) -> None:
        """All that is due now; what fails is logged and due again in the next round."""
        for table in self._store.tables:
            try:
                self._tend(table)
            except Retriable as error:
                self._metrics.failures.inc()
                log.warning("upkeep_failed", table=table.kind.name, error=str(error))

    def _tend(self, table: OfflineTable) -> None:
        name, now, settings = table.kind.name, self._clock.now(), self._settings
        pinned = [getattr(pin, name, -1) for pin in self._pins()]
        done = self._metrics.done
        if settings.keep_rows is not None:
            done.labels(name, "expired").inc(expire(table, now - settings.keep_rows))
        done.labels(name, "sorted").inc(sort(table, settings, now, self._sorted[name]))
        done.labels(name, "compacted").inc(compact(table, settings))
        done.labels(name, "vacuumed").inc(vacuum(table, settings.keep_versions, pinned))
        partitions = list(_partitions(table))
        self._metrics.files.labels(name).set(sum(len(p.sizes) for p in partitions))
        self._metrics.bytes.labels(name).set(sum(sum(p.sizes) for p in partitions))
        self._metrics.rows.labels(name).set(sum(p.rows for p in partitions))


def _rewrite(table: OfflineTable, value: date, settings: UpkeepSettings, *, ordered: bool) -> None:
    with answers(f"{'sorting' if ordered else 'compacting'} {table.kind.name} of {value}"):
        handle = table.opened()
        if handle is None:
            return
        options: dict[str, Any] = {
            "partition_filters": [(table.kind.partition, "=", value.isoformat())],
            "target_size": settings.target_bytes,
            # one at a time: this shares the machine with what serves traffic
            "max_concurrent_tasks": 1,
            "max_spill_size": _SPILL_BYTES,
            "writer_properties": properties(),
        }
        if ordered:
            handle.optimize.z_order([table.kind.sort], **options)
        else:
            handle.optimize.compact(**options)


def _partitions(table: OfflineTable) -> Iterator[_Partition]:
    snapshot = table.snapshot()
    if snapshot is None:
        return
    files = snapshot.files()
    names = (
        "size_bytes",
        "num_records",
        "modification_time",
        f"min.{table.kind.sort}",
        f"max.{table.kind.sort}",
    )
    columns = [files[f"partition.{table.kind.partition}"].to_pylist()]
    columns += [_integers(files[name]) for name in names]
    grouped: dict[date, list[tuple[int, ...]]] = {}
    for value, *numbers in zip(*columns, strict=True):
        grouped.setdefault(value, []).append(tuple(numbers))
    for value in sorted(grouped):
        sizes, rows, times, low, high = zip(*grouped[value], strict=True)
        yield _Partition(value, sizes, sum(rows), max(times), tuple(zip(low, high, strict=True)))


def _integers(column: Any) -> list[int]:
    """Numbers as they are; times as microseconds."""
    if pa.types.is_timestamp(column.type):
        column = column.cast(pa.timestamp("us", column.type.tz)).cast(pa.int64())
    found: list[int] = column.to_pylist()
    return found
