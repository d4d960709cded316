"""The states of all labelled events, in little memory: a private database of the process, rebuilt from the log.

Nothing here is the truth: ``labels.claims`` and ``labels.joined`` are, and whoever starts reads them anew. SQLite keeps
what is not in its cache in a temporary file that it deletes by itself.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Sequence

import msgspec

from domain.label_codec import JoinedLabel
from lifecycle.label_claims import Claim, EventPlace, LabelState, overheard

__all__ = ["LabelBook"]

_CACHE_KB = 65_536
_CHUNK = 500
"""Ids asked for in one statement; SQLite allows some thousands."""
_UNKNOWN = -1

_TABLE = """
CREATE TABLE book (
    id TEXT PRIMARY KEY, state BLOB, label INTEGER, known_at INTEGER, origin TEXT, event BLOB, partition INTEGER
) WITHOUT ROWID
"""
_STATE = "INSERT INTO book (id, state) VALUES (?, ?) ON CONFLICT (id) DO UPDATE SET state = excluded.state"
_JOINED = """
INSERT INTO book (id, label, known_at, origin, event, partition) VALUES (?, ?, ?, ?, ?, ?)
ON CONFLICT (id) DO UPDATE SET
    label = excluded.label, known_at = excluded.known_at, origin = excluded.origin, event = excluded.event,
    partition = excluded.partition
WHERE book.partition IS NULL OR excluded.partition >= book.partition
"""
_OURS = """
INSERT INTO book (id, state) VALUES (?, ?) ON CONFLICT (id) DO UPDATE SET
    state = excluded.state, label = NULL, known_at = NULL, origin = NULL, event = NULL, partition = NULL
"""


class LabelBook:
    """States by event id (as in verdicts). One thread at a time; about 400 bytes of disk an event."""

    def __init__(self) -> None:
        # the empty name means a temporary file of this connection alone
        self._db = sqlite3.connect("", isolation_level=None, check_same_thread=False)
        self._db.execute(f"PRAGMA cache_size = -{_CACHE_KB}")
        self._db.execute("PRAGMA journal_mode = OFF")
        self._db.execute("PRAGMA synchronous = OFF")
        # one transaction that never ends: nobody else reads, and nothing shall outlive this process
        self._db.execute("BEGIN")
        self._db.execute(_TABLE)
        self._encode = msgspec.json.Encoder().encode
        self._decode = msgspec.json.Decoder(LabelState).decode
        self._place = msgspec.json.Decoder(EventPlace).decode

    def __del__(self) -> None:
        """Whoever fails while it is being filled leaves it behind."""
        self._db.close()

    def load_states(self, records: Iterable[tuple[str, bytes | None]]) -> None:
        """Take in the next records of ``labels.claims``: (id, JSON of a state; None forgets it).

        Raises msgspec.DecodeError for what is none.
        """
        for id_, value in records:
            if value is None:
                self._db.execute("DELETE FROM book WHERE id = ?", (id_,))
            else:
                self._decode(value)
                self._db.execute(_STATE, (id_, value))

    def load_joined(self, labels: Sequence[tuple[int, JoinedLabel]]) -> None:
        """Take in the next records of ``labels.joined`` with their partitions; after all states."""
        rows = []
        for partition, one in labels:
            place = EventPlace(time=one.event_time, entities=one.entities, partition=partition)
            label = _UNKNOWN if one.label is None else one.label
            rows.append((one.id, label, one.known_at, one.origin, self._encode(place), partition))
        self._db.executemany(_JOINED, rows)

    def get(self, ids: Iterable[str]) -> dict[str, LabelState]:
        """What is known of ``ids``; nothing for those that nobody has labelled."""
        wanted = list(dict.fromkeys(ids))
        found: dict[str, LabelState] = {}
        for start in range(0, len(wanted), _CHUNK):
            chunk = wanted[start : start + _CHUNK]
            marks = ",".join("?" * len(chunk))
            query = f"SELECT id, state, label, known_at, origin, event FROM book WHERE id IN ({marks})"  # noqa: S608 only marks
            for id_, state, label, known_at, origin, event in self._db.execute(query, chunk):
                told = LabelState() if state is None else self._decode(state)
                if label is not None:
                    claim = Claim(None if label == _UNKNOWN else label, known_at)
                    told = overheard(told, claim, origin, self._place(event))
                found[id_] = told
        return found

    def put(self, states: Iterable[tuple[str, LabelState | None]]) -> None:
        """Keep states that now say all; None forgets."""
        for id_, state in states:
            if state is None:
                self._db.execute("DELETE FROM book WHERE id = ?", (id_,))
            else:
                self._db.execute(_OURS, (id_, self._encode(state)))

    def encoded(self, states: Iterable[tuple[str, LabelState | None]]) -> Iterator[tuple[str, bytes | None]]:
        """States as records of ``labels.claims``."""
        for id_, state in states:
            yield id_, None if state is None else self._encode(state)

    def waiting(self) -> Iterator[tuple[str, LabelState]]:
        """Ids and states of which some label waits for its event."""
        cursor = self._db.execute("SELECT id FROM book WHERE instr(state, CAST('\"waiting\"' AS BLOB)) > 0")
        ids = [id_ for (id_,) in cursor]
        for id_, state in self.get(ids).items():
            if state.waiting:
                yield id_, state

    def close(self) -> None:
        """Drop everything."""
        self._db.close()
