"""Conditions of rules as columns: the same answers as cel-python gives row by row."""

from __future__ import annotations

import math
from typing import Any

import celpy
import numpy as np
import pytest
from celpy.evaluation import CELEvalError
from hypothesis import given, settings
from hypothesis import strategies as st

from domain.errors import RulesInvalid
from domain.pipeline import Pipeline
from domain.rule_records import Band, Rule, RuleAction, RuleMode, RuleSet, Typology
from featurestore.expression_columns import Columns
from scoring import rules as rules_module
from scoring.rules import CompiledRules, compile_rules
from tests.system.events import SMALL
from tidegate.loading import load

NAN = math.nan


@pytest.fixture(scope="module")
def pipeline() -> Pipeline:
    return load(SMALL)


def rule_set(*rules: Rule, typologies: tuple[Typology, ...] = (), epoch: int = 1) -> RuleSet:
    return RuleSet(epoch=epoch, rules=rules, typologies=typologies, changed_at=0, changed_by="t", reason="t")


def one(when: str, pipeline: Pipeline, **more: Any) -> CompiledRules:
    return compile_rules(rule_set(Rule(id="only", when=when, score_effect=0.1, **more)), pipeline)


# --- against cel-python's own evaluator -------------------------------------------------------------------

amounts = st.none() | st.floats(-1e6, 1e6, allow_nan=False).map(lambda v: round(v, 2))
shops = st.none() | st.sampled_from(["s1", "s2", "it's"])
accounts = st.sampled_from(["a1", "a2", "a3"])
rows_of = st.lists(st.tuples(amounts, amounts, shops, accounts), min_size=1, max_size=6)

numbers = st.sampled_from(["amount", "pieces", "score", "(amount + pieces)", "(amount * 2.0)", "(-pieces)"])
constant = st.floats(-100, 100, allow_nan=False).map(lambda v: f"({round(v, 1)!r})")
compared = st.tuples(numbers, st.sampled_from(["<", "<=", ">", ">=", "==", "!="]), numbers | constant)
texts = st.sampled_from(
    [
        "shop == 's1'",
        "'s2' != shop",
        "shop in ['s1', \"it's\"]",
        "shop in ['zz']",
        "shop == ''",
        "shop in ['', 's2']",
    ]
)
lists = st.sampled_from(["account in lists.trusted", "account in tags.vip", "shop in lists.trusted"])
atom = compared.map(" ".join) | texts | lists
condition = st.recursive(
    atom,
    lambda inner: (
        st.tuples(inner, st.sampled_from(["&&", "||"]), inner).map(lambda p: f"({p[0]} {p[1]} {p[2]})")
        | inner.map(lambda v: f"!({v})")
        | st.tuples(inner, inner, inner).map(lambda p: f"({p[0]} ? {p[1]} : {p[2]})")
    ),
    max_leaves=5,
)
TRUSTED, VIPS, TRUSTED_SHOPS = {"a1", "a2"}, {"a3"}, {"s1"}
environment = celpy.Environment()


def oracle(text: str, row: tuple[float | None, float | None, str | None, str]) -> bool:
    """What cel-python says of a row; an error, such as for a value that is not there, is no hit."""
    amount, pieces, shop, account = row
    double, string = celpy.celtypes.DoubleType, celpy.celtypes.StringType
    listed = {
        # cel-python has no lists apart by field: the text is asked by the name of its column
        "trusted": celpy.celtypes.ListType([string(v) for v in sorted(TRUSTED | TRUSTED_SHOPS)]),
    }
    context: dict[str, Any] = {
        "account": string(account),
        "score": double(0.25),
        "lists": celpy.celtypes.MapType({string(k): v for k, v in listed.items()}),
        "tags": celpy.celtypes.MapType({string("vip"): celpy.celtypes.ListType([string(v) for v in VIPS])}),
    }
    context |= {k: double(v) for k, v in (("amount", amount), ("pieces", pieces)) if v is not None}
    if shop is not None:
        context["shop"] = string(shop)
    try:
        return bool(
            environment.program(environment.compile(text)).evaluate(context) == celpy.celtypes.BoolType(True)
        )
    except CELEvalError:
        return False


def columns(rows: list[tuple[float | None, float | None, str | None, str]]) -> Columns:
    def number(place: int) -> Any:
        return np.array([NAN if row[place] is None else row[place] for row in rows], dtype=np.float64)

    def member(place: int, values: set[str]) -> Any:
        return np.array([float(row[place] in values) for row in rows])

    return Columns(
        len(rows),
        {"amount": number(0), "pieces": number(1), "score": np.full(len(rows), 0.25)},
        {"shop": [row[2] for row in rows]},
        {
            ("trusted", "account"): member(3, TRUSTED),
            ("tag:vip", "account"): member(3, VIPS),
            ("trusted", "shop"): member(2, TRUSTED_SHOPS),
        },
    )


