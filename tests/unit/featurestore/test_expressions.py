from __future__ import annotations

import math
from typing import Any

import celpy
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from domain.batch import Floats
from featurestore.expressions import ExpressionError, compile_expression

NUMBERS = frozenset({"a", "b", "t", "mean_7d"})
STRINGS = frozenset({"s", "r"})
NAN = math.nan


def run(text: str, **columns: list[Any]) -> list[float]:
    numbers = {k: np.array(v, dtype=np.float64) for k, v in columns.items() if k in NUMBERS}
    texts = {k: v for k, v in columns.items() if k in STRINGS}
    values: list[float] = compile_expression(text, NUMBERS, STRINGS).evaluate(numbers, texts).tolist()
    return values


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a / b", [NAN, 0.5, NAN, NAN]),
        ("a - -1 * 2", [3.0, 4.0, NAN, 2.0]),
        ("a-1", [0.0, 1.0, NAN, -1.0]),
        ("a + 5 / 2", [3.5, 4.5, NAN, 2.5]),
        ("-a % 2", [-1.0, 0.0, NAN, 0.0]),
        ("a % b", [NAN, 2.0, NAN, NAN]),
        ("a < b", [0.0, 1.0, NAN, 0.0]),
        ("a == b || a >= 2.0", [0.0, 1.0, NAN, 1.0]),
        ("a != 1 && b > 0", [0.0, 1.0, NAN, 0.0]),
        ("false && a > 1", [0.0, 0.0, 0.0, 0.0]),
        ("true || a > 1", [1.0, 1.0, 1.0, 1.0]),
        ("!a", [0.0, 0.0, NAN, 1.0]),
        ("a < b ? 10 : b", [0.0, 10.0, NAN, 0.0]),
        ("a in [1, 2.0]", [1.0, 1.0, NAN, 0.0]),
        ("a > 1 ? 1 : a > 0 ? 2 : 3", [2.0, 1.0, NAN, 3.0]),
        ("max(a, b, 3)", [3.0, 4.0, NAN, 3.0]),
        ("min(a, b)", [0.0, 2.0, NAN, 0.0]),
        ("abs(-a)", [1.0, 2.0, NAN, 0.0]),
        ("sqrt(a - 1)", [0.0, 1.0, NAN, NAN]),
        ("log(a)", [0.0, math.log(2.0), NAN, NAN]),
        ("exp(a * 1000)", [NAN, NAN, NAN, 1.0]),
        ("pow(b, 0.5)", [0.0, 2.0, math.sqrt(5.0), 0.0]),
        ("floor(a / 2)", [0.0, 1.0, NAN, 0.0]),
        ("is_missing(a)", [0.0, 0.0, 1.0, 0.0]),
        ("coalesce(a, b)", [1.0, 2.0, 5.0, 0.0]),
        ("coalesce(a / b, log(b), 7)", [7.0, 0.5, math.log(5.0), 7.0]),
        ("s == 'US'", [1.0, NAN, 0.0, 0.0]),
        ('s != "US"', [0.0, NAN, 1.0, 1.0]),
        ("s in ['US', 'FR']", [1.0, NAN, 1.0, 0.0]),
        ("s == r", [0.0, NAN, 1.0, NAN]),
        ("is_missing(s)", [0.0, 1.0, 0.0, 0.0]),
        ("coalesce(s, r, 'x') == 'FR' ? 1 : 0", [0.0, 1.0, 1.0, 0.0]),
        ("s == 'it\\'s'", [0.0, NAN, 0.0, 1.0]),
        ("b * 1e308 * 10 > 1", [0.0, NAN, NAN, 0.0]),
        ("a // the amount", [1.0, 2.0, NAN, 0.0]),
    ],
)
def test_values(text: str, expected: list[float]) -> None:
    got = run(
        text,
        a=[1.0, 2.0, NAN, 0.0],
        b=[0.0, 4.0, 5.0, -0.0],
        s=["US", None, "FR", "it's"],
        r=["FR", "FR", "FR", None],
    )
    np.testing.assert_array_equal(got, expected)
    assert not any(math.copysign(1.0, value) < 0.0 for value in got if value == 0.0)


def test_hours_and_weekdays_are_utc() -> None:
    monday = 1_522_627_199.0  # 2018-04-01T23:59:59Z, a Sunday; a second later it is Monday
    assert run("weekday(t)", t=[0.0, monday, monday + 1]) == [3.0, 6.0, 0.0]
    assert run("hour(t)", t=[0.0, monday, monday + 1]) == [0.0, 23.0, 0.0]
    assert run("weekday(t) >= 5 ? 1 : 0", t=[monday, NAN])[0] == 1.0


