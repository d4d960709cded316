"""Removing an erased entity's verdicts from where copies of them lie: the hot store and the offline store."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from featurestore.hot_verdicts import entity_index_member
from featurestore.offline import OfflineStore
from featurestore.offline_schema import id_hash
from featurestore.offline_table import OfflineTable, answers
from featurestore.online import encode_key_part
from featurestore.redis_client import Client, Script, ScriptCall, run_commands, run_scripts
from featurestore.redis_client import answers as redis_answers

__all__ = ["erase_hot", "erase_offline"]

_CHUNK = 500
"""Verdicts per script call, and ids per deletion."""


def erase_hot(client: Client, pipeline: str, entity: str, value: str, below: Mapping[int, int]) -> int:
    """Remove verdicts on events of ``entity`` = ``value`` whose source offset lies below that of its partition.

    Returns how many. Repeating it does no harm. Raises StoreUnavailable.
    """
    prefix = f"vd:{{{encode_key_part(pipeline)}}}:"
    key = prefix + "entity:" + entity_index_member(entity, value).decode()
    script, removed = Script.packaged("hot_remove"), 0
    with redis_answers("removing verdicts of an erased entity"):
        [members] = run_commands(client, [("ZRANGE", key, 0, -1)])
        gone = [one for one in members if int(one[4:], 16) < below.get(int(one[:4], 16), 0)]
        for start in range(0, len(gone), _CHUNK):
            call = ScriptCall([key], [prefix, *gone[start : start + _CHUNK]])
            removed += int(run_scripts(client, script, [call])[0])
    return removed


def erase_offline(store: OfflineStore, entity: str, value: str, below: Mapping[int, int]) -> int:
    """Delete the verdicts on those events, and what labels say of them; how many verdicts.

    Their files stay until vacuum takes them (TIDEGATE_OFFLINE_VERSION_DAYS). Repeating it does no harm.
    Raises OfflineUnavailable.
    """
    snapshot = store.verdicts.snapshot()
    column = f"e_{entity}"
    if snapshot is None or column not in snapshot.columns():
        return 0
    places = " OR ".join(f'("partition" = {p} AND "offset" < {end})' for p, end in sorted(below.items()))
    where = f'"{column}" = {_quoted(value)} AND ({places or "FALSE"})'
    ids = sorted(
        {str(text) for batch in snapshot.read(["id"], where) for text in batch.column(0).to_pylist()}
    )
    # labels first: without the verdicts nobody could tell which they were
    for start in range(0, len(ids), _CHUNK):
        chunk = ids[start : start + _CHUNK]
        hashes = ", ".join(str(id_hash(one)) for one in chunk)
        _delete(store.labels, f"id_hash IN ({hashes}) AND id IN ({', '.join(map(_quoted, chunk))})")
    return _delete(store.verdicts, where) if ids else 0


def _delete(table: OfflineTable, where: str) -> int:
    handle = table.opened()
    if handle is None:
        return 0
    with answers(f"deleting an erased entity from {table.kind.name}"):
        done: dict[str, Any] = handle.delete(where)
    return int(done.get("num_deleted_rows") or 0)


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
