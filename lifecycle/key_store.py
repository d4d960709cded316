"""API keys of one pipeline in the database; every change is one transaction with its audit record."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable
from typing import Any

import msgspec
from sqlalchemy import Connection, Row, func, insert, or_, select, update

from domain.clock import Clock
from domain.errors import Fatal
from lifecycle.audit_trail import AuditTrail
from lifecycle.database import Database
from lifecycle.key_tables import api_keys
from lifecycle.keys import ApiKey, StoredKey, fingerprint, key_id_of, new_key

__all__ = ["MAX_LIVE", "KeyRefused", "KeyStore", "UnknownKey"]

MAX_LIVE = 1_000
"""Keys of one pipeline that are valid at once: every API process keeps all of them in memory."""
MAX_NAME = 100
MAX_RATE = 1e6
_SECOND = 1_000_000


class UnknownKey(Fatal):
    """The pipeline has no key with this id."""


class KeyRefused(Fatal):
    """A key can not be made or changed like this."""


class KeyStore:
    """The keys of ``pipeline``: those of other pipelines are never seen, whatever their ids.

    Every method may raise RegistryUnavailable.
    """

    def __init__(
        self,
        database: Database,
        pipeline: str,
        clock: Clock,
        *,
        random: Callable[[int], str] = secrets.token_hex,
    ) -> None:
        self._database = database
        self._pipeline = pipeline
        self._clock = clock
        self._random = random
        self._trail = AuditTrail(pipeline)
        self._mine = api_keys.c.pipeline == pipeline

    def create(
        self,
        name: str,
        scopes: Iterable[str],
        *,
        by: str,
        reason: str,
        expires_at: int | None = None,
        rate: float | None = None,
        burst: int | None = None,
    ) -> tuple[ApiKey, str]:
        """A new key and its text, which is kept nowhere: show it once. Raises KeyRefused."""
        now = self._clock.now()
        _check(name, expires_at, rate, burst, now)
        chosen = tuple(sorted(set(scopes)))
        if not chosen:
            raise KeyRefused("a key needs at least one scope", remedy="name what it shall be allowed to do")
        with self._trail.changing(self._database) as connection:
            return self._add(
                connection,
                ApiKey(
                    id="", name=name, scopes=chosen, created_at=now, created_by=by, rate=rate, burst=burst,
                    expires_at=expires_at,
                ),
                "key.create",
                reason,
            )  # fmt: skip

    def rotate(
        self, key_id: str, *, by: str, reason: str, overlap_s: float, expires_at: int | None = None
    ) -> tuple[ApiKey, str]:
        """A successor with the same name, scopes and rate, and its text; the old key ends in ``overlap_s`` seconds.

        Without ``expires_at`` the successor lives as long as the old key was given. Raises UnknownKey, KeyRefused.
        """
        now = self._clock.now()
        with self._trail.changing(self._database) as connection:
            old = self._one(connection, key_id)
            if not old.live(now):
                raise KeyRefused(f"the key {key_id} is not valid any more", remedy="make a new one")
            if expires_at is None and old.expires_at is not None:
                expires_at = now + (old.expires_at - old.created_at)
            _check(old.name, expires_at, old.rate, old.burst, now)
            successor = msgspec.structs.replace(
                old, created_at=now, created_by=by, expires_at=expires_at, replaces=old.id
            )
            made = self._add(connection, successor, "key.rotate", reason)
            ends = now + round(overlap_s * _SECOND)
            ends = ends if old.expires_at is None else min(ends, old.expires_at)
            self._change(
                connection, old, msgspec.structs.replace(old, expires_at=ends), "key.expire", by, reason
            )
            return made

    def revoke(self, key_id: str, *, by: str, reason: str) -> ApiKey:
        """The key, which opens nothing any more; again changes nothing. Raises UnknownKey."""
        with self._trail.changing(self._database) as connection:
            old = self._one(connection, key_id)
            if old.revoked_at is not None:
                return old
            new = msgspec.structs.replace(old, revoked_at=self._clock.now())
            self._change(connection, old, new, "key.revoke", by, reason)
            return new

    def get(self, key_id: str) -> ApiKey:
        """One key. Raises UnknownKey."""
        with self._database.reading() as connection:
            return self._one(connection, key_id)

    def newest(self, limit: int = MAX_LIVE, *, dead: bool = False) -> list[ApiKey]:
        """The newest keys first; those that are not valid any more only with ``dead``."""
        query = select(api_keys).where(self._mine).order_by(api_keys.c.created_at.desc(), api_keys.c.id)
        if not dead:
            query = query.where(self._live_at(self._clock.now()))
        with self._database.reading() as connection:
            return [_key(row) for row in connection.execute(query.limit(limit))]

    def live(self) -> list[StoredKey]:
        """Every key that is valid now, with its hash."""
        query = select(api_keys).where(self._mine, self._live_at(self._clock.now()))
        with self._database.reading() as connection:
            return [StoredKey(_key(row), row.sha256) for row in connection.execute(query)]

    def _live_at(self, now: int) -> Any:
        return api_keys.c.revoked_at.is_(None) & or_(
            api_keys.c.expires_at.is_(None), api_keys.c.expires_at > now
        )

    def _one(self, connection: Connection, key_id: str) -> ApiKey:
        query = select(api_keys).where(self._mine, api_keys.c.id == key_id)
        row = connection.execute(query).one_or_none()
        if row is None:
            raise UnknownKey(
                f"the pipeline {self._pipeline} has no such key",
                remedy="`tidegate keys list` shows the ids of keys",
            )
        return _key(row)

    def _add(self, connection: Connection, key: ApiKey, action: str, reason: str) -> tuple[ApiKey, str]:
        counting = select(func.count()).where(self._mine, self._live_at(key.created_at))
        if connection.execute(counting).scalar_one() >= MAX_LIVE:
            raise KeyRefused(
                f"{MAX_LIVE:,} keys of the pipeline {self._pipeline} are valid already",
                remedy="revoke some that nobody uses",
            )
        text = new_key(self._random)
        made = msgspec.structs.replace(key, id=key_id_of(text) or "")
        connection.execute(
            insert(api_keys).values(
                pipeline=self._pipeline,
                sha256=fingerprint(text),
                **{**msgspec.structs.asdict(made), "scopes": " ".join(made.scopes)},
            )
        )
        self._note(connection, action, made.id, made.created_by, reason, None, made)
        return made, text

    def _change(
        self, connection: Connection, old: ApiKey, new: ApiKey, action: str, by: str, reason: str
    ) -> None:
        connection.execute(
            update(api_keys)
            .where(self._mine, api_keys.c.id == old.id)
            .values(expires_at=new.expires_at, revoked_at=new.revoked_at)
        )
        self._note(connection, action, old.id, by, reason, old, new)

    def _note(
        self,
        connection: Connection,
        action: str,
        subject: str,
        by: str,
        reason: str,
        before: ApiKey | None,
        after: ApiKey,
    ) -> None:
        self._trail.note(
            connection, action, subject, by=by, reason=reason, now=self._clock.now(),
            before=None if before is None else msgspec.json.encode(before).decode(),
            after=msgspec.json.encode(after).decode(),
        )  # fmt: skip


def _check(name: str, expires_at: int | None, rate: float | None, burst: int | None, now: int) -> None:
    if not name.strip() or len(name) > MAX_NAME or not name.isprintable():
        raise KeyRefused(
            f"a key's name must have 1 to {MAX_NAME} printable characters",
            remedy="name the program or person that uses it",
        )
    if expires_at is not None and not now < expires_at < 1 << 62:
        raise KeyRefused("a key must expire in the future", remedy="give a later time, or none")
    if rate is not None and not 0 < rate <= MAX_RATE:
        raise KeyRefused(
            f"a key's rate must be above 0 and at most {MAX_RATE:,.0f} requests a second",
            remedy="revoke the key if it shall not be used",
        )
    if burst is not None and not 1 <= burst <= MAX_RATE:
        raise KeyRefused(
            f"a key's burst must be 1 to {MAX_RATE:,.0f} requests",
            remedy="leave it out for two seconds' worth",
        )


def _key(row: Row[Any]) -> ApiKey:
    fields = row._asdict()
    del fields["pipeline"], fields["sha256"]
    return ApiKey(**{**fields, "scopes": tuple(row.scopes.split())})
