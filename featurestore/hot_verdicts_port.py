"""The port to recent verdicts, its records, and the cursor that every implementation shares."""

from __future__ import annotations

import base64
import binascii
import hashlib
import struct
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import msgspec

from domain.errors import TidegateError
from domain.verdict import DecisionName, Flag, Source, Verdict

__all__ = [
    "BadCursorError",
    "BadVerdictError",
    "Cursor",
    "HotLimits",
    "HotRecord",
    "HotVerdicts",
    "VerdictPage",
    "VerdictQuery",
    "record_of",
]

DAY = 86_400_000_000


class BadVerdictError(TidegateError):
    """Bytes that are not a verdict."""


class BadCursorError(TidegateError):
    """A cursor that no page gave out, or one that belongs to another query."""


@dataclass(frozen=True, slots=True)
class HotLimits:
    """Caps: ``count`` verdicts, ``age`` in microseconds since ``scored_at``, ``bytes`` in memory."""

    count: int = 1_000_000
    age: int = DAY
    bytes: int = 2 * 1024**3


@dataclass(frozen=True, slots=True)
class VerdictQuery:
    """Which verdicts: ``start <= scored_at < end`` (UTC microseconds), decision, (entity field, value)."""

    start: int | None = None
    end: int | None = None
    decision: DecisionName | None = None
    entity: tuple[str, str] | None = None
    limit: int = 50
    cursor: str | None = None

    def digest(self) -> bytes:
        """Eight bytes that tell this query's cursors from those of other queries (limit aside)."""
        parts = [self.start, self.end, self.decision, self.entity]
        return hashlib.blake2b(msgspec.json.encode(parts), digest_size=8).digest()


@dataclass(frozen=True, slots=True)
class VerdictPage:
    """Verdicts as JSON, newest first; ``next`` is the cursor of what follows, None at the end.

    A page may hold fewer than the limit and still have a ``next``: a filter that matches little is searched
    in steps of bounded size.
    """

    verdicts: list[bytes]
    next: str | None


class HotVerdicts(Protocol):
    """Recent verdicts of one pipeline; ``tests/contract/check_hot_verdicts.py`` is its executable form.

    All methods raise StoreUnavailable when the store does not answer.
    """

    def put_many(self, verdicts: Sequence[bytes | Verdict]) -> None:
        """Store verdicts; again is harmless. Raises BadVerdictError when bytes are not a verdict."""
        ...

    def get(self, event_id: str) -> bytes | None:
        """The verdict on an event as JSON: of several, the first not flagged as duplicate."""
        ...

    def find(self, ids: Collection[str]) -> dict[str, bytes]:
        """What :meth:`get` answers for each of ``ids``, without those that are not here."""
        ...

    def page(self, query: VerdictQuery) -> VerdictPage:
        """Matching verdicts, newest first, duplicates included. Raises BadCursorError.

        Following ``next`` shows what was there at the first page exactly once (unless it is trimmed
        meanwhile), whatever arrives in between.
        """
        ...


class HotRecord(NamedTuple):
    """What the indexes need of a verdict. ``position`` is 4 hex digits of partition, 12 of offset."""

    position: str
    id: str
    scored_at: int
    decision: DecisionName
    duplicate: bool
    entities: tuple[tuple[str, str], ...]
    raw: bytes


class _Head(msgspec.Struct, gc=False):
    id: str
    scored_at: int
    entities: dict[str, str]
    decision: DecisionName
    flags: list[str]
    source: Source


_DECODE = msgspec.json.Decoder(_Head).decode


def record_of(verdict: bytes | Verdict) -> HotRecord:
    """What the indexes need of ``verdict``. Raises BadVerdictError."""
    raw = verdict if isinstance(verdict, bytes) else msgspec.json.encode(verdict)
    try:
        head = _DECODE(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadVerdictError(
            f"not a verdict: {error}", remedy="let nobody but Tidegate's workers write to the verdicts topic"
        ) from None
    position = f"{head.source.partition:04x}{head.source.offset:012x}"
    entities = tuple(head.entities.items())
    duplicate = Flag.DUPLICATE in head.flags
    return HotRecord(position, head.id, head.scored_at, head.decision, duplicate, entities, raw)


_CURSOR = struct.Struct("<B8sq16s")
_CURSOR_VERSION = 1


@dataclass(frozen=True, slots=True)
class Cursor:
    """The last verdict a page looked at; opaque to clients and good only for the query that made it."""

    scored_at: int
    position: str

    def format(self, query: VerdictQuery) -> str:
        """As text for a URL."""
        packed = _CURSOR.pack(_CURSOR_VERSION, query.digest(), self.scored_at, self.position.encode())
        return base64.urlsafe_b64encode(packed).decode().rstrip("=")

    @classmethod
    def parse(cls, query: VerdictQuery) -> Cursor | None:
        """The query's cursor, None when it has none. Raises BadCursorError."""
        if query.cursor is None:
            return None
        refused = BadCursorError(
            "the cursor is not one that this query gave out",
            remedy="repeat the query with the same filters, or start again without a cursor",
        )
        try:
            packed = base64.urlsafe_b64decode(query.cursor + "=" * (-len(query.cursor) % 4))
            version, digest, scored_at, position = _CURSOR.unpack(packed)
            text = position.decode("ascii")
        except (binascii.Error, ValueError, struct.error):
            raise refused from None
        if version != _CURSOR_VERSION or digest != query.digest():
            raise refused
        return cls(scored_at, text)
