"""Lists in the database (SQLite or PostgreSQL): every change is audited, and numbered for who publishes it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import msgspec
from sqlalchemy import Connection, Row, delete, func, insert, select, update

from domain.clock import Clock
from domain.errors import Fatal
from domain.list_records import ListEntry
from lifecycle.audit_trail import AuditTrail
from lifecycle.database import Database
from lifecycle.rule_tables import list_entries, list_heads

__all__ = ["AT_ONCE", "ListChange", "ListFull", "ListSummary", "ListsChanged", "NewEntry", "SqlListStore"]

AT_ONCE = 5_000
"""Entries of one change: it is one transaction, and one audit record."""
MOST_ENTRIES = 1_000_000
"""Of all lists of a pipeline: every worker holds them in memory, about 150 bytes each."""
_SPOKEN = 20
"""Entries that an audit record shows one by one; of more it keeps their number and a hash."""
_ASKED = 500
"""Rows looked up by one statement."""


class ListFull(Fatal):
    """The lists of this pipeline have as many entries as its workers may hold."""


class NewEntry(msgspec.Struct, frozen=True, kw_only=True):
    """What is to stand in a list: ``value`` as events' columns have it (domain.list_values)."""

    field: str
    value: str
    expires_at: int | None = None
    source: str = ""
    note: str = ""


class ListSummary(msgspec.Struct, frozen=True, kw_only=True):
    """What there is of a list: ``entries`` of ``field``, expired ones too; ``changed_at`` of the newest entry."""

    list: str
    field: str
    entries: int
    changed_at: int


class ListsChanged(msgspec.Struct, frozen=True, kw_only=True):
    """What a change came to: entries ``added`` or ``renewed``, ``removed``, and ``same``, which already were so."""

    version: int
    added: int = 0
    renewed: int = 0
    removed: int = 0
    same: int = 0


class ListChange(msgspec.Struct, frozen=True):
    """The newest that happened to an entry: it is so since change ``entry.number``, or ``removed`` by it."""

    entry: ListEntry
    removed: bool


