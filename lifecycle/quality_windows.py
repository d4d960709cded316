"""Windows of input, counted by DuckDB out of the offline store: nothing to remember, so nothing to lose.

Windows follow ``scored_at``: input quality is about what arrives, and a replay of old events is not stale input.
"""

from __future__ import annotations

from typing import Any

from domain.pipeline import Pipeline
from featurestore.offline import OfflineStore
from featurestore.offline_sql import SqlLimits, connected
from featurestore.offline_table import Snapshot
from lifecycle.quality import QualitySettings, Window

__all__ = ["last_window", "read_windows"]

_LIMITS = SqlLimits(memory_mb=512, threads=1)


def last_window(now: int, grace: int, settings: QualitySettings) -> int:
    """Start of the last window that ended ``grace`` microseconds ago or before: until then records may be on their way.

    >>> last_window(now=100, grace=5, settings=QualitySettings(window=10))
    80
    """
    return ((now - grace) // settings.window - 1) * settings.window


def read_windows(
    store: OfflineStore, pipeline: Pipeline, last: int, settings: QualitySettings
) -> list[Window]:
    """The window that starts at ``last`` and the day before it (and one more), oldest first, from the first event on.

    Raises OfflineUnavailable, Fatal.
    """
    step = settings.window
    first = last - (settings.day + 1) * step
    verdicts = _verdicts(store.verdicts.snapshot(), pipeline, first, last + step, step)
    letters = _letters(store.dead_letters.snapshot(), first, last + step, step)
    if not verdicts and not letters:
        return []
    begin = min([*verdicts, *letters])
    return [
        _window(number * step, verdicts.get(number), letters.get(number, {}))
        for number in range(begin, last // step + 1)
    ]


def _window(start: int, row: dict[str, Any] | None, refused: dict[str, int]) -> Window:
    if row is None:
        return Window(start, refused=refused)
    missing = {name[2:]: row["events"] - row[name] for name in row if name.startswith("x_")}
    return Window(start, row["events"], missing, row["out_of_range"], row["age"], refused)


def _verdicts(
    snapshot: Snapshot | None, pipeline: Pipeline, start: int, stop: int, step: int
) -> dict[int, dict[str, Any]]:
    if snapshot is None:
        return {}
    held = snapshot.columns()
    features = [f"x_{name}" for name in pipeline.feature_names if f"x_{name}" in held]
    where = (
        f"scored_at >= {start} AND scored_at < {stop} AND NOT duplicate "
        f"AND pipeline_digest = '{pipeline.digest}'"
    )
    counted = "".join(f', count("{name}") AS "{name}"' for name in features)
    query = (
        f"SELECT scored_at // {step} AS number, count(*) AS events, "  # noqa: S608
        "count(*) FILTER (contains(flags, 'out_of_range')) AS out_of_range, "
        f"median(greatest(scored_at - event_time, 0)) / 1e6 AS age{counted} FROM v GROUP BY number"
    )
    columns = ["scored_at", "event_time", "flags", *features]
    with connected(_LIMITS, {"v": snapshot.read(columns, where)}) as connection:
        rows = connection.sql(query).to_arrow_table().to_pylist()
    return {row.pop("number"): row for row in rows}


def _letters(snapshot: Snapshot | None, start: int, stop: int, step: int) -> dict[int, dict[str, int]]:
    if snapshot is None:
        return {}
    where = f"received_at >= {start} AND received_at < {stop}"
    query = (
        f"SELECT received_at // {step} AS number, concat_ws(':', reason, field) AS what, count(*) AS records "  # noqa: S608
        "FROM l GROUP BY ALL"
    )
    reader = snapshot.read(["received_at", "reason", "field"], where)
    found: dict[int, dict[str, int]] = {}
    with connected(_LIMITS, {"l": reader}) as connection:
        for number, what, records in connection.execute(query).fetchall():
            found.setdefault(number, {})[what] = records
    return found
