"""Expression features: a subset of CEL, compiled to operations on whole columns.

Syntax and precedence are CEL's (https://github.com/google/cel-spec), parsed by cel-python. Where we differ,
on purpose: every number is a double (``5 / 2`` is 2.5), missing values flow through as NaN and raise
nothing, a number other than 0 counts as true. docs/pipeline.md lists operators and functions.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from celpy.celparser import CELParseError, CELParser
from celpy.evaluation import celstr
from lark import Token, Tree
from lark.exceptions import LarkError

from domain.batch import Floats
from featurestore.expression_columns import Columns
from featurestore.expression_parts import Numbers, Part, coalesce_texts, constant, is_missing
from featurestore.expressions_ops import BINARY, FUNCTIONS, choose, equal_texts, logical_not, negate

__all__ = ["Expression", "ExpressionError", "compile_expression"]

MAX_CHARACTERS = 1000
MAX_NODES = 200
MAX_DEPTH = 40


class ExpressionError(ValueError):
    """A text is no expression over the given names; ``column`` is the 1-based character."""

    def __init__(self, message: str, remedy: str, column: int = 1) -> None:
        super().__init__(f"{message} Remedy: {remedy}")
        self.reason = f"at character {column}: {message}"
        self.remedy = remedy
        self.column = column


@dataclass(frozen=True, slots=True)
class Expression:
    """A compiled expression.

    ``names`` are the columns it reads, ``lists`` the lists and columns whose membership it asks for, ``cost`` what a
    row of it costs, in operations on a column of numbers.
    """

    text: str
    names: frozenset[str]
    _run: Numbers = field(repr=False, compare=False)
    lists: frozenset[tuple[str, str]] = frozenset()
    cost: int = 1

    def evaluate(self, columns: Mapping[str, Floats], strings: Mapping[str, Sequence[str | None]]) -> Floats:
        """The value of each row: float64[n], NaN where missing.

        ``columns`` holds fields and earlier features as float64[n], ``strings`` the fields of texts; both may
        hold more than is used. Raises KeyError when a used one is not there.
        """
        first = next(iter(self.names))
        return self.on(
            Columns(len(columns[first]) if first in columns else len(strings[first]), columns, strings)
        )

    def on(self, columns: Columns) -> Floats:
        """The same on ``columns``, which several expressions may share."""
        with np.errstate(all="ignore"):
            result = self._run(columns)
        # adding zero turns -0.0 into 0.0
        return np.broadcast_to(np.where(np.isfinite(result), result, np.nan) + 0.0, (columns.rows,)).copy()

    def holds(self, columns: Columns) -> npt.NDArray[np.bool_]:
        """Where :meth:`on` gives a number other than 0 (bool[n]); callers silence numpy's warnings themselves."""
        result = self._run(columns)
        # every expression reads a column, so this is one too
        found: npt.NDArray[np.bool_] = np.isfinite(result) & (result != 0.0)
        return found


def compile_expression(
    text: str, numbers: frozenset[str], strings: frozenset[str], listed: frozenset[str] | None = None
) -> Expression:
    """``text`` as an expression over number-like columns and columns of texts.

    ``listed``: names that may stand before ``in lists.NAME`` or ``in tags.NAME`` (None: nothing may); features know
    no lists, rules do.

    Raises ExpressionError (a ValueError) that says where, what and how to mend it.

    >>> e = compile_expression("amount / max(mean, 1.0)", frozenset({"amount", "mean"}), frozenset())
    >>> e.evaluate({"amount": np.array([6.0]), "mean": np.array([3.0])}, {}).tolist()
    [2.0]
    """
    if len(text) > MAX_CHARACTERS:
        raise ExpressionError(
            f"has {len(text):,} characters, the limit is {MAX_CHARACTERS:,}.",
            "Split it into several features.",
        )
    try:
        tree = CELParser().parse(text)
    except CELParseError as error:
        column = max(error.column or 1, 1)
        if getattr(getattr(error.__context__, "token", None), "type", "") == "$END":
            raise ExpressionError("ends too early.", _SYNTAX, len(text) + 1) from None
        raise ExpressionError("cannot be read from here.", _SYNTAX, column) from None
    except LarkError:
        raise ExpressionError("ends too early.", _SYNTAX, len(text) + 1) from None
    compiler = _Compiler(numbers, strings, listed)
    part = compiler.compile(tree)
    if part.numbers is None:
        raise ExpressionError("gives a text.", "Compare it: country == 'US'.", part.column)
    if not compiler.names and not compiler.lists:
        raise ExpressionError("uses no field or feature.", "Name at least one; a constant tells nothing.")
    return Expression(
        text=text,
        names=frozenset(compiler.names),
        _run=part.numbers,
        lists=frozenset(compiler.lists),
        cost=compiler.cost,
    )