@settings(max_examples=50, deadline=None)
@given(condition, rows_of)
def test_a_rule_hits_where_cel_python_says_true(
    text: str, rows: list[tuple[float | None, float | None, str | None, str]]
) -> None:
    if "shop in lists" in text:
        # None in a list is false here; in CEL the missing name is an error
        rows = [(amount, pieces, shop or "s9", account) for amount, pieces, shop, account in rows]
    compiled = one(text, load_once())
    outcome = compiled.evaluate(columns(rows))
    assert outcome.hits[0].tolist() == [oracle(text, row) for row in rows]
    alone = [compiled.evaluate(columns([row])).hits[0, 0] for row in rows]
    assert outcome.hits[0].tolist() == alone
    assert not outcome.failed


_LOADED: list[Pipeline] = []


def load_once() -> Pipeline:
    # hypothesis takes no fixture of a narrower scope than its own
    if not _LOADED:
        _LOADED.append(load(SMALL))
    return _LOADED[0]


# --- what is refused ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("when", "column", "reason", "remedy"),
    [
        ("amont > 3.0", 1, "no field", "'amount'"),
        ("amount > 3.0 &&", 16, "too early", "brackets"),
        ("account == 'x'", 1, "no field", ""),
        ("amount in lists.trusted", 1, "no values of 'amount'", "account"),
        ("(amount + 1.0) in lists.trusted", 1, "only a field", "account"),
        ("shop in listz.trusted", 1, "no list", "['US', 'FR']"),
        ("shop in lists", 1, "no list", "['US', 'FR']"),
        ("1.0 > 2.0", 1, "uses no field", "Name"),
        ("shop", 1, "gives a text", "Compare"),
        ("amount > " + "1.0 + " * 150 + "1.0", 1, "too long", "Split"),
        ("!" * 900 + "amount", 1, "too", "Split"),
    ],
)
def test_a_mistake_names_rule_column_reason_and_remedy(
    when: str, column: int, reason: str, remedy: str, pipeline: Pipeline
) -> None:
    with pytest.raises(RulesInvalid) as caught:
        one(when, pipeline)
    [problem] = caught.value.problems
    assert (problem.rule, problem.field) == ("only", "when")
    assert reason in problem.reason
    assert remedy in problem.remedy
    assert problem.column >= column


def test_every_mistake_is_found_and_disabled_rules_are_left_alone(pipeline: Pipeline) -> None:
    wrong = [Rule(id=name, when=f"{name}x > 1", score_effect=0.1) for name in ("a", "b")]
    off = Rule(id="c", when="((", score_effect=0.1, enabled=False)
    with pytest.raises(RulesInvalid) as caught:
        compile_rules(rule_set(*wrong, off), pipeline)
    assert [problem.rule for problem in caught.value.problems] == ["a", "b"]
    assert compile_rules(rule_set(off), pipeline).entries == ()