@pytest.mark.parametrize(
    ("text", "reason", "remedy"),
    [
        ("a +", "ends too early", "brackets"),
        ("(a", "ends too early", "brackets"),
        ("", "ends too early", "brackets"),
        ("a ++ b", "character 4", "brackets"),
        ("a = b", "character 3", "brackets"),
        ("1 + mean_7", "character 5: there is no field", "'mean_7d'"),
        ("zzz + 1", "no field", "Known here: a, b, mean_7d, r, s, t"),
        ("maxx(a, b)", "no function", "'max'"),
        ("has(a)", "no function", ""),
        ("max(a)", "1 argument", "2 to 16"),
        ("abs()", "0 argument", "1"),
        ("s + 1", "a text stands", "=="),
        ("s < 'b'", "a text stands", "=="),
        ("s == 1", "compares a text with a number", "same kind"),
        ("max(s, 1)", "takes numbers", "=="),
        ("coalesce(s, 1)", "takes numbers", "=="),
        ("a ? s : r", "a text stands", "=="),
        ("s", "gives a text", "Compare"),
        ("1.0", "uses no field", "Name"),
        ("a.b", "members", "Operators"),
        ("s.startsWith('x')", "methods", "Operators"),
        ("a in b", "no list", "['US', 'FR']"),
        ("a in []", "no list", "['US', 'FR']"),
        ("a in [1, 'x']", "mixes", "same kind"),
        ("[a]", "after `in`", "Operators"),
        ("{'k': a}", "maps", "Operators"),
        ("a == null", "null", "is_missing"),
        ("a + 1u", "1u", "without u"),
        ("a + 1e999", "too large", "1.8e308"),
        ("a" + " + a" * 249, "too long", "Split"),
        ("!" * 500 + "a", "too deep", "Split"),
        ("a" + " " * 1000, "limit is 1,000", "Split"),
    ],
)
def test_mistakes_say_where_and_how_to_mend_them(text: str, reason: str, remedy: str) -> None:
    with pytest.raises(ExpressionError) as caught:
        compile_expression(text, NUMBERS, STRINGS)
    assert reason in caught.value.reason
    assert remedy in caught.value.remedy
    assert f"at character {caught.value.column}: " in caught.value.reason


def test_names_are_those_used() -> None:
    assert compile_expression("s == 'a' ? mean_7d : a", NUMBERS, STRINGS).names == {"s", "mean_7d", "a"}


def test_brackets_alone_do_not_count_as_depth() -> None:
    assert run("(" * 400 + "a" + ")" * 400, a=[3.0]) == [3.0]


# --- against cel-python's own evaluator -------------------------------------------------------------------

doubles = st.floats(-1e6, 1e6, allow_nan=False).map(lambda v: round(v, 3))
leaf = st.sampled_from(["a", "b"]) | doubles.map(lambda v: f"({v!r})")


def _number(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    pairs = st.tuples(inner, st.sampled_from(["+", "-", "*"]), inner).map(lambda p: f"({p[0]} {p[1]} {p[2]})")
    chosen = st.tuples(_truth(inner), inner, inner).map(lambda p: f"({p[0]} ? {p[1]} : {p[2]})")
    # cel-python answers 0.0 < 0.0 / 0.0 with true: what we call missing has no oracle, so no division by zero
    divided = st.tuples(inner, doubles.filter(bool)).map(lambda p: f"({p[0]} / ({p[1]!r}))")
    return pairs | divided | chosen | inner.map(lambda v: f"(-{v})")


def _truth(number: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    operators = st.sampled_from(["<", "<=", ">", ">=", "==", "!="])
    compared = st.tuples(number, operators, number).map(lambda p: f"({p[0]} {p[1]} {p[2]})")
    listed = st.tuples(number, number, number).map(lambda p: f"({p[0]} in [{p[1]}, {p[2]}])")
    both = st.tuples(compared, st.sampled_from(["&&", "||"]), compared).map(
        lambda p: f"({p[0]} {p[1]} {p[2]})"
    )
    return compared | listed | both | compared.map(lambda v: f"!{v}")


numbers = st.recursive(leaf, _number, max_leaves=6)
environment = celpy.Environment()


@settings(max_examples=50, deadline=None)
@given(numbers | _truth(numbers), doubles, doubles)
def test_same_as_cel_python(text: str, a: float, b: float) -> None:
    assume("a" in text or "b" in text)
    program = environment.program(environment.compile(text))
    context = {"a": celpy.celtypes.DoubleType(a), "b": celpy.celtypes.DoubleType(b)}
    expected: Any = program.evaluate(context)
    assert run(text, a=[a], b=[b]) == [float(expected)]


def test_truth_tables_of_missing_follow_cel() -> None:
    left = [0.0, 0.0, 0.0, 1.0, 1.0, 1.0, NAN, NAN, NAN]
    right = [0.0, 1.0, NAN] * 3
    np.testing.assert_array_equal(run("a && b", a=left, b=right), [0, 0, 0, 0, 1, NAN, 0, NAN, NAN])
    np.testing.assert_array_equal(run("a || b", a=left, b=right), [0, 1, NAN, 1, 1, 1, NAN, 1, NAN])


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 67))
def test_cutting_a_batch_changes_no_bit(seed: int, cut: int) -> None:
    rng = np.random.default_rng(seed)
    matrix: Floats = rng.lognormal(0.0, 3.0, size=(68, 2))
    matrix[rng.random((68, 2)) < 0.1] = NAN
    text = "log(a) + exp(-b) * pow(a, 0.3) / max(sqrt(b), 0.1) + (a < b ? a % b : floor(a))"
    expression = compile_expression(text, NUMBERS, STRINGS)

    def evaluate(rows: Floats) -> bytes:
        return expression.evaluate({"a": rows[:, 0], "b": rows[:, 1]}, {}).tobytes()

    assert evaluate(matrix) == evaluate(matrix[:cut]) + evaluate(matrix[cut:])
    assert evaluate(matrix) == b"".join(evaluate(matrix[i : i + 1]) for i in range(68))