class SqlListStore:
    """Lists of ``pipeline`` in ``database``; safe between threads and processes. All raise RegistryUnavailable."""

    def __init__(self, database: Database, pipeline: str, clock: Clock) -> None:
        self._database = database
        self._pipeline = pipeline
        self._clock = clock
        self._trail = AuditTrail(pipeline)
        self._mine = list_entries.c.pipeline == pipeline
        self._there = list_entries.c.removed.is_(False)

    @property
    def pipeline(self) -> str:
        """Whose lists these are."""
        return self._pipeline

    def version(self) -> int:
        """Number of the newest change; 0: there was none."""
        with self._database.reading() as connection:
            return self._head(connection)[0]

    def lists(self) -> list[ListSummary]:
        """All lists that have entries, by name and field."""
        c = list_entries.c
        query = (
            select(c.list, c.field, func.count(), func.max(c.added_at))
            .where(self._mine, self._there)
            .group_by(c.list, c.field)
            .order_by(c.list, c.field)
        )
        with self._database.reading() as connection:
            rows = connection.execute(query).all()
        return [
            ListSummary(list=name, field=field, entries=count, changed_at=at)
            for name, field, count, at in rows
        ]

    def entries(
        self, name: str, *, field: str | None = None, before: int | None = None, limit: int = 100
    ) -> list[ListEntry]:
        """Entries of the list ``name`` with a number below ``before``, newest first."""
        c = list_entries.c
        query = select(list_entries).where(self._mine, self._there, c.list == name)
        if field is not None:
            query = query.where(c.field == field)
        if before is not None:
            query = query.where(c.number < before)
        with self._database.reading() as connection:
            return [_entry(row) for row in connection.execute(query.order_by(c.number.desc()).limit(limit))]

    def find(self, field: str, value: str) -> list[ListEntry]:
        """Every entry of that value, in whatever list; by the lists' names."""
        c = list_entries.c
        query = select(list_entries).where(
            self._mine, self._there, c.field == field, c.digest == _digest(value)
        )
        with self._database.reading() as connection:
            return [_entry(row) for row in connection.execute(query.order_by(c.list))]

    def put(self, name: str, entries: Sequence[NewEntry], *, by: str, reason: str) -> ListsChanged:
        """Let ``entries`` (at most AT_ONCE) stand in the list ``name``; what stands there so already stays.

        Raises ListFull when there would be more than MOST_ENTRIES.
        """
        # the last of two with the same value
        wanted = {(new.field, _digest(new.value)): new for new in _bounded(entries)}
        with self._trail.changing(self._database) as connection:
            number, count = self._head(connection)
            found = dict(self._rows(connection, name, wanted))
            now = self._clock.now()
            fresh = {key: new for key, new in wanted.items() if not _stands(found.get(key), new)}
            if not fresh:
                return ListsChanged(version=number, same=len(wanted))
            added = sum(key not in found or found[key].removed for key in fresh)
            if count + added > MOST_ENTRIES:
                raise ListFull(
                    f"with these the lists of {self._pipeline} would have {count + added:,} entries, of "
                    f"{MOST_ENTRIES:,} that a worker holds",
                    remedy="remove lists or entries that no rule asks for; `tidegate lists prune` removes what has "
                    "expired",
                )
            self._forget(connection, name, [key for key in fresh if key in found])
            rows = [
                {
                    "pipeline": self._pipeline,
                    "list": name,
                    "digest": key[1],
                    **msgspec.structs.asdict(new),
                    "added_at": now,
                    "added_by": by,
                    "number": number + place,
                    "removed": False,
                }
                for place, (key, new) in enumerate(fresh.items(), start=1)
            ]
            self._insert(connection, rows)
            self._set_head(connection, number + len(rows), count + added)
            one = len(wanted) == 1
            former = [_entry(found[key]) for key in fresh if key in found and not found[key].removed]
            self._trail.note(
                connection,
                "list.put",
                f"{name}/{rows[0]['field']}/{rows[0]['value']}" if one else name,
                by=by,
                reason=reason,
                before=_told(former) if former else None,
                after=_told([fresh[key] for key in fresh]),
                now=now,
            )
            return ListsChanged(
                version=number + len(rows),
                added=added,
                renewed=len(fresh) - added,
                same=len(wanted) - len(fresh),
            )

    def remove(self, name: str, values: Sequence[tuple[str, str]], *, by: str, reason: str) -> ListsChanged:
        """Take (field, value) pairs, at most AT_ONCE, out of the list ``name``; what is not there is no mistake."""
        wanted = {(field, _digest(value)): value for field, value in _bounded(values)}
        with self._trail.changing(self._database) as connection:
            found = {k: row for k, row in self._rows(connection, name, wanted) if not row.removed}
            return self._remove(connection, name, found, by=by, reason=reason)

    def prune(self, name: str, expired_before: int, *, by: str, reason: str) -> ListsChanged:
        """Remove up to AT_ONCE entries of ``name`` that expired before that time; call until it removes none."""
        c = list_entries.c
        query = select(list_entries).where(
            self._mine, self._there, c.list == name, c.expires_at < expired_before
        )
        with self._trail.changing(self._database) as connection:
            rows = connection.execute(query.order_by(c.number).limit(AT_ONCE)).all()
            return self._remove(
                connection, name, {(row.field, row.digest): row for row in rows}, by=by, reason=reason
            )

    def changes(self, after: int, limit: int) -> tuple[int, list[ListChange]]:
        """What became of entries after change ``after``, oldest first, at most ``limit``; and the version now."""
        c = list_entries.c
        query = select(list_entries).where(self._mine, c.number > after).order_by(c.number).limit(limit)
        with self._database.reading() as connection:
            version, _ = self._head(connection)
            return version, [ListChange(_entry(row), row.removed) for row in connection.execute(query)]

    def _remove(
        self,
        connection: Connection,
        name: str,
        found: dict[tuple[str, str], Row[Any]],
        *,
        by: str,
        reason: str,
    ) -> ListsChanged:
        number, count = self._head(connection)
        if not found:
            return ListsChanged(version=number)
        now = self._clock.now()
        self._forget(connection, name, list(found))
        rows = [
            row._asdict() | {"number": number + place, "removed": True, "added_at": now, "added_by": by}
            for place, row in enumerate(found.values(), start=1)
        ]
        self._insert(connection, rows)
        self._set_head(connection, number + len(rows), count - len(rows))
        self._trail.note(
            connection,
            "list.remove",
            f"{name}/{rows[0]['field']}/{rows[0]['value']}" if len(rows) == 1 else name,
            by=by,
            reason=reason,
            before=_told([_entry(row) for row in found.values()]),
            now=now,
        )
        return ListsChanged(version=number + len(rows), removed=len(rows))

    def _rows(
        self, connection: Connection, name: str, keys: Iterable[tuple[str, str]]
    ) -> Iterator[tuple[tuple[str, str], Row[Any]]]:
        """What the table has of them, removed ones too."""
        for some in self._these(name, keys):
            for row in connection.execute(select(list_entries).where(*some)):
                yield (row.field, row.digest), row

    def _forget(self, connection: Connection, name: str, keys: Sequence[tuple[str, str]]) -> None:
        """Delete rows that are about to be written anew."""
        for some in self._these(name, keys):
            connection.execute(delete(list_entries).where(*some))

    def _these(self, name: str, keys: Iterable[tuple[str, str]]) -> Iterator[list[Any]]:
        """Conditions for rows of the list, some hundred keys at a time, each answered by the primary key's index."""
        c = list_entries.c
        by_field: dict[str, list[str]] = {}
        for field, digest in keys:
            by_field.setdefault(field, []).append(digest)
        for field, digests in by_field.items():
            for start in range(0, len(digests), _ASKED):
                some = digests[start : start + _ASKED]
                yield [self._mine, c.list == name, c.field == field, c.digest.in_(some)]

    def _insert(self, connection: Connection, rows: list[dict[str, Any]]) -> None:
        # with RETURNING, many rows go in one statement; a driver's own executemany sends them one by one
        connection.execute(insert(list_entries).returning(list_entries.c.number), rows).all()

    def _head(self, connection: Connection) -> tuple[int, int]:
        """Number of the newest change, and how many entries there are."""
        query = select(list_heads).where(list_heads.c.pipeline == self._pipeline)
        row = connection.execute(query).one_or_none()
        return (0, 0) if row is None else (row.number, row.entries)

    def _set_head(self, connection: Connection, number: int, entries: int) -> None:
        values = {"number": number, "entries": entries}
        mine = list_heads.c.pipeline == self._pipeline
        if not connection.execute(update(list_heads).where(mine).values(**values)).rowcount:
            connection.execute(insert(list_heads).values(pipeline=self._pipeline, **values))


