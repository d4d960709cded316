"""Single verdicts out of the offline store, by the ids of their events.

Days are sorted by a hash of the id (:mod:`featurestore.offline_upkeep`), so one group of rows of each file may hold it,
and the file's footer says which. A first pass over the narrow columns says where the verdict is, a second one
fetches it, as its JSON is a hundred times as wide.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from featurestore.offline_schema import id_hash
from featurestore.offline_table import Snapshot, answers

__all__ = ["among", "find"]

_IDS_PER_PASS = 1_000
"""Ids looked for at once: bounds the length of the condition."""
_PLACE = ["id", "day", "duplicate", "scored_at", "partition", "offset"]


def find(snapshot: Snapshot, ids: Collection[str]) -> dict[str, bytes]:
    """The verdict's JSON of each id that is there; of several the first that is no duplicate.

    Raises OfflineUnavailable.
    """
    found: dict[str, bytes] = {}
    unique = list(dict.fromkeys(ids))
    for start in range(0, len(unique), _IDS_PER_PASS):
        found.update(_find(snapshot, unique[start : start + _IDS_PER_PASS]))
    return found


def _find(snapshot: Snapshot, ids: Sequence[str]) -> dict[str, bytes]:
    wanted = {event_id: id_hash(event_id) for event_id in ids}
    best: dict[str, dict[str, Any]] = {}
    for place in _rows(snapshot, _PLACE, among("id_hash", wanted.values())):
        event_id = place["id"]
        if event_id in wanted and (event_id not in best or _rank(place) < _rank(best[event_id])):
            best[event_id] = place
    if not best:
        return {}
    days = {f"DATE '{place['day']}'" for place in best.values()}
    where = f"{among('day', days)} AND {among('id_hash', [wanted[i] for i in best])}"
    return {
        row["id"]: row["verdict"]
        for row in _rows(snapshot, [*_PLACE, "verdict"], where)
        if row["id"] in best and _rank(row) == _rank(best[row["id"]])
    }


def _rows(snapshot: Snapshot, columns: Sequence[str], where: str) -> list[dict[str, Any]]:
    reader = snapshot.read(columns, where)
    with answers("looking for verdicts"):
        rows: list[dict[str, Any]] = reader.read_all().to_pylist()
    return rows


def _rank(place: Mapping[str, Any]) -> tuple[Any, ...]:
    return place["duplicate"], place["scored_at"], place["partition"], place["offset"]


def among(column: str, values: Iterable[object]) -> str:
    """SQL: the column's value is one of ``values`` (numbers, or SQL themselves)."""
    return f"{column} IN ({', '.join(sorted(map(str, values)))})"