def test_a_set_that_costs_too_much_is_refused_by_its_dearest_rule(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    cheap = Rule(id="cheap", when="amount > 1.0", score_effect=0.1)
    dear = Rule(id="dear", when="shop in ['a', 'b', 'c', coalesce(shop, 'd')]", score_effect=0.1)
    cost = compile_rules(rule_set(cheap, dear), pipeline).cost
    assert cost > 2 * compile_rules(rule_set(cheap), pipeline).cost
    monkeypatch.setattr(rules_module, "MAX_COST", cost - 1)
    with pytest.raises(RulesInvalid, match=r"dear.*limit of all"):
        compile_rules(rule_set(cheap, dear), pipeline)


def test_what_the_model_said_is_not_mixed_up_with_a_field(pipeline: Pipeline) -> None:
    import msgspec

    from domain.pipeline import ValueFeature

    clash = msgspec.structs.replace(
        pipeline, features=(*pipeline.features, ValueFeature(name="score", field="amount"))
    )
    with pytest.raises(RulesInvalid, match="what the model said"):
        one("score > 0.5", clash)
    assert one("score > 0.5", pipeline).names == {"score"}


def test_conditions_are_compiled_once(pipeline: Pipeline) -> None:
    first = rule_set(*(Rule(id=f"r{n}", when=f"amount > {n}.0", score_effect=0.1) for n in range(5)))
    before = compile_rules(first, pipeline)
    again = compile_rules(first, pipeline, before=before)
    assert again == before
    assert all(again.expression(rule.when) is before.expression(rule.when) for rule in first.rules)


# --- what hits, and in which order -------------------------------------------------------------------------


def test_entries_stand_in_the_order_in_which_they_act(pipeline: Pipeline) -> None:
    def rule(name: str, action: RuleAction, **more: Any) -> Rule:
        return Rule(id=name, when="amount > 1.0", action=action, **more)

    compiled = compile_rules(
        rule_set(
            rule("z", RuleAction.NONE, score_effect=0.1),
            rule("shadow", RuleAction.ALLOW, mode=RuleMode.SHADOW, priority=99),
            rule("review", RuleAction.REVIEW, priority=9),
            rule("block_low", RuleAction.BLOCK, priority=-1),
            rule("block_b", RuleAction.BLOCK, priority=5),
            rule("block_a", RuleAction.BLOCK, priority=5),
            rule("allow", RuleAction.ALLOW),
        ),
        pipeline,
    )
    ids = [entry.id for entry in compiled.entries]
    assert ids == ["allow", "block_a", "block_b", "block_low", "review", "z", "shadow"]


def test_the_bits_of_an_effect_do_not_depend_on_the_order_of_the_file(pipeline: Pipeline) -> None:
    rules = [
        Rule(id=f"r{n}", when="amount > 1.0", score_effect=effect) for n, effect in enumerate((0.1, 0.2, 0.3))
    ]
    row = columns([(2.0, 1.0, "s1", "a1")])
    one_way, other = (
        compile_rules(rule_set(*r), pipeline).evaluate(row).effect for r in (rules, rules[::-1])
    )
    assert one_way.tobytes() == other.tobytes()
    assert one_way[0] == pytest.approx(0.6)


def test_a_typology_weighs_its_rules_into_bands(pipeline: Pipeline) -> None:
    of = "takeover"
    rules = (
        Rule(id="big", when="amount > 10.0", typology=of, weight=1.0),
        Rule(id="many", when="pieces > 5.0", typology=of, weight=2.0),
        Rule(id="watched", when="amount > 10.0", typology=of, weight=9.0, mode=RuleMode.SHADOW),
        Rule(id="off", when="amount > 10.0", typology=of, weight=9.0, enabled=False),
        Rule(id="other", when="amount > 10.0", score_effect=0.1, weight=9.0),
    )
    bands = (Band(low=1.0, reason="some"), Band(low=3.0, reason="much", action=RuleAction.BLOCK))
    live = Typology(id=of, bands=bands)
    rows = columns(
        [(5.0, 1.0, "s1", "a1"), (20.0, 1.0, "s1", "a1"), (5.0, 6.0, "s1", "a1"), (20.0, 6.0, "s1", "a1")]
    )

    def bands_of(typology: Typology) -> tuple[list[float], list[list[bool]]]:
        compiled = compile_rules(rule_set(*rules, typologies=(typology,)), pipeline)
        outcome = compiled.evaluate(rows)
        by_reason = {
            e.reason: outcome.hits[at].tolist() for at, e in enumerate(compiled.entries) if e.typology == 0
        }
        return outcome.scores[0].tolist(), [by_reason["some"], by_reason["much"]]

    assert bands_of(live) == ([0.0, 1.0, 2.0, 3.0], [[False, True, True, False], [False, False, False, True]])
    # one in shadow may count what is in shadow: nothing comes of it
    watching = Typology(id=of, bands=bands, mode=RuleMode.SHADOW)
    assert bands_of(watching)[0] == [0.0, 10.0, 2.0, 12.0]


def test_a_rule_that_fails_misses_only_the_rows_at_which_it_does(pipeline: Pipeline) -> None:
    class Moody(list[str]):
        """Columns of texts that cannot be read where the text is bad."""

        def __iter__(self) -> Any:
            return iter([self[at] for at in range(len(self))])

        def __getitem__(self, at: Any) -> Any:
            found = super().__getitem__(at)
            if isinstance(at, slice):
                return Moody(found)
            if found == "bad":
                raise ZeroDivisionError
            return found

    compiled = compile_rules(
        rule_set(
            Rule(id="text", when="shop == 's1'", score_effect=0.1),
            Rule(id="number", when="amount > 1.0", score_effect=0.2),
            Rule(id="gone", when="account in lists.lost", score_effect=0.4),
        ),
        pipeline,
    )
    three = Columns(3, {"amount": np.array([2.0, 2.0, 0.0])}, {"shop": Moody(["s1", "bad", "s1"])}, {})
    outcome = compiled.evaluate(three)
    ids = [entry.id for entry in compiled.entries]
    assert outcome.hits[ids.index("text")].tolist() == [True, False, True]
    assert outcome.hits[ids.index("number")].tolist() == [True, True, False]
    assert outcome.failed["text"].tolist() == [False, True, False]
    assert outcome.failed["gone"].all()
    assert "number" not in outcome.failed
