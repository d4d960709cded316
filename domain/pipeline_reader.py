"""Reading one section of the pipeline file: typed access that collects every mistake instead of raising."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterable, Sequence

from domain.durations import format_duration, parse_duration
from domain.errors import Problem
from domain.pipeline_yaml import Node

__all__ = ["MAX_DURATION", "RESERVED", "Report", "Section", "did_you_mean", "names_text"]

MAX_DURATION = parse_duration("3650d")

_NAME = re.compile(r"[a-z][a-z0-9_]{0,62}")
RESERVED = frozenset(
    {"true", "false", "null", "in", "as", "break", "const", "continue", "else", "for", "function", "if"}
    | {"import", "let", "loop", "package", "namespace", "return", "var", "void", "while"}
)


def names_text(names: Iterable[str], limit: int = 12) -> str:
    """Names for a message, cut after ``limit``."""
    listed = list(names)
    more = f" and {len(listed) - limit} more" if len(listed) > limit else ""
    return ", ".join(listed[:limit]) + more if listed else "(none)"


def did_you_mean(word: str, known: Iterable[str], what: str) -> str:
    """A remedy for a name that does not exist: the nearest known one, or all of them."""
    listed = list(known)
    close = difflib.get_close_matches(word, listed, n=1, cutoff=0.6)
    if close:
        return f"Did you mean {str(close[0])!r}?"
    return f"Known {what}: {names_text(listed)}."


class Report:
    """The mistakes found so far."""

    def __init__(self, problems: Iterable[Problem] = ()) -> None:
        self.problems = list(problems)

    def add(self, place: Node | tuple[int, int], path: str, reason: str, remedy: str) -> None:
        """Note a mistake at ``place``."""
        line, column = (place.line, place.column) if isinstance(place, Node) else place
        self.problems.append(Problem(line, column, path, reason, remedy))


class Section:
    """A mapping of the file. Each reader returns None (after a report) when the value is missing or wrong."""

    def __init__(self, node: Node, path: str, report: Report) -> None:
        self.node = node
        self.path = path
        self.report = report

    @classmethod
    def open(cls, node: Node, path: str, report: Report, example: str) -> Section | None:
        """The section at ``node``, or None with a report when it is not a mapping."""
        if node.kind == "mapping":
            return cls(node, path, report)
        report.add(
            node, path, f"must be a mapping, but is {node.described}.", f"Write for example {example}."
        )
        return None

    def at(self, key: str) -> str:
        """The path of ``key``."""
        return f"{self.path}.{key}" if self.path else key

    def has(self, key: str) -> bool:
        """Whether ``key`` is written in the file."""
        return key in self.node.mapping

    def place(self, key: str) -> tuple[int, int]:
        """Where ``key`` stands (or the section, when it is missing)."""
        return self.node.key_places.get(key, (self.node.line, self.node.column))

    def wrong(self, key: str, reason: str, remedy: str) -> None:
        """Report a mistake at ``key``."""
        place = self.node.mapping.get(key)
        self.report.add(place if place is not None else self.place(key), self.at(key), reason, remedy)

    def only(self, known: Sequence[str], not_built: dict[str, str] | None = None) -> None:
        """Report keys that are not known; ``not_built`` gives remedies for those that are only planned."""
        for key in self.node.mapping:
            if key in known:
                continue
            if not_built and key in not_built:
                self.report.add(self.place(key), self.at(key), f"{key!r} is not built yet.", not_built[key])
            else:
                remedy = did_you_mean(key, known, "keys here")
                self.report.add(self.place(key), self.at(key), f"{key!r} is not a key here.", remedy)

    def require(self, key: str, remedy: str) -> Node | None:
        """The value of ``key``, reported when missing."""
        node = self.node.mapping.get(key)
        if node is None or node.kind == "nothing":
            self.wrong(key, "is missing.", remedy)
            return None
        return node

    def section(self, key: str, example: str) -> Section | None:
        """The mapping under ``key``, which must be there."""
        node = self.require(key, f"Add {example}.")
        return None if node is None else Section.open(node, self.at(key), self.report, example)

    def text(self, key: str, remedy: str = "Write a text.") -> str | None:
        """The text under ``key``, which must be there."""
        node = self.require(key, remedy)
        if node is None:
            return None
        if node.kind != "text":
            self.wrong(key, f"must be a text, but is {node.described}.", remedy)
            return None
        return str(node.scalar)

    def flag(self, key: str, default: bool) -> bool:
        """True or false under ``key``."""
        node = self.node.mapping.get(key)
        if node is None:
            return default
        if not isinstance(node.scalar, bool):
            self.wrong(key, f"must be true or false, but is {node.described}.", "Write true or false.")
            return default
        return node.scalar

    def number(self, key: str, low: float, high: float, default: float | None) -> float | None:
        """A finite number within [low, high]."""
        node = self.node.mapping.get(key)
        if node is None:
            return default
        value = node.scalar
        if isinstance(value, bool) or not isinstance(value, int | float):
            self.wrong(key, f"must be a number, but is {node.described}.", "Write a number without quotes.")
            return default
        if isinstance(value, float) and not math.isfinite(value):
            self.wrong(key, "must be finite.", f"Choose a number from {low:,} to {high:,}.")
            return default
        if not low <= value <= high:
            self.wrong(
                key, f"{node.described} is out of range.", f"Choose a number from {low:,} to {high:,}."
            )
            return default
        return float(value)

    def integer(self, key: str, low: int, high: int, default: int) -> int:
        """A whole number within [low, high]."""
        node = self.node.mapping.get(key)
        if node is None:
            return default
        value = node.scalar
        remedy = f"Choose a whole number from {low:,} to {high:,}."
        if isinstance(value, bool) or not isinstance(value, int):
            self.wrong(key, f"must be a whole number, but is {node.described}.", remedy)
            return default
        if not low <= value <= high:
            self.wrong(key, f"{value if abs(value) < 1 << 64 else 'the number'} is out of range.", remedy)
            return default
        return value

    def duration(self, key: str, default: int | None, low: int = 1) -> int | None:
        """A duration of at least ``low`` in microseconds; ``default`` when missing or wrong."""
        node = self.node.mapping.get(key)
        if node is None:
            return default
        example = "Write a number and a unit, such as 90s, 5m, 1h, 30d."
        if node.kind != "text":
            if node.kind == "number" and node.scalar == 0 and low == 0:
                return 0
            self.wrong(key, f"must be a duration, but is {node.described}.", example)
            return default
        try:
            micros = parse_duration(str(node.scalar))
        except (ValueError, OverflowError):
            self.wrong(key, f"{str(node.scalar)[:80]!r} is not a duration.", example)
            return default
        if not low <= micros <= MAX_DURATION:
            bounds = f"{format_duration(low)} to {format_duration(MAX_DURATION)}"
            self.wrong(key, f"{str(node.scalar)[:80]!r} is out of range.", f"Choose from {bounds}.")
            return default
        return micros

    def duration_or(self, key: str, default: str) -> int:
        """A duration of zero or more in microseconds; ``default`` (``1h``) when missing or wrong."""
        fallback = parse_duration(default)
        found = self.duration(key, fallback, low=0)
        return fallback if found is None else found

    def choice_or(self, key: str, options: Sequence[str], default: str) -> str:
        """One of ``options``; ``default`` when missing or wrong."""
        return self.choice(key, options, default) or default

    def choice(self, key: str, options: Sequence[str], default: str | None) -> str | None:
        """One of ``options``; with no default it must be there."""
        node = self.node.mapping.get(key)
        if node is None and default is not None:
            return default
        value = self.text(key, f"Choose one of: {names_text(options)}.")
        if value is not None and value not in options:
            self.wrong(key, f"{value[:80]!r} is not a choice.", did_you_mean(value, options, "choices"))
            return default
        return value if value is not None else default

    def entries(self, example: str, limit: int, what: str) -> list[tuple[str, Node]]:
        """The named entries of this section, names checked, at most ``limit``."""
        mapping = self.node.mapping
        if len(mapping) > limit:
            self.report.add(
                self.node, self.path, f"{len(mapping)} {what}, the limit is {limit}.", "Remove some of them."
            )
        if not mapping:
            self.report.add(self.node, self.path, "is empty.", f"Add for example {example}.")
        good = []
        for name, node in list(mapping.items())[:limit]:
            if not _NAME.fullmatch(name):
                self.report.add(
                    self.place(name),
                    self.at(name),
                    "is not a valid name.",
                    "Use a lower-case letter, then up to 62 lower-case letters, digits and underscores"
                    + (" (and put the name on the wire under `source`)." if what == "fields" else "."),
                )
            elif name in RESERVED:
                self.report.add(
                    self.place(name),
                    self.at(name),
                    "is a reserved word of expressions.",
                    "Choose another name.",
                )
            else:
                good.append((name, node))
        return good
