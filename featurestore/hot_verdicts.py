"""Recent verdicts in Redis, under a cap by count, bytes and age; older ones are in the offline store.

Time here is ``scored_at``. New verdicts then enter at the new end of every index, which is what makes a
cursor stable, and a replay of old events (event times of years ago) is not trimmed at once.

A verdict is kept under its *position*, the partition and offset of its event: 16 hexadecimal digits, 4 of
the partition and 12 of the offset, so that text order is log order. Putting the same verdict twice changes
nothing; another verdict at the same position (the topic was recreated) replaces the old one. Of several
verdicts with one id, ``get`` answers the first that is not flagged ``duplicate``, whatever order they arrived
in; all of them are in the lists. Once that one is trimmed, ``get`` answers nothing until another with this id
is put.

Keys, all in one hash slot, ``vd:{<pipeline>}:`` followed by

=====================  ==========  =======================================================================
``bodies``             hash        position -> head + the verdict's JSON, byte for byte as in the topic
``time``               sorted set  position by ``scored_at`` (microseconds; below 2^53, so exact)
``decision:<code>``    sorted set  the same for ``review`` (1) and ``block`` (2); nearly all are ``allow``
``entity:<f>:<value>`` sorted set  the same for one value of the entity field f (hashed, if f is sensitive)
``ids``                hash        event id -> position that answers ``get``
``bytes``              integer     estimate of the memory all this takes, for the cap
=====================  ==========  =======================================================================

The head, little-endian without padding: decision code u8, duplicate u8, scored_at f64, length of the head
u32, length of the id u32, id, number of entities u8, then for each u32 length and ``<f>:<value>``. It lets
trimming clean all indexes without parsing JSON. The script touches keys that it finds in values, not only
declared ones; the common hash tag keeps them on the same node.

Each write of n verdicts trims at most 2 n + 64 of the oldest, so a write's time is bounded and a backlog
still shrinks. When writing stops nothing is trimmed, but reads leave out what is older than the age.
"""

from __future__ import annotations

import struct
from collections.abc import Collection, Sequence
from typing import Any

from domain.clock import Clock
from domain.verdict import DECISIONS, DecisionName, Verdict
from featurestore.hot_verdicts_port import (
    Cursor,
    HotLimits,
    HotRecord,
    HotVerdicts,
    VerdictPage,
    VerdictQuery,
    record_of,
)
from featurestore.online import encode_key_part
from featurestore.redis_client import Client, Script, ScriptCall, answers, run_commands, run_scripts

__all__ = [
    "HotLimits",
    "HotVerdicts",
    "RedisHotVerdicts",
    "VerdictPage",
    "VerdictQuery",
    "entity_index_member",
]

_CHUNK = 500
"""Verdicts per script call: about 10 ms of a Redis that serves workers too."""
_TRIM_SPARE = 64
_SCAN = 1000
"""Verdicts looked at per call when most of them may not match a filter."""
_SCAN_ROUNDS = 10
"""Calls per page: 10,000 verdicts. A page may hold fewer than asked for; its cursor goes on from there."""

_HEAD = struct.Struct("<BBdII")