_SYNTAX = "Check operators and brackets; texts go in quotes: country == 'US'."
_ONLY = "Operators: + - * / % == != < <= > >= && || ! ?: and in [..]. Functions: see docs/pipeline.md."


class _Compiler:
    def __init__(
        self, numbers: frozenset[str], strings: frozenset[str], listed: frozenset[str] | None
    ) -> None:
        self._numbers = numbers
        self._strings = strings
        self._listed = listed
        self._nodes = 0
        self._slow = 0
        self.names: set[str] = set()
        self.lists: set[tuple[str, str]] = set()

    @property
    def cost(self) -> int:
        """In operations on a column of numbers; what goes text by text costs a few times as much."""
        return self._nodes + _SLOW * self._slow

    def compile(self, node: Tree[Token], depth: int = 0) -> Part:
        # the grammar nests a dozen rules of one child around every literal: pass them without recursion
        while len(node.children) == 1 and node.data not in _LEAVES:
            inner = node.children[0]
            assert isinstance(inner, Tree)  # noqa: S101  # only leaves hold tokens
            node = inner
        self._nodes += 1
        column = getattr(node.meta, "column", 1)
        if self._nodes > MAX_NODES or depth > MAX_DEPTH:
            raise ExpressionError(
                "is too long or nests too deeply.", "Split it into several features.", column
            )
        rule = str(node.data)
        below = depth + 1
        if rule == "literal":
            return self._literal(node.children[0], column)
        if rule == "ident":
            return self._name(str(node.children[0]), column)
        if rule == "ident_arg":
            return self._call(node, column, below)
        if rule == "expr":
            parts = [self._number(child, below) for child in node.children]
            condition, yes, no = parts
            return Part(column, lambda c: choose(condition(c), yes(c), no(c)))
        if rule == "unary":
            operator, operand = node.children
            act = negate if _rule(operator) == "unary_neg" else logical_not
            value = self._number(operand, below)
            return Part(column, lambda c: act(value(c)))
        if rule in ("conditionaland", "conditionalor"):
            return self._binary(rule, node.children[0], node.children[1], column, below)
        if rule in ("relation", "addition", "multiplication"):
            left, right = node.children
            operator_rule = _rule(left)
            if operator_rule == "relation_in":
                return self._in(_child(left), right, column, below)
            return self._binary(operator_rule, _child(left), right, column, below)
        what = {"list_lit": "a list stands only after `in`", "map_lit": "maps are not supported"}.get(
            rule, "methods, members and indexes are not supported"
        )
        raise ExpressionError(f"{what}.", _ONLY, column)

    def _number(self, node: Any, depth: int) -> Numbers:
        part = self.compile(node, depth)
        if part.numbers is None:
            raise ExpressionError(
                "a text stands where a number is needed.", "Texts take only ==, != and in.", part.column
            )
        return part.numbers

    def _literal(self, token: Any, column: int) -> Part:
        kind, text = token.type, str(token)
        if kind == "BOOL_LIT":
            return constant(float(text == "true"), column)
        if kind in ("INT_LIT", "FLOAT_LIT"):
            try:
                value = float(int(text, 16)) if "0x" in text else float(text)
            except (OverflowError, ValueError):
                value = math.inf
            if not math.isfinite(value):
                raise ExpressionError(
                    "this number is too large.", "Numbers are doubles, up to 1.8e308.", column
                )
            return constant(value, column)
        if kind in ("STRING_LIT", "MLSTRING_LIT"):
            word = str(celstr(token))
            return Part(column, texts=lambda c: [word] * c.rows, word=word)
        remedy = {
            "NULL_LIT": "Write is_missing(x) or coalesce(x, 0.0).",
            "UINT_LIT": "Write the number without u.",
        }.get(kind, "Write a text in quotes.")
        raise ExpressionError(f"{text[:20]} is not supported.", remedy, column)

    def _name(self, name: str, column: int) -> Part:
        if name in self._numbers:
            self.names.add(name)
            return Part(column, numbers=lambda c: c.numbers[name])
        if name in self._strings:
            self.names.add(name)
            return Part(column, texts=lambda c: c.texts[name], name=name)
        known = sorted(self._numbers | self._strings)
        remedy = _nearest(name, known) or (
            f"Known here: {', '.join(known[:12])}{' ...' if len(known) > 12 else ''}. "
            "Features must be declared above; sensitive fields cannot be used."
        )
        raise ExpressionError(f"there is no field or earlier feature {name!r}.", remedy, column)

    def _binary(self, rule: str, left: Any, right: Any, column: int, depth: int) -> Part:
        if rule in ("relation_eq", "relation_ne"):
            one, other = self.compile(left, depth), self.compile(right, depth)
            if (one.texts is None) != (other.texts is None):
                raise ExpressionError(
                    "compares a text with a number.", "Compare values of the same kind.", other.column
                )
            return self._equality(one, other, column, negated=rule == "relation_ne")
        a, b = self._number(left, depth), self._number(right, depth)
        operation = BINARY[rule]
        return Part(column, lambda c: operation(a(c), b(c)))

    def _equality(self, one: Part, other: Part, column: int, *, negated: bool = False) -> Part:
        if one.texts is not None and other.texts is not None:
            if (name := one.name or other.name) and (word := other.word or one.word):
                # most comparisons of texts are of a field with a word
                if negated:
                    return Part(column, lambda c: logical_not(c.equals(name, word)))
                return Part(column, lambda c: c.equals(name, word))
            self._slow += 1
            x, y = one.texts, other.texts
            if negated:
                return Part(column, lambda c: logical_not(equal_texts(x(c), y(c))))
            return Part(column, lambda c: equal_texts(x(c), y(c)))
        assert one.numbers is not None  # noqa: S101
        assert other.numbers is not None  # noqa: S101
        a, b = one.numbers, other.numbers
        operation = BINARY["relation_ne" if negated else "relation_eq"]
        return Part(column, lambda c: operation(a(c), b(c)))

    def _in(self, left: Any, right: Any, column: int, depth: int) -> Part:
        listing = right
        while isinstance(listing, Tree) and len(listing.children) == 1 and listing.data != "list_lit":
            listing = listing.children[0]
        if self._listed is not None and (name := _list_name(listing)) is not None:
            return self._in_list(left, name, column)
        value = self.compile(left, depth)
        if not isinstance(listing, Tree) or listing.data != "list_lit" or not listing.children:
            raise ExpressionError(
                "after `in` stands no list.", "Write for example country in ['US', 'FR'].", column
            )
        answers: list[Numbers] = []
        members = [self.compile(item, depth) for item in _child(listing, tree=True).children]
        words = frozenset(member.word for member in members if member.word)
        if (column_of := value.name) is not None and all(member.word for member in members):
            return Part(column, lambda c: c.among(column_of, words))
        for member in members:
            if (member.texts is None) != (value.texts is None):
                raise ExpressionError(
                    "the list mixes texts and numbers.", "Compare values of the same kind.", member.column
                )
            equal = self._equality(value, member, member.column).numbers
            assert equal is not None  # noqa: S101
            answers.append(equal)
        either = BINARY["conditionalor"]

        def run(columns: Columns) -> Floats:
            result = answers[0](columns)
            for answer in answers[1:]:
                result = either(result, answer(columns))
            return result

        return Part(column, run)

    def _in_list(self, left: Any, list_name: str, column: int) -> Part:
        """``left``, the name of a text or an entity, in a list that people keep."""
        node = left
        while isinstance(node, Tree) and len(node.children) == 1 and node.data != "ident":
            node = node.children[0]
        name = str(node.children[0]) if isinstance(node, Tree) and node.data == "ident" else ""
        known = sorted(self._listed or ())
        if name not in known:
            remedy = (name and _nearest(name, known)) or f"Lists hold values of: {', '.join(known)}."
            what = (
                f"lists hold no values of {name!r}." if name else "only a field can be looked up in a list."
            )
            raise ExpressionError(what, remedy, getattr(left.meta, "column", column))
        self._slow += 1
        self.lists.add((list_name, name))
        return Part(column, lambda c: c.members[list_name, name])

    def _call(self, node: Tree[Token], column: int, depth: int) -> Part:
        name = str(node.children[0])
        arguments = list(_child(node, 1, tree=True).children) if len(node.children) > 1 else []
        if name == "is_missing":
            least, most = 1, 1
        elif name in FUNCTIONS:
            least, most, _ = FUNCTIONS[name]
        else:
            known = sorted([*FUNCTIONS, "is_missing"])
            remedy = _nearest(name, known) or f"Functions are {', '.join(known)}."
            raise ExpressionError(f"there is no function {name}().", remedy, column)
        if not least <= len(arguments) <= most:
            wanted = str(least) if least == most else f"{least} to {most}"
            raise ExpressionError(f"{name}() has {len(arguments)} argument(s).", f"Give it {wanted}.", column)
        parts = [self.compile(argument, depth) for argument in arguments]
        if name == "is_missing":
            return is_missing(parts[0], column)
        if name == "coalesce" and all(part.texts is not None for part in parts):
            return coalesce_texts([part.texts for part in parts if part.texts is not None], column)
        for part in parts:
            if part.numbers is None:
                raise ExpressionError(
                    f"{name}() takes numbers.", "Texts take only ==, != and in.", part.column
                )
        values = [part.numbers for part in parts if part.numbers is not None]
        function = FUNCTIONS[name][2]
        return Part(column, lambda c: function(*(value(c) for value in values)))


_SLOW = 10
"""What an operation that goes text by text costs more than one on numbers."""
_LISTS = {"lists": "", "tags": "tag:"}
"""Words for lists in expressions, and how names of those lists begin."""
_LEAVES = {"literal", "ident", "ident_arg", "dot_ident", "dot_ident_arg", "list_lit", "map_lit"}


def _list_name(node: Any) -> str | None:
    """The list that ``lists.NAME`` or ``tags.NAME`` names."""
    if not isinstance(node, Tree) or node.data != "member_dot":
        return None
    room, name = node.children
    while isinstance(room, Tree) and len(room.children) == 1:
        room = room.children[0]
    prefix = _LISTS.get(str(room))
    return None if prefix is None else prefix + str(name)


def _rule(node: Any) -> str:
    return str(node.data)


def _child(node: Any, index: int = 0, *, tree: bool = False) -> Any:
    child = node.children[index]
    if tree and not isinstance(child, Tree):
        raise TypeError("the grammar of cel-python has changed")
    return child


def _nearest(name: str, known: Sequence[str]) -> str | None:
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    return f"Did you mean {close[0]!r}?" if close else None
