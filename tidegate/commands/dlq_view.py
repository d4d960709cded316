"""How dead letters are shown: on a terminal without anything that could steer it, and as plain values for JSON.

Keys and values may hold card numbers (promise P7). Values and the event's own headers are shown only when asked
for. Of a pipeline with sensitive fields keys are shown as keyed hashes, the same as in verdicts: a record is often
dead because its key is not what it should be, so whether the key *field* is sensitive says nothing about the key.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from domain.clock import from_micros
from domain.privacy import Protector
from stream.dlq import DeadLetter

__all__ = ["Row", "letter_details", "letter_table", "letters_table", "row_of", "safe_text"]

_SHORT = 16
"""Characters of a key in the table."""
_LONG = 500
"""Characters of a header or a message."""
PAYLOAD_CHARACTERS = 4_000
"""Of a payload on the terminal; --raw has no limit."""


@dataclass(frozen=True, slots=True, order=True)
class Row:
    """One letter of a list, without its payload. Times are UTC microseconds; ``size`` is bytes of the value."""

    time: int
    partition: int
    offset: int
    values: Mapping[str, Any]


def safe_text(data: bytes | str, limit: int = _LONG) -> str:
    r"""``data`` with everything but printable characters escaped, cut after ``limit`` characters.

    >>> safe_text(b"caf\xc3\xa9 \x1b[2J\xff")
    'café \\x1b[2J\\xff'
    """
    # four bytes a character at most; what lies behind need not be looked at
    text = data[: 4 * limit].decode(errors="backslashreplace") if isinstance(data, bytes) else data
    shown: list[str] = []
    length = 0
    for char in text:
        piece = char if char.isprintable() else char.encode("unicode_escape").decode()
        if length + len(piece) > limit:
            break
        shown.append(piece)
        length += len(piece)
    cut = len(shown) < len(text) or (isinstance(data, bytes) and len(data) > 4 * limit)
    return "".join(shown) + ("…" if cut else "")


def row_of(letter: DeadLetter, redriven_at: int | None, protector: Protector | None) -> Row:
    """What a list shows of ``letter``; ``protector`` hashes keys, None leaves them readable."""
    origin = letter.origin
    values: dict[str, Any] = {
        "place": str(letter.place),
        "time": _when(letter.time),
        "reason": letter.reason,
        "field": None if origin is None or origin.field is None else safe_text(origin.field),
        **_key(letter, protector),
        "source": None if origin is None else str(origin.place),
        "source_topic": None if origin is None else safe_text(origin.topic),
        "source_time": None if origin is None else _when(origin.time),
        "size": None if letter.value is None else len(letter.value),
        "cut_from": None if origin is None else origin.cut_from,
        "redrives": letter.redrives,
        "redriven_from": None if letter.redriven_from is None else str(letter.redriven_from),
        "redriven_at": None if redriven_at is None else _when(redriven_at),
    }
    return Row(letter.time, letter.place.partition, letter.place.offset, values)


def letters_table(rows: list[Row], *, with_redriven: bool) -> Table:
    """``rows`` as a table."""
    columns = ["place", "time", "reason", "field", "key", "source", "bytes", "redrives"]
    table = Table(*columns, *(["redriven"] if with_redriven else []))
    for row in rows:
        values = row.values
        key = values["key"] if "key" in values else _hash_shown(values["key_hash"])
        cells = [values["place"], values["time"], values["reason"], values["field"], key, values["source"]]
        cells += [values["size"], values["redrives"] or None]
        if with_redriven:
            cells.append(values["redriven_at"])
        # Text: what stands in a record is never read as markup
        table.add_row(*(Text("" if cell is None else safe_text(str(cell), 40)) for cell in cells))
    return table


def letter_details(
    letter: DeadLetter, redriven_at: int | None, protector: Protector | None, *, payload: bool
) -> dict[str, Any]:
    """Everything about ``letter``; key, values of its own headers and payload only with ``payload``."""
    origin = letter.origin
    values = dict(row_of(letter, redriven_at, None if payload else protector).values)
    values["detail"] = None if origin is None else safe_text(origin.detail)
    values["remedy"] = None if origin is None else safe_text(origin.remedy)
    values["headers"] = [
        {"name": safe_text(name), "bytes": None if value is None else len(value)}
        | ({"value_base64": None if value is None else base64.b64encode(value).decode()} if payload else {})
        for name, value in letter.headers
    ]
    if payload:
        values["payload_base64"] = None if letter.value is None else base64.b64encode(letter.value).decode()
    return values


def letter_table(letter: DeadLetter, details: Mapping[str, Any], *, payload: bool) -> Group:
    """``details`` of ``letter`` for people."""
    grid = Table.grid(padding=(0, 2))
    key = details["key"] if "key" in details else _hash_shown(details["key_hash"])
    cut = "" if details["cut_from"] is None else f", cut from {details['cut_from']:,}"
    lines: list[tuple[str, str | None]] = [
        ("place", details["place"]),
        ("written", details["time"]),
        ("reason", details["reason"]),
        ("field", details["field"]),
        ("detail", details["detail"]),
        ("remedy", details["remedy"]),
        ("source", _source(details)),
        ("key", "none" if key is None else key),
        ("bytes", "none (a null value)" if letter.value is None else f"{len(letter.value):,}{cut}"),
        ("redriven", details["redriven_at"] or "no"),
    ]
    if details["redrives"]:
        lines.append(
            ("came back", f"{details['redrives']} time(s), the last time from {details['redriven_from']}")
        )
    for name, value in letter.headers:
        size = "null" if value is None else f"{len(value):,} byte(s)"
        shown = f": {safe_text(value)}" if payload and value is not None else ""
        lines.append(("header", f"{safe_text(name)}, {size}{shown}"))
    for name, line in lines:
        if line is not None:
            grid.add_row(Text(name, style="bold"), Text(line))
    if not payload:
        return Group(grid, Text("--payload shows payload, key and header values, --raw writes the bytes"))
    return Group(grid, Text(), Text(safe_text(letter.value or b"", PAYLOAD_CHARACTERS)))


def _source(details: Mapping[str, Any]) -> str | None:
    if details["source"] is None:
        return None
    return f"{details['source_topic']} {details['source']}, written {details['source_time']}"


def _key(letter: DeadLetter, protector: Protector | None) -> dict[str, str | None]:
    if protector is None:
        return {"key": None if letter.key is None else safe_text(letter.key)}
    if letter.key is None:
        return {"key_hash": None}
    return {"key_hash": protector.protect(letter.key.decode(errors="backslashreplace"))}


def _hash_shown(digest: str | None) -> str | None:
    return None if digest is None else f"#{digest[:_SHORT]}"


def _when(micros: int) -> str:
    try:
        return from_micros(micros).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    except (OverflowError, ValueError, OSError):  # a header can hold any number
        return f"{micros} us"
