"""The audit: who changed what, when and why, each record chained to the one before it by its hash.

A record's hash is the SHA-256 of the hash before it (hex; 64 zeros before the first) and of the record's canonical
JSON (keys sorted, no spaces, UTF-8, without ``hash`` and ``previous``). Whoever changes, inserts or removes a record
must compute every later hash anew. An administrator of the database can do that; so number and hash of the newest
record, the *head*, go into the topic ``audit`` (``stream.audit_topic``), and a chain made anew does not fit these.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence

import msgspec

__all__ = ["GENESIS", "AuditHead", "AuditRecord", "Broken", "chained", "verify"]

GENESIS = "0" * 64
"""What stands before the first record."""


class AuditRecord(msgspec.Struct, frozen=True, kw_only=True):
    """Number ``number`` (from 1, without gaps) of a pipeline: at ``at`` (UTC microseconds) ``by`` did ``action``.

    ``subject`` is a model's version, a run's id or another name; ``before`` and ``after`` say what it was and is.
    """

    pipeline: str
    number: int
    at: int
    by: str
    action: str
    subject: str
    before: str | None
    after: str | None
    reason: str
    previous: str = ""
    hash: str = ""


class AuditHead(msgspec.Struct, frozen=True, kw_only=True):
    """Number and hash of the newest record as of ``at`` (UTC microseconds), kept where the database's owner is not."""

    pipeline: str
    number: int
    hash: str
    at: int


class Broken(msgspec.Struct, frozen=True, kw_only=True):
    """Where a chain first is not what it should be, and why."""

    number: int
    why: str


def chained(record: AuditRecord, previous: str) -> AuditRecord:
    """``record`` with its place in the chain after ``previous`` (hex)."""
    return msgspec.structs.replace(record, previous=previous, hash=_hash(record, previous))


def verify(
    records: Iterable[AuditRecord], head: tuple[int, str], exported: Sequence[AuditHead] = ()
) -> Broken | None:
    """The first of all ``records`` (oldest first) that breaks the chain, None when all hold.

    ``head`` is number and hash of the last, as the database keeps them: 0 and GENESIS when there is none.
    ``exported``: heads kept elsewhere; the records must still have those hashes.
    """
    kept: dict[int, str] = {}
    for one in exported:
        if kept.setdefault(one.number, one.hash) != one.hash:
            return Broken(number=one.number, why="two heads were exported for it, with different hashes")
    after, previous = 0, GENESIS
    for record in records:
        after += 1
        if record.number != after:
            return Broken(number=after, why=f"it is missing: number {record.number} follows {after - 1}")
        if record.previous != previous:
            return Broken(number=after, why="it does not follow the record before it")
        if record.hash != _hash(record, previous):
            return Broken(number=after, why="it was changed: its hash is of something else")
        if kept.get(after, record.hash) != record.hash:
            return Broken(
                number=after, why="it, or a record before it, was rewritten: another hash was exported for it"
            )
        previous = record.hash
    newest = max(kept, default=0)
    if newest > after:
        return Broken(number=after + 1, why=f"it is missing: a head was exported for number {newest}")
    if after != head[0]:
        return Broken(number=after + 1, why=f"it is missing: the last should be number {head[0]}")
    if previous != head[1]:
        return Broken(number=after, why="it was changed, and so was all that follows it")
    return None


def _hash(record: AuditRecord, previous: str) -> str:
    fields = msgspec.structs.asdict(record)
    del fields["previous"], fields["hash"]
    canonical = json.dumps(fields, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(previous.encode() + canonical.encode()).hexdigest()