class RedisHotVerdicts:
    """:class:`HotVerdicts` in Redis. Safe to share between threads as far as the client is."""

    def __init__(
        self, client: Client, pipeline_name: str, clock: Clock, limits: HotLimits | None = None
    ) -> None:
        self._client = client
        self._prefix = f"vd:{{{encode_key_part(pipeline_name)}}}:"
        self._clock = clock
        self._limits = limits or HotLimits()
        self._put = Script.packaged("hot_put")
        self._page = Script.packaged("hot_page")

    def put_many(self, verdicts: Sequence[bytes | Verdict]) -> None:
        """Store verdicts in one round trip, then trim. Idempotent.

        Raises BadVerdictError (nothing is stored) and StoreUnavailable (perhaps some are: put them again).
        """
        records = [record_of(verdict) for verdict in verdicts]
        limits = self._limits
        calls = []
        for start in range(0, len(records), _CHUNK):
            chunk = records[start : start + _CHUNK]
            budget = 2 * len(chunk) + _TRIM_SPARE
            args: list[bytes | str | int] = [
                self._prefix, self._oldest(), limits.count, limits.bytes, budget
            ]  # fmt: skip
            for record in chunk:
                args += (record.position, record.scored_at, _pack(record))
            calls.append(ScriptCall([self._prefix + "time"], args))
        if calls:
            with answers("storing recent verdicts"):
                run_scripts(self._client, self._put, calls)

    def get(self, event_id: str) -> bytes | None:
        """JSON of the verdict on ``event_id``, or None when it is not (or no longer) here.

        Raises StoreUnavailable.
        """
        with answers("looking for a verdict"):
            [position] = run_commands(self._client, [("HGET", self._prefix + "ids", event_id)])
            if position is None:
                return None
            [value] = run_commands(self._client, [("HGET", self._prefix + "bodies", position)])
        if value is None or _HEAD.unpack_from(value)[2] < self._oldest():
            return None
        return _body(value)

    def find(self, ids: Collection[str]) -> dict[str, bytes]:
        """JSON of the verdicts on ``ids``, of those that are here; two round trips for each 500.

        Raises StoreUnavailable.
        """
        found: dict[str, bytes] = {}
        wanted = list(ids)
        for start in range(0, len(wanted), _CHUNK):
            chunk = wanted[start : start + _CHUNK]
            with answers("looking for verdicts"):
                [positions] = run_commands(self._client, [("HMGET", self._prefix + "ids", *chunk)])
                there = [(id_, at) for id_, at in zip(chunk, positions, strict=True) if at is not None]
                if not there:
                    continue
                command = ("HMGET", self._prefix + "bodies", *(at for _, at in there))
                [values] = run_commands(self._client, [command])
            for (id_, _), value in zip(there, values, strict=True):
                if value is not None and _HEAD.unpack_from(value)[2] >= self._oldest():
                    found[id_] = _body(value)
        return found

    def page(self, query: VerdictQuery) -> VerdictPage:
        """Verdicts that match, newest first. Raises BadCursorError and StoreUnavailable."""
        cursor = Cursor.parse(query)
        key, residual = self._index(query)
        found: list[bytes] = []
        for _ in range(_SCAN_ROUNDS if residual >= 0 else 1):
            wanted = query.limit - len(found)
            done, last, values = self._read(key, query, cursor, wanted, residual)
            found += map(_body, values)
            if done:
                return VerdictPage(found, None)
            cursor = last
            if len(found) >= query.limit:
                break
        return VerdictPage(found, None if cursor is None else cursor.format(query))

    def ping(self) -> None:
        """Raises StoreUnavailable when Redis does not answer."""
        with answers("checking that Redis is there"):
            run_commands(self._client, [("PING",)])

    def _oldest(self) -> int:
        return self._clock.now() - self._limits.age

    def _index(self, query: VerdictQuery) -> tuple[str, int]:
        """The index to read, and the decision code still to look for in it (-1: none)."""
        code = -1 if query.decision is None else DECISIONS.index(query.decision)
        if query.entity is not None:
            return f"{self._prefix}entity:{_entity(*query.entity).decode()}", code
        if query.decision in (None, DecisionName.ALLOW):
            return self._prefix + "time", code
        return f"{self._prefix}decision:{code}", -1

    def _read(
        self, key: str, query: VerdictQuery, cursor: Cursor | None, limit: int, residual: int
    ) -> tuple[bool, Cursor | None, list[bytes]]:
        low = self._oldest() if query.start is None else max(query.start, self._oldest())
        high = "+inf" if query.end is None else query.end
        at, score = ("", 0) if cursor is None else (cursor.position, cursor.scored_at)
        scan = _SCAN if residual >= 0 else limit + 1
        args: list[bytes | str | int] = [self._prefix, low, high, at, score, limit, residual, scan]
        with answers("listing recent verdicts"):
            [reply] = run_scripts(self._client, self._page, [ScriptCall([key], args)])
        done, position, last_score = bool(reply[0]), reply[1].decode(), int(reply[2])
        return done, Cursor(last_score, position) if position else None, reply[3:]


def entity_index_member(field: str, value: str) -> bytes:
    """What follows ``entity:`` in the key of one value's index."""
    return _entity(field, value)


def _entity(field: str, value: str) -> bytes:
    return f"{field}:{encode_key_part(value)}".encode()


def _pack(record: HotRecord) -> bytes:
    """Head and body; the layout is in the module's docstring."""
    event_id = record.id.encode("utf-8", "surrogatepass")
    entities = [_entity(field, value) for field, value in record.entities]
    tail = b"".join(len(e).to_bytes(4, "little") + e for e in entities)
    length = _HEAD.size + len(event_id) + 1 + len(tail)
    code = DECISIONS.index(record.decision)
    head = _HEAD.pack(code, record.duplicate, record.scored_at, length, len(event_id))
    return b"".join((head, event_id, bytes((len(entities),)), tail, record.raw))


def _body(value: bytes) -> bytes:
    length: Any = _HEAD.unpack_from(value)[3]
    return value[length:]
