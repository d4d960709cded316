"""YAML to a tree of values that know their line and column; the only module that knows the YAML library.

Plain data only: no tags, no merge keys, every key a text and unique. Depth, size and the number of values are
bounded (aliases count as often as they are used), so a hostile file costs neither memory nor recursion.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.events import CollectionEndEvent, CollectionStartEvent
from ruamel.yaml.nodes import MappingNode, ScalarNode, SequenceNode

from domain.errors import Problem

__all__ = ["MAX_FILE_BYTES", "Node", "read_yaml"]

MAX_FILE_BYTES = 1 << 20
"""A pipeline file is written by hand; the largest sensible one is a fiftieth of this."""
MAX_DEPTH = 16
MAX_VALUES = 20_000

Scalar = str | int | float | bool | None
_KNOWN_TAGS = {"str", "int", "float", "bool", "null", "timestamp", "seq", "map"}


@dataclass(frozen=True, slots=True)
class Node:
    """A value of the file: exactly one of ``mapping``, ``items`` and ``scalar`` has a meaning (see ``kind``).

    ``key_places`` holds the (line, column) of each key of a mapping. Lines and columns count from 1.
    """

    line: int
    column: int
    kind: str
    """``mapping``, ``list``, ``text``, ``number``, ``flag`` or ``nothing``."""
    mapping: dict[str, Node]
    items: tuple[Node, ...]
    scalar: Scalar
    key_places: dict[str, tuple[int, int]]

    def plain(self) -> Any:
        """The value as plain Python objects."""
        if self.kind == "mapping":
            return {key: node.plain() for key, node in self.mapping.items()}
        if self.kind == "list":
            return [node.plain() for node in self.items]
        return self.scalar

    @property
    def described(self) -> str:
        """What it is, for messages: ``a list``, ``the text 'abc'``."""
        if self.kind == "text":
            return f"the text {str(self.scalar)[:80]!r}"
        if self.kind in ("number", "flag"):
            return str(self.plain()).lower()[:80]
        return {"mapping": "a mapping", "list": "a list", "nothing": "nothing"}[self.kind]


def read_yaml(text: str) -> tuple[Node | None, list[Problem]]:
    """The tree of ``text`` and what is wrong with it as YAML; no tree when it cannot be read at all."""
    size = len(text.encode("utf-8", "surrogatepass"))
    if size > MAX_FILE_BYTES:
        reason = f"the file has {size:,} bytes, the limit is {MAX_FILE_BYTES:,}."
        return None, [
            Problem(1, 1, "(file)", reason, "Split the pipeline, or remove what is not a pipeline.")
        ]
    try:
        too_deep = _check_shape(text)
        if too_deep is not None:
            return None, [too_deep]
        loader = YAML(typ="safe", pure=True)
        root = loader.compose(text)
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line, column = (mark.line + 1, mark.column + 1) if mark else (1, 1)
        reason = f"not valid YAML: {error.problem or error.context or 'cannot be read'}."
        return None, [Problem(line, column, "(file)", reason, _YAML_REMEDY)]
    except (YAMLError, ValueError) as error:
        reason = f"not valid YAML: {str(error)[:200]}."
        return None, [Problem(1, 1, "(file)", reason, _YAML_REMEDY)]
    if root is None:
        return None, [Problem(1, 1, "(file)", "the file is empty.", "Start from `tidegate pipeline init`.")]
    builder = _Builder(loader)
    return builder.build(root, "(file)"), builder.problems


_YAML_REMEDY = "Check indentation, quotes and brackets near this place; indent with spaces."


def _check_shape(text: str) -> Problem | None:
    depth = 0
    for count, event in enumerate(YAML(typ="safe", pure=True).parse(text), start=1):
        if isinstance(event, CollectionStartEvent):
            depth += 1
        elif isinstance(event, CollectionEndEvent):
            depth -= 1
        mark = event.start_mark
        if depth > MAX_DEPTH:
            reason = f"values nest deeper than {MAX_DEPTH} levels."
            return Problem(
                mark.line + 1, mark.column + 1, "(file)", reason, "No part of a pipeline needs this."
            )
        if count > MAX_VALUES:
            reason = f"the file holds more than {MAX_VALUES:,} values."
            return Problem(mark.line + 1, mark.column + 1, "(file)", reason, "No pipeline needs this many.")
    return None


class _Builder:
    def __init__(self, loader: YAML) -> None:
        self._construct = loader.constructor.construct_object
        self.problems: list[Problem] = []
        self._left = MAX_VALUES

    def _problem(self, node: Any, path: str, reason: str, remedy: str) -> None:
        self.problems.append(
            Problem(node.start_mark.line + 1, node.start_mark.column + 1, path, reason, remedy)
        )

    def build(self, node: Any, path: str, depth: int = 0) -> Node:
        line, column = node.start_mark.line + 1, node.start_mark.column + 1
        self._left -= 1
        empty = Node(line, column, "nothing", {}, (), None, {})
        if self._left < 0 or depth > MAX_DEPTH:
            if self._left == -1 or depth > MAX_DEPTH:
                self._left = min(self._left, -1)
                self._problem(node, path, "aliases expand to too many values.", "Write the values out.")
            return empty
        tag = str(node.tag).removeprefix("tag:yaml.org,2002:")
        if tag not in _KNOWN_TAGS:
            self._problem(node, path, f"the tag {node.tag} is not allowed.", "Use plain YAML values.")
            return empty
        if isinstance(node, MappingNode):
            return self._mapping(node, path, line, column, depth)
        if isinstance(node, SequenceNode):
            items = tuple(self.build(item, f"{path}[{i}]", depth + 1) for i, item in enumerate(node.value))
            return Node(line, column, "list", {}, items, None, {})
        return self._scalar(node, path, tag, line, column)

    def _mapping(self, node: MappingNode, path: str, line: int, column: int, depth: int) -> Node:
        mapping: dict[str, Node] = {}
        places: dict[str, tuple[int, int]] = {}
        for key, value in node.value:
            place = (key.start_mark.line + 1, key.start_mark.column + 1)
            if not isinstance(key, ScalarNode) or not key.value:
                self._problem(key, path, "a key is not a plain text.", "Use names as keys.")
                continue
            name = str(key.value)
            inner = name if path == "(file)" else f"{path}.{name}"
            if name == "<<" or str(key.tag).endswith(":merge"):
                self._problem(key, path, "merge keys (<<) are not supported.", "Write the keys out.")
            elif name in mapping:
                first = places[name][0]
                self._problem(
                    key,
                    inner,
                    f"the key {name!r} stands here again (first in line {first}).",
                    "Keep one of them.",
                )
            else:
                mapping[name] = self.build(value, inner, depth + 1)
                places[name] = place
        return Node(line, column, "mapping", mapping, (), None, places)

    def _scalar(self, node: ScalarNode, path: str, tag: str, line: int, column: int) -> Node:
        if tag in ("str", "timestamp"):
            return Node(line, column, "text", {}, (), str(node.value), {})
        try:
            value: Scalar = self._construct(node)
            if isinstance(value, int) and value.bit_length() > 1100:
                raise OverflowError  # longer than any double, and slow to print
        except (ValueError, OverflowError):
            self._problem(
                node, path, "this value cannot be read.", "Write a plain number or put it in quotes."
            )
            value = None
        kind = {"int": "number", "float": "number", "bool": "flag", "null": "nothing"}.get(tag, "nothing")
        return Node(line, column, kind if value is not None else "nothing", {}, (), value, {})
