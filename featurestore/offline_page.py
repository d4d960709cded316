"""Verdicts out of the offline store listed by ``scored_at``, newest first, a page at a time.

The table's log knows each file's first and last ``scored_at``. So a page is looked for in stretches of time, from the
newest on, each long enough to hold some files' rows; a first pass over narrow columns says which verdicts
belong on it, a second one fetches these. When little matches, the page ends early and its cursor goes on.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pyarrow.compute as pc

from featurestore.hot_verdicts_port import Cursor, VerdictPage, VerdictQuery
from featurestore.offline_find import among
from featurestore.offline_table import Snapshot, answers

__all__ = ["page"]

MOST_ROWS = 2_000_000
"""Rows looked at for one page when next to nothing matches: a second or so."""
FIRST_ROWS = 2_000
"""Rows of the first stretch; each further one is four times as long, since so little matched."""
_PLACE = ("scored_at", "partition", "offset", "day", "id_hash")
_FOREVER = 2**62
_NOWHERE = "0" * 16
"""The position before all others: what was scored at that moment has been looked at."""

_Place = tuple[int, int, int]
"""scored_at, partition, offset: the order of the list."""


def page(
    snapshot: Snapshot,
    query: VerdictQuery,
    *,
    first_rows: int = FIRST_ROWS,
    most_rows: int = MOST_ROWS,
) -> VerdictPage:
    """Matching verdicts, newest first. Raises BadCursorError, OfflineUnavailable.

    ``first_rows`` is how many rows the first stretch holds at least, ``most_rows`` after how many a page ends.
    """
    cursor = Cursor.parse(query)
    matching = _matching(snapshot, query)
    if matching is None:
        return VerdictPage([], None)
    if cursor is not None:
        matching = f"{matching} AND {_before(cursor)}"
    end = _FOREVER if query.end is None else query.end
    if cursor is not None:
        end = min(end, cursor.scored_at + 1)
    start = 0 if query.start is None else query.start
    found: dict[_Place, tuple[Any, int]] = {}
    for lower, upper, last in _stretches(snapshot, start, end, first_rows, most_rows):
        where = f"scored_at >= {lower} AND scored_at < {upper} AND {matching}"
        for row in _newest(snapshot, where, query.limit + 1 - len(found)):
            found[row["scored_at"], row["partition"], row["offset"]] = row["day"], row["id_hash"]
        shown = sorted(found, reverse=True)[: query.limit]
        if len(found) > query.limit or (len(found) == query.limit and not last):
            scored_at, partition, offset = shown[-1]
            reached = Cursor(scored_at, f"{partition:04x}{offset:012x}")
            return VerdictPage(_bodies(snapshot, found, shown), reached.format(query))
        if last is None:
            return VerdictPage(_bodies(snapshot, found, shown), Cursor(lower, _NOWHERE).format(query))
    return VerdictPage(_bodies(snapshot, found, sorted(found, reverse=True)), None)


def _stretches(
    snapshot: Snapshot, start: int, end: int, first_rows: int, most_rows: int
) -> Iterator[tuple[int, int, bool | None]]:
    """Stretches of ``scored_at`` from the newest on: from, to, and whether it is the last (None: of this page)."""
    files = snapshot.files()
    columns = ("min.scored_at", "max.scored_at", "num_records")
    known = [
        (first, newest, rows)
        for first, newest, rows in zip(*(files[name].to_pylist() for name in columns), strict=True)
        if first < end and newest >= start
    ]
    known.sort(reverse=True)
    upper, wanted, seen, rows = end, first_rows, 0, 0
    for number, (first, _, count) in enumerate(known):
        rows += count
        if number == len(known) - 1:
            yield start, upper, True
        elif rows >= wanted and first < upper:
            seen += rows
            enough = seen >= most_rows
            yield max(first, start), upper, None if enough else False
            if enough:
                return
            upper, wanted, rows = first, 4 * wanted, 0


def _matching(snapshot: Snapshot, query: VerdictQuery) -> str | None:
    """The query's filters as SQL; None when nothing can match."""
    conditions = ["true"]
    if query.decision is not None:
        conditions.append(f"decision = '{query.decision.value}'")
    if query.entity is not None:
        field, value = query.entity
        if f"e_{field}" not in snapshot.columns():
            return None
        quoted = value.replace("'", "''")
        conditions.append(f"\"e_{field}\" = '{quoted}'")
    return " AND ".join(conditions)


def _before(cursor: Cursor) -> str:
    partition, offset = int(cursor.position[:4], 16), int(cursor.position[4:], 16)
    return (
        f"(scored_at < {cursor.scored_at} OR (scored_at = {cursor.scored_at} AND "
        f'(partition < {partition} OR (partition = {partition} AND "offset" < {offset}))))'
    )


def _bodies(snapshot: Snapshot, found: dict[_Place, tuple[Any, int]], shown: list[_Place]) -> list[bytes]:
    if not shown:
        return []
    days = {f"DATE '{found[place][0]}'" for place in shown}
    where = f"{among('day', days)} AND {among('id_hash', {found[place][1] for place in shown})}"
    bodies = {
        (row["scored_at"], row["partition"], row["offset"]): row["verdict"]
        for row in _rows(snapshot, ("scored_at", "partition", "offset", "verdict"), where)
    }
    return [bodies[place] for place in shown]


def _newest(snapshot: Snapshot, where: str, limit: int) -> list[dict[str, Any]]:
    reader = snapshot.read(_PLACE, where)
    with answers("listing verdicts"):
        keys = [(name, "descending") for name in _PLACE[:3]]
        rows = reader.read_all()
        picked: list[dict[str, Any]] = rows.take(pc.select_k_unstable(rows, limit, keys)).to_pylist()
    return picked


def _rows(snapshot: Snapshot, columns: tuple[str, ...], where: str) -> list[dict[str, Any]]:
    reader = snapshot.read(columns, where)
    with answers("listing verdicts"):
        rows: list[dict[str, Any]] = reader.read_all().to_pylist()
    return rows
