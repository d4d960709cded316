"""Entries of lists from a CSV file of any length, in bounded memory.

The file is read twice: first every row is checked, so that a mistake in the last one changes nothing; then entries are
stored some thousand at a time, each portion a transaction with its own audit record. Importing a file again changes
nothing, so an import that was interrupted is simply run again.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import msgspec

from domain.clock import to_micros
from domain.errors import Fatal
from domain.list_values import ListInvalid, ListValues
from lifecycle.list_store import AT_ONCE, ListsChanged, NewEntry, SqlListStore

__all__ = ["Columns", "Imported", "check_file", "import_file", "moment_of"]

MOST_MISTAKES = 20
"""Shown; with more the file is another kind of file."""
MOST_SOURCE, MOST_NOTE = 100, 500
_Moment: Any = Annotated[datetime, msgspec.Meta(tz=True)]


@dataclass(frozen=True, slots=True)
class Columns:
    """Names of columns: ``value`` must be there, the others may."""

    value: str = "value"
    expires_at: str = "expires_at"
    source: str = "source"
    note: str = "note"


@dataclass(frozen=True, slots=True)
class Imported:
    """What an import came to, over all portions."""

    rows: int = 0
    added: int = 0
    renewed: int = 0
    removed: int = 0
    same: int = 0
    version: int = 0
    mistakes: tuple[str, ...] = field(default=())
    """Line and what is wrong with it, never the value; nothing was stored when there are any."""

    def plus(self, rows: int, changed: ListsChanged) -> Imported:
        """With one portion more."""
        return Imported(
            self.rows + rows,
            self.added + changed.added,
            self.renewed + changed.renewed,
            self.removed + changed.removed,
            # values that a portion held twice were one
            self.same + rows - changed.added - changed.renewed - changed.removed,
            changed.version,
        )


@dataclass(frozen=True, slots=True)
class _Defaults:
    field: str
    expires_at: int | None
    source: str
    note: str


def moment_of(text: str) -> int:
    """UTC microseconds of an RFC 3339 moment with its zone; raises ValueError.

    >>> moment_of("2026-01-31T12:00:00Z")
    1769860800000000
    """
    try:
        return to_micros(msgspec.convert(text.strip(), type=_Moment))
    except (msgspec.ValidationError, OverflowError):
        raise ValueError("is no moment with its zone, like 2026-01-31T12:00:00Z") from None


def check_file(
    path: Path, values: ListValues, columns: Columns, listed_field: str
) -> tuple[int, tuple[str, ...]]:
    """How many rows ``path`` has, and the first mistakes in them. Raises Fatal, ListInvalid."""
    defaults = _Defaults(values.known(listed_field), None, "", "")
    rows, mistakes = 0, []
    for line, row in _rows(path, columns):
        rows += 1
        try:
            _entry(row, values, columns, defaults)
        except (ListInvalid, ValueError) as error:
            said = error.message if isinstance(error, ListInvalid) else str(error)
            mistakes.append(f"line {line}: {said}")
            if len(mistakes) == MOST_MISTAKES:
                break
    return rows, tuple(mistakes)


def import_file(
    path: Path,
    store: SqlListStore,
    values: ListValues,
    name: str,
    listed_field: str,
    *,
    by: str,
    reason: str,
    columns: Columns | None = None,
    expires_at: int | None = None,
    source: str = "import",
    note: str = "",
    remove: bool = False,
    progress: Callable[[Imported], None] = lambda so_far: None,
) -> Imported:
    """Put every value of the file into the list ``name`` (``remove``: take it out).

    ``expires_at`` (UTC microseconds), ``source`` and ``note`` are for rows that say nothing of their own. Raises Fatal
    for a file that is no CSV, ListInvalid, ListFull, RegistryUnavailable.
    """
    columns = columns or Columns()
    values.name(name)
    _, mistakes = check_file(path, values, columns, listed_field)
    if mistakes:
        return Imported(mistakes=mistakes)
    defaults = _Defaults(values.known(listed_field), expires_at, source, note)
    done = Imported(version=store.version())
    for portion in _portions(_entry(row, values, columns, defaults) for _, row in _rows(path, columns)):
        if remove:
            pairs = [(entry.field, entry.value) for entry in portion]
            changed = store.remove(name, pairs, by=by, reason=reason)
        else:
            changed = store.put(name, portion, by=by, reason=reason)
        done = done.plus(len(portion), changed)
        progress(done)
    return done


def _rows(path: Path, columns: Columns) -> Iterator[tuple[int, dict[str, str]]]:
    """Line number (from 1) and row; an empty line is none."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            if columns.value not in (reader.fieldnames or ()):
                raise Fatal(
                    f"{path.name} has no column {columns.value}",
                    remedy="give the file a first line with the columns' names, or name the column with --column",
                )
            for row in reader:
                # a short row has None where nothing stood, a long one the rest under None
                yield reader.line_num, {key: text or "" for key, text in row.items() if key is not None}
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        why = error.strerror if isinstance(error, OSError) else "it is no CSV in UTF-8"
        raise Fatal(f"{path.name} can not be read: {why}", remedy="name a CSV file in UTF-8") from error


def _entry(row: dict[str, str], values: ListValues, columns: Columns, defaults: _Defaults) -> NewEntry:
    """Raises ListInvalid, ValueError."""
    source, note = row.get(columns.source, ""), row.get(columns.note, "")
    if len(source) > MOST_SOURCE or len(note) > MOST_NOTE or "\0" in source + note:
        raise ValueError(f"source has at most {MOST_SOURCE} characters, note {MOST_NOTE}")
    ends = row.get(columns.expires_at, "")
    return NewEntry(
        field=defaults.field,
        value=values.value(defaults.field, row[columns.value]),
        expires_at=moment_of(ends) if ends.strip() else defaults.expires_at,
        source=source or defaults.source,
        note=note or defaults.note,
    )


def _portions(entries: Iterator[NewEntry]) -> Iterator[Sequence[NewEntry]]:
    portion: list[NewEntry] = []
    for entry in entries:
        portion.append(entry)
        if len(portion) == AT_ONCE:
            yield portion
            portion = []
    if portion:
        yield portion