def _bounded(given: Sequence[Any]) -> Sequence[Any]:
    if len(given) > AT_ONCE:
        raise ValueError(f"at most {AT_ONCE} entries are changed at once")
    return given


def _digest(value: str) -> str:
    return hashlib.blake2b(value.encode(), digest_size=32).hexdigest()


def _stands(row: Row[Any] | None, new: NewEntry) -> bool:
    """Whether the list has ``new`` already."""
    return (
        row is not None
        and not row.removed
        and (row.expires_at, row.source, row.note) == (new.expires_at, new.source, new.note)
    )


def _entry(row: Row[Any]) -> ListEntry:
    values = row._asdict()
    for other in ("pipeline", "digest", "removed"):
        del values[other]
    return ListEntry(**values)


def _told(entries: Sequence[NewEntry | ListEntry]) -> str:
    """For the audit: the entries themselves, or how many and their hash."""
    if len(entries) <= _SPOKEN:
        shown: Any = [
            {k: v for k, v in msgspec.structs.asdict(e).items() if k in NewEntry.__struct_fields__ and v}
            for e in entries
        ]
    else:
        told = hashlib.sha256()
        for entry in entries:
            told.update(
                msgspec.json.encode([entry.field, entry.value, entry.expires_at, entry.source, entry.note])
            )
        shown = {"entries": len(entries), "sha256": told.hexdigest()}
    return msgspec.json.encode(shown).decode()
