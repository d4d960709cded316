"""The group of each event of a file, by a field of the pipeline or any column: for the fairness report."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from domain.batch import Ints
from domain.errors import Fatal
from domain.pipeline import Pipeline
from lifecycle.backtest import BacktestRun
from lifecycle.event_rows import column_names, read_columns
from lifecycle.fairness import FairnessReport, fairness

__all__ = ["MAX_GROUPS", "Groups", "by_group", "grouped", "read_groups"]

MAX_GROUPS = 20
"""Groups told apart; of more texts the rarest are one group, of more numbers quarters are made."""
_BATCH = 20_000


@dataclass(frozen=True, slots=True)
class Groups:
    """``codes`` int64[rows of the file], indexes of ``names``, -1 where the value is missing."""

    names: tuple[str, ...]
    codes: Ints


def read_groups(events: Path, pipeline: Pipeline, field: str, *, limit: int | None = None) -> Groups:
    """The groups of the first ``limit`` rows of ``events`` by ``field``, a field of the event or a column of the file.

    Raises Fatal when there is no such column, or the field is sensitive (its values must not appear in a report).
    """
    declared = {f.name: f for f in pipeline.event.fields}
    known = declared.get(field)
    column = known.source if known is not None else field
    if any(f.sensitive and column == f.source for f in pipeline.event.fields):
        raise Fatal(
            f"--group-by: {field!r} is a sensitive field, whose values must not be shown.",
            remedy="group by a coarser column that may be shown, such as a region or an age band.",
        )
    columns = column_names(events)
    if column not in columns and events.suffix.lower() != ".jsonl":
        raise Fatal(
            f"--group-by: {events.name} has no column {column!r}.",
            remedy=f"name a field of the pipeline or one of: {', '.join(sorted(columns)[:20])}.",
        )
    cells: list[Any] = []
    for _, rows in read_columns(events, [column], _BATCH):
        cells += [None if row is None else row.get(column) for row in rows]
        if limit is not None and len(cells) >= limit:
            break
    cells = cells[:limit]
    if all(_usable(cell) is None for cell in cells):
        raise Fatal(
            f"--group-by: no row of {events.name} has a value for {column!r}.",
            remedy="name a field of the pipeline or a column of the file.",
        )
    return grouped(cells)


def grouped(cells: Sequence[Any]) -> Groups:
    """The groups of values: up to 20 told apart, the rarest texts together, more numbers in quarters."""
    usable = [_usable(cell) for cell in cells]
    counts = Counter(cell for cell in usable if cell is not None)
    numbers = _numbers(list(counts)) if len(counts) > MAX_GROUPS else None
    return _named(usable, counts) if numbers is None else _quarters(usable, numbers)


def by_group(
    run: BacktestRun, rows: Ints, groups: Groups, field: str, *, since: int | None = None
) -> FairnessReport:
    """The fairness report of a backtest, over its verdicts from ``since`` on without repeats.

    ``rows`` int64[verdicts]: the number of each verdict's row in the file. An alert is a review or a block.
    """
    counted = ~run.duplicates if since is None else ~run.duplicates & (run.times >= since)
    chosen = np.flatnonzero(counted)
    return fairness(
        field,
        groups.names,
        groups.codes[rows[chosen]],
        run.decision[chosen] > 0,
        run.labels[chosen],
        run.cards[chosen],
    )


def _usable(cell: Any) -> Any:
    if cell is None or cell == "" or (isinstance(cell, float) and math.isnan(cell)):
        return None
    if isinstance(cell, bool):
        return str(cell).lower()
    return cell if isinstance(cell, int | float) else str(cell)


def _numbers(values: list[Any]) -> dict[Any, float] | None:
    """The values as numbers, None unless all are; the cells of CSV files are texts."""
    try:
        found = {value: float(value) for value in values}
    except ValueError:
        return None
    return found if all(map(math.isfinite, found.values())) else None


def _named(cells: list[Any], counts: Counter[Any]) -> Groups:
    kept = [value for value, _ in sorted(counts.items(), key=lambda item: (-item[1], str(item[0])))]
    names = [str(value)[:80] for value in kept]
    if len(kept) > MAX_GROUPS:
        kept, names = (
            kept[: MAX_GROUPS - 1],
            [*names[: MAX_GROUPS - 1], f"({len(kept) - MAX_GROUPS + 1} others)"],
        )
    place = {value: i for i, value in enumerate(kept)}
    rest = MAX_GROUPS - 1
    codes = [-1 if cell is None else place.get(cell, rest) for cell in cells]
    return Groups(tuple(names), np.array(codes, dtype=np.int64))


def _quarters(cells: list[Any], numbers: dict[Any, float]) -> Groups:
    values = np.array([math.nan if cell is None else numbers[cell] for cell in cells])
    known = ~np.isnan(values)
    edges = np.unique(np.quantile(values[known], (0.25, 0.5, 0.75)))
    codes = np.searchsorted(edges, np.where(known, values, 0.0), side="left").astype(np.int64)
    inner = [f"above {a:g} to {b:g}" for a, b in pairwise(edges)]
    return Groups((f"up to {edges[0]:g}", *inner, f"above {edges[-1]:g}"), np.where(known, codes, -1))
