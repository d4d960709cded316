"""Online feature state in Redis or Valkey. The layout is a public contract: docs/redis-format.md."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator, Sequence
from hashlib import blake2b
from typing import Any
from urllib.parse import quote

import redis
from redis.exceptions import NoPermissionError

from domain.errors import Fatal, StateFenced, StateMismatch
from featurestore.ports import Applied, EntityRequest, ModelSnapshot, PartitionFlush
from featurestore.redis_client import Client, Script, ScriptCall, answers, run_commands, run_scripts

__all__ = ["FORMAT", "RedisStateStore", "encode_key_part"]

FORMAT = 2
"""Version of the layout; stored in ``applied`` and ``model``."""

CHUNK_BLOBS = 500
"""Blobs in one script call: it blocks Redis for about 2 ms."""
CHUNK_BYTES = 4 << 20
"""Bytes of blobs in one script call."""
ROUND_BYTES = 32 << 20
"""Bytes sent before answers are awaited, so that neither side must buffer without bound."""
READ_KEYS = 1_000
"""Keys in one MGET."""
MAX_OFFSET = 1 << 53
"""Offsets are compared as doubles in Lua; exact below this (285 years at 1M records/s in one partition)."""
MAX_KEY_PART = 200
"""Characters of an encoded key part; longer values are replaced by a hash."""

_APPLIED = struct.Struct("<7q")  # in the order of docs/redis-format.md
_ERASED = struct.Struct("<qq")  # hash of entity and value, stream time
_MODEL = struct.Struct("<qqq")  # next_offset, verdict_position, format; the blob follows
_PLAIN = re.compile(r"[A-Za-z0-9._-]*", re.ASCII)
_WRITTEN, _ABSENT = -1, -2


def encode_key_part(value: str) -> str:
    """``value`` in characters that are safe in a key and in a SCAN pattern, of bounded length.

    Percent-encoding of the UTF-8 bytes outside ``[A-Za-z0-9._-]``; where that is longer than 200 characters,
    ``~`` and the BLAKE2b-256 of the UTF-8 bytes in hex (no encoded value begins with ``~``).

    >>> encode_key_part("Café {1}:2")
    'Caf%C3%A9%20%7B1%7D%3A2'
    """
    if len(value) <= MAX_KEY_PART and _PLAIN.fullmatch(value):
        return value
    # lone surrogates are no text, but JSON lets them through: they must not stop a batch
    raw = value.encode("utf-8", "surrogatepass")
    if len(raw) <= MAX_KEY_PART:
        encoded = quote(raw, safe="").replace("~", "%7E")
        if len(encoded) <= MAX_KEY_PART:
            return encoded
    return "~" + blake2b(raw, digest_size=32).hexdigest()


class RedisStateStore:
    """:class:`featurestore.ports.StateStore` on Redis 6.2 or newer, Valkey, or a cluster of either.

    Safe to share between threads as far as the client is. Two processes may hold one partition for a
    moment (a rebalance): the fence in ``applied`` lets one of them win.
    """

    def __init__(self, client: Client, pipeline_name: str) -> None:
        self._client = client
        self._pipeline = pipeline_name
        self._tag_name = encode_key_part(pipeline_name)
        self._flush = Script.packaged("flush")
        self._save_model = Script.packaged("save_model")

    def _prefix(self, partition: int) -> str:
        return f"fs:{{{self._tag_name}:{partition}}}:"

    def entity_key(self, partition: int, entity: str, key: str) -> str:
        """The Redis key of one blob."""
        return f"{self._prefix(partition)}{encode_key_part(entity)}:{encode_key_part(key)}"

    def check_server(self) -> tuple[str, ...]:
        """Whether this server may hold state; call at start. Returns warnings for people.

        Raises Fatal when it evicts keys or is too old, StoreUnavailable when it does not answer.
        """
        try:
            with answers("checking the server's settings"):
                info = self._info()
        except Fatal as error:
            if isinstance(error.__cause__, NoPermissionError):
                return (
                    "INFO is forbidden, so the eviction policy is unknown: make sure that it is noeviction",
                )
            raise
        version = str(info.get("redis_version", "0"))
        numbers = tuple(int(part) for part in re.findall(r"\d+", version)[:2])
        if numbers < (6, 2):
            raise Fatal(f"Redis {version} is too old", remedy="use Redis 7 or newer, or Valkey")
        warnings = []
        if numbers < (7, 0):
            warnings.append(
                f"Redis {version} works, but it no longer gets fixes: use Redis 7 or newer, or Valkey"
            )
        policy = info.get("maxmemory_policy")
        if policy is None:
            warnings.append("the server does not tell its eviction policy: make sure that it is noeviction")
        elif policy != "noeviction":
            raise Fatal(
                f"Redis may evict keys (maxmemory-policy is {policy}): features would silently turn to zero",
                remedy="redis-cli CONFIG SET maxmemory-policy noeviction, and the same in redis.conf",
            )
        if not info.get("aof_enabled", 0):
            warnings.append(
                "Redis keeps no append-only file: after its restart, state is rebuilt from the log, which "
                "takes longer; set appendonly yes"
            )
        return tuple(warnings)

    def _info(self) -> dict[str, Any]:
        if isinstance(self._client, redis.RedisCluster):
            found: dict[str, Any] = dict(self._client.info(target_nodes=redis.RedisCluster.RANDOM))
            return found
        return dict(self._client.info())

    def load_applied(self, partition: int) -> Applied | None:
        """How far ``partition`` is applied. Raises StateMismatch for another format."""
        with answers(f"reading how far partition {partition} is applied"):
            [stored] = run_commands(self._client, [("GET", self._prefix(partition) + "applied")])
        if stored is None:
            return None
        if len(stored) < _APPLIED.size:
            raise self._unreadable(partition, "applied")
        progress, next_offset, stream_time, verdict_position, version, labels, until = _APPLIED.unpack_from(
            stored
        )
        erased = _erased_in(stored)
        if erased is None or version != FORMAT or progress != next_offset + labels:
            raise self._unreadable(partition, "applied")
        return Applied(next_offset, stream_time, verdict_position, labels, until, erased)

    def load_entities(self, requests: Sequence[EntityRequest]) -> list[list[bytes | None]]:
        """Blobs in the order of requests and keys; one round trip."""
        commands: list[tuple[Any, ...]] = []
        owner: list[int] = []
        for i, request in enumerate(requests):
            prefix = f"{self._prefix(request.partition)}{encode_key_part(request.entity)}:"
            keys = [prefix + encode_key_part(key) for key in request.keys]
            for start in range(0, len(keys), READ_KEYS):
                commands.append(("MGET", *keys[start : start + READ_KEYS]))
                owner.append(i)
        result: list[list[bytes | None]] = [[] for _ in requests]
        if commands:
            with answers("reading entity state"):
                found = run_commands(self._client, commands)
            for i, blobs in zip(owner, found, strict=True):
                result[i].extend(blobs)
        return result

    def flush(self, flushes: Sequence[PartitionFlush]) -> None:
        """Write state after a commit: one round trip, or two where a partition needs several script calls.

        The call that writes ``applied`` is sent only after all other calls of its partition succeeded (an
        error in the midst of a pipeline does not stop what follows it), and it writes the partition's last
        blobs in the same script. A fenced partition does not keep the others from being written.
        Raises StateFenced, StoreUnavailable (outcome unknown: repeat it, or reload), and ValueError for
        blobs too short to hold their progress.
        """
        leading: list[tuple[int, ScriptCall]] = []
        final: list[tuple[int, ScriptCall]] = []
        for flush in flushes:
            *before, last = self._calls(flush)
            leading += [(flush.partition, call) for call in before]
            final.append((flush.partition, last))
        fenced: dict[int, int] = {}
        with answers("writing entity state"):
            self._run(leading, fenced)
            self._run([item for item in final if item[0] not in fenced], fenced)
        if fenced:
            expected = {f.partition: f.expected.progress if f.expected else None for f in flushes}
            told = ", ".join(
                f"partition {p} (stored {'nothing' if at == _ABSENT else at}, expected "
                f"{'nothing' if expected[p] is None else expected[p]})"
                for p, at in fenced.items()
            )
            raise StateFenced(
                f"another owner has moved the online state of {self._pipeline} on: {told}",
                remedy="nothing to do where partitions were just reassigned; else see that no second "
                "deployment uses this pipeline name in this Redis",
            )

    def _calls(self, flush: PartitionFlush) -> list[ScriptCall]:
        prefix = self._prefix(flush.partition)
        applied = flush.applied
        if not 0 <= applied.progress < MAX_OFFSET:
            raise ValueError(f"progress {applied.progress} is outside 0 to 2^53 - 1")
        head = ("" if flush.expected is None else flush.expected.progress, applied.progress)
        packed = _APPLIED.pack(
            applied.progress,
            applied.next_offset,
            applied.stream_time,
            applied.verdict_position,
            FORMAT,
            applied.labels_offset,
            applied.incomplete_until,
        )
        if applied.erased:
            packed += struct.pack("<q", len(applied.erased))
            packed += b"".join(_ERASED.pack(*one) for one in applied.erased)
        chunks = list(_chunks(flush.blobs)) or [[]]
        calls = []
        for i, chunk in enumerate(chunks):
            keys = [prefix + "applied"]
            keys += [f"{prefix}{encode_key_part(entity)}:{encode_key_part(key)}" for entity, key, _ in chunk]
            is_last = i == len(chunks) - 1
            calls.append(
                ScriptCall(keys, [*head, packed if is_last else b"", *(blob for _, _, blob in chunk)])
            )
        return calls

    def _run(self, items: Sequence[tuple[int, ScriptCall]], fenced: dict[int, int]) -> None:
        for group in _rounds(items):
            results = run_scripts(self._client, self._flush, [call for _, call in group])
            for (partition, _), result in zip(group, results, strict=True):
                if result != _WRITTEN:
                    fenced[partition] = int(result)

    def load_model(self, partition: int) -> ModelSnapshot | None:
        """The newest snapshot. Raises StateMismatch for another format."""
        with answers(f"reading the detectors of partition {partition}"):
            [stored] = run_commands(self._client, [("GET", self._prefix(partition) + "model")])
        if stored is None:
            return None
        if len(stored) < _MODEL.size:
            raise self._unreadable(partition, "model")
        next_offset, verdict_position, version = _MODEL.unpack_from(stored)
        if version != FORMAT:
            raise self._unreadable(partition, "model")
        return ModelSnapshot(next_offset, verdict_position, stored[_MODEL.size :])

    def save_model(self, partition: int, snapshot: ModelSnapshot) -> None:
        """Store a snapshot unless a newer one is there."""
        if not 0 <= snapshot.next_offset < MAX_OFFSET:
            raise ValueError(f"next_offset {snapshot.next_offset} is outside 0 to 2^53 - 1")
        head = _MODEL.pack(snapshot.next_offset, snapshot.verdict_position, FORMAT)
        call = ScriptCall([self._prefix(partition) + "model"], [head + snapshot.blob])
        with answers(f"writing the detectors of partition {partition}"):
            run_scripts(self._client, self._save_model, [call])

    def reset(self, partition: int) -> None:
        """Delete everything the partition wrote; repeat it when it was interrupted.

        ``applied`` goes first: a reset that stops half-way leaves blobs ahead of ``applied``, as a torn flush
        does. Walks over all keys of the server (SCAN), so it takes about a second for a million keys.
        """
        prefix = self._prefix(partition)
        with answers(f"deleting the state of partition {partition}"):
            self._client.unlink(prefix + "applied")
            batch: list[bytes] = []
            for key in self._client.scan_iter(match=prefix + "*", count=READ_KEYS):
                batch.append(key)
                if len(batch) == READ_KEYS:
                    self._client.unlink(*batch)
                    batch.clear()
            if batch:
                self._client.unlink(*batch)

    def _unreadable(self, partition: int, what: str) -> StateMismatch:
        return StateMismatch(
            f"`{what}` of partition {partition} of {self._pipeline} is damaged or not of format {FORMAT}, the "
            "one this version reads",
            remedy="start the version that wrote it, or `tidegate state reset` to rebuild it from the log",
        )


def _erased_in(stored: bytes) -> tuple[tuple[int, int], ...] | None:
    """The erasures behind the fixed fields of ``applied``; None when they are damaged."""
    if len(stored) < _APPLIED.size + 8:
        return ()
    (count,) = struct.unpack_from("<q", stored, _APPLIED.size)
    start = _APPLIED.size + 8
    if count < 0 or len(stored) < start + count * _ERASED.size:
        return None
    return tuple(_ERASED.iter_unpack(stored[start : start + count * _ERASED.size]))


def _chunks(blobs: Sequence[tuple[str, str, bytes]]) -> Iterator[list[tuple[str, str, bytes]]]:
    chunk: list[tuple[str, str, bytes]] = []
    size = 0
    for item in blobs:
        blob = item[2]
        if len(blob) < 8:
            raise ValueError(f"blob of {item[0]} has {len(blob)} bytes, without room for its progress")
        if chunk and (len(chunk) == CHUNK_BLOBS or size + len(blob) > CHUNK_BYTES):
            yield chunk
            chunk, size = [], 0
        chunk.append(item)
        size += len(blob)
    if chunk:
        yield chunk


def _rounds(items: Sequence[tuple[int, ScriptCall]]) -> Iterator[list[tuple[int, ScriptCall]]]:
    group: list[tuple[int, ScriptCall]] = []
    size = 0
    for item in items:
        bytes_ = sum(len(arg) for arg in item[1].args if isinstance(arg, bytes))
        if group and size + bytes_ > ROUND_BYTES:
            yield group
            group, size = [], 0
        group.append(item)
        size += bytes_
    if group:
        yield group
