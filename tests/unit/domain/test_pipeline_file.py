from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import jsonschema
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ruamel.yaml import YAML

from domain.durations import format_duration, parse_duration
from domain.errors import PipelineInvalid, Problem, ServiceMissing
from domain.pipeline import (
    Aggregate,
    AggregateFeature,
    Cost,
    Explore,
    FieldType,
    Guards,
    Threshold,
    ValueFeature,
)
from domain.pipeline_features import _suggest_hop
from domain.pipeline_file import json_schema, load_pipeline, parse_pipeline
from tests.unit.domain.samples import EXAMPLES, PAYMENTS, payments


class Trees(msgspec.Struct, forbid_unknown_fields=True):
    trees: Annotated[int, msgspec.Meta(ge=1, le=500)] = 25
    limits: dict[str, float] | None = None
    pairs: list[str] = []

    def named_features(self) -> list[tuple[str, str]]:
        return [("pairs", name) for name in self.pairs]

    def __post_init__(self) -> None:
        if self.trees == 13:
            raise ValueError("13 is unlucky")


KINDS: dict[str, type[msgspec.Struct]] = {"half_space_trees": Trees}


def problems(
    text: str, check: Callable[[str, frozenset[str], frozenset[str]], object] | None = None
) -> list[Problem]:
    with pytest.raises(PipelineInvalid) as caught:
        parse_pipeline(text, "p.yaml", kinds=KINDS, check_expression=check)
    return list(caught.value.problems)


def change(old: str, new: str) -> str:
    assert old in PAYMENTS
    return PAYMENTS.replace(old, new, 1)


def line_of(text: str, part: str) -> int:
    return next(i for i, line in enumerate(text.splitlines(), start=1) if part in line)


@pytest.mark.parametrize("name", ["payments", "handbook", "logins"])
def test_the_examples_are_valid_with_fifteen_features_over_two_entities(name: str) -> None:
    path = EXAMPLES / name / "pipeline.yaml"
    pipeline = load_pipeline(path)
    assert len(pipeline.features) == 15
    assert len(pipeline.entities) == 2
    schema = jsonschema.Draft202012Validator(json_schema())
    schema.check_schema(schema.schema)
    schema.validate(YAML(typ="safe").load(path.read_text()))


def test_defaults_and_values_arrive_in_the_declaration() -> None:
    pipeline = payments()
    event = pipeline.event
    assert (event.max_lateness, event.max_future) == (parse_duration("1h"), parse_duration("5m"))
    assert (event.dedupe_window, event.max_bytes) == (parse_duration("10m"), 65_536)
    assert event.field("amount").maximum == 1000.0
    assert event.field("shop").maximum == 1e15
    assert event.field("shop").source == "Shop Id"
    assert event.field("at").type is FieldType.TIMESTAMP
    assert pipeline.entities == ("account", "shop")
    assert pipeline.features[0] == ValueFeature(name="amount", field="amount")
    counted = pipeline.features[1]
    assert isinstance(counted, AggregateFeature)
    assert counted.hop == parse_duration("30m")


def test_rules_and_exploration_are_read() -> None:
    text = change("{budget: 0.01}", "{budget: 0.01}\n  explore: {share: 0.02, instead: allow}")
    pipeline = parse_pipeline(text + "\nrules: [rules.yaml, more.yaml]\n", "a.yaml")
    assert pipeline.rules == ("rules.yaml", "more.yaml")
    assert pipeline.decision.explore == Explore(share=0.02, instead="allow")
    # files with rules change no verdict by themselves, exploration does
    assert parse_pipeline(text, "a.yaml").digest == pipeline.digest
    assert pipeline.digest != parse_pipeline(PAYMENTS, "a.yaml").digest


def test_a_digest_is_for_ever() -> None:
    """Snapshots of detectors carry it: what it is made of may grow, but not for files that do not use the new."""
    known = "8582ccbbc3ea692649fefaa874398f8d59c2843ac008a83c059182ed6a1fec34"
    assert parse_pipeline(PAYMENTS, "a.yaml").digest == known


def test_the_digest_covers_every_part_and_nothing_else() -> None:
    pipeline = parse_pipeline(PAYMENTS, "a.yaml")
    assert len(pipeline.digest) == 64
    assert parse_pipeline("# comment\n" + PAYMENTS, "b.yaml").digest == pipeline.digest
    assert parse_pipeline(change("0.01", "0.02"), "a.yaml").digest != pipeline.digest


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{precision: 0.9}", Threshold(precision=0.9)),
        ("{capacity: 100/d}", Threshold(per_day=100.0)),
        ("{capacity: {per_day: 2.5}}", Threshold(per_day=2.5)),
        ("{cost: {false_alarm: 5, missed: 80}}", Threshold(cost=Cost(false_alarm=5.0, missed=80.0))),
        (
            "{cost: {false_alarm: 0, missed: amount, capacity: 100 / d}}",
            Threshold(cost=Cost(false_alarm=0.0, missed="amount", per_day=100.0)),
        ),
    ],
)
def test_each_kind_of_threshold_arrives(text: str, expected: Threshold) -> None:
    changed = change("{budget: 0.01}", text)
    assert parse_pipeline(changed, "p.yaml").decision.review == expected
    schema = jsonschema.Draft202012Validator(json_schema())
    assert schema.is_valid(YAML(typ="safe").load(changed))


@pytest.mark.parametrize(
    ("text", "expected"),
    [("{teach_per_entity: 2.5}", 2.5), ("{teach_per_entity: off}", None), ("{}", 4.0)],
)
def test_guards_are_on_unless_switched_off(text: str, expected: float | None) -> None:
    assert parse_pipeline(PAYMENTS, "p.yaml").guards == Guards(teach_per_entity=4.0)
    changed = change("decision:\n", f"guards: {text}\ndecision:\n")
    assert parse_pipeline(changed, "p.yaml").guards.teach_per_entity == expected
    schema = jsonschema.Draft202012Validator(json_schema())
    assert schema.is_valid(YAML(typ="safe").load(changed))


def test_every_mistake_is_reported_at_once_with_its_line() -> None:
    text = (
        change("version: 2", "versoin: 2")
        .replace("maximum: 1000}", "maximum: -1}")
        .replace("value: amount", "value: amout")
        .replace("entity: shop", "entity: shap")
        .replace("kind: half_space_trees", "kind: half_space_tree")
        .replace("budget: 0.01", "budget: 1.5")
    )
    found = problems(text)
    assert [p.path for p in found] == [
        "versoin",
        "event.fields.amount.minimum",
        "features.amount.value",
        "features.shop_count.entity",
        "detectors.hst.kind",
        "decision.review.budget",
    ]
    for problem, part in zip(
        found, ["versoin", "maximum: -1", "amout", "shap", "space_tree}", "1.5"], strict=True
    ):
        assert problem.line == line_of(text, part)
        assert problem.remedy
    assert "'version'" in found[0].remedy
    assert "'amount'" in found[2].remedy
    assert "'half_space_trees'" in found[4].remedy
    assert found[2].column == text.splitlines()[found[2].line - 1].index("amout") + 1


FEATURE = "  shop_count: {entity: shop, aggregate: count, window: 1d}\n"
X, HST = "a feature x instead of the last one", "one more key for the detector"


@pytest.mark.parametrize(
    ("old", "new", "path", "reason"),
    [
        ("pipeline: payments", "pipeline: Pay", "pipeline", "not a valid name"),
        ("pipeline: payments\n", "", "pipeline", "is missing"),
        ("version: 2", "version: 0", "version", "out of range"),
        ("version: 2", "version: true", "version", "whole number"),
        ("  id: id\n", "  id: nope\n", "event.id", "no field"),
        ("  id: id\n", "  id: amount\n", "event.id", "of type number"),
        ("  id: id\n", "  id: account\n", "event", "three different"),
        ("  time: at\n", "  time: id\n", "event.time", "of type string"),
        ("  key: account\n", "  key: channel\n", "event.key", "not required"),
        ("  key: account\n", "  key: account\n  max_lateness: 3\n", "event.max_lateness", "duration"),
        ("  key: account\n", "  key: account\n  late: maybe\n", "event.late", "not a choice"),
        (
            "{type: timestamp}",
            "{type: timestamp, timezone: Mars/Base}",
            "event.fields.at.timezone",
            "no time zone",
        ),
        ("{type: timestamp}", "{type: timestamp, minimum: 1}", "event.fields.at.minimum", "no meaning"),
        ("unit: s}", "unit: s, timezone: UTC}", "event.fields.opened.timezone", "UTC"),
        (
            "{type: boolean,",
            "{type: boolean, sensitive: true,",
            "event.fields.online.sensitive",
            "no meaning",
        ),
        ("Shop Id", "amount", "event.fields.amount", "both read"),
        ("Shop Id", "'a\"b'", "event.fields.shop.source", "no quotation mark"),
        ("maximum: 1000}", "maximum: 0x" + "f" * 9000 + "}", "event.fields.amount.maximum", "cannot be read"),
        ("maximum: 1000}", "maximum: " + "9" * 300 + "}", "event.fields.amount.maximum", "out of range"),
        ("values: [web, till]", "values: [web, 1]", "event.fields.channel.values", "not a text"),
        ("    amount: {", "    Amount: {type: number}\n    amount: {", "event.fields.Amount", "valid name"),
        ("    amount: {", "    in: {type: number}\n    amount: {", "event.fields.in", "reserved"),
        (X, "{entity: shop, aggregate: rate, window: 1d}", "x.of", "is missing"),
        (X, "{entity: shop, aggregate: rate, of: amount, window: 1d}", "x.of", "labelled events"),
        (X, "{entity: shop, aggregate: rate, of: label}", "x.window", "is missing"),
        (
            X,
            "{entity: shop, aggregate: rate, of: label, window: 1d, include_current: false}",
            "x.include_current",
            "earlier",
        ),
        (X, "{entity: shop, aggregate: decayed_sum, of: amount}", "x.half_life", "is missing"),
        (X, "{entity: shop, aggregate: decayed_sum, half_life: 1d}", "x.of", "is missing"),
        (X, "{entity: shop, aggregate: decayed_count, of: amount, half_life: 1d}", "x.of", "counts events"),
        (X, "{entity: shop, aggregate: decayed_count, half_life: 1d, window: 1d}", "x.window", "no window"),
        (X, "{entity: shop, aggregate: count, window: 1d, half_life: 1d}", "x.half_life", "does not decay"),
        (X, "{entity: shop, aggregate: count, window: 1d, q: 0.5}", "x.q", "takes no q"),
        (X, "{entity: shop, aggregate: quantile, of: amount, window: 1d}", "x.q", "is missing"),
        (X, "{entity: shop, aggregate: quantile, of: amount, window: 1d, q: 1}", "x.q", "between 0 and 1"),
        (X, "{entity: shop, aggregate: quantile, of: amount, window: 1d, q: 95}", "x.q", "out of range"),
        (
            X,
            "{entity: shop, aggregate: quantile, of: amount, q: 0.5, window: 6m}",
            "x.window",
            "limit is 400",
        ),
        (
            X,
            "{entity: shop, aggregate: median, of: amount, window: 1d}",
            "x.aggregate",
            "not built",
        ),
        (FEATURE, "  shop: {entity: shop, aggregate: count, window: 1d}\n", "features.shop", "called like"),
        (FEATURE, "  x: {value: channel}\n", "features.x.value", "of type string"),
        (FEATURE, "  x: {value: card}\n", "features.x.value", "sensitive integer"),
        (FEATURE, "  x: {value: amount, expression: amount}\n", "features.x", "value and expression"),
        (X, "{entity: channel, aggregate: count, window: 1d}", "x.entity", "of type string"),
        (X, "{entity: shop, aggregate: sum, window: 1d}", "x.of", "is missing"),
        (X, "{entity: shop, aggregate: sum, of: id, window: 1d}", "x.of", "of type string"),
        (X, "{entity: shop, aggregate: sum, of: amount}", "x.window", "is missing"),
        (X, "{entity: shop, aggregate: distinct, of: at, window: 1d}", "x.of", "timestamp"),
        (X, "{entity: shop, aggregate: distinct, of: id, window: 1d, delay: 1d}", "x.delay", "no delay"),
        (X, "{entity: shop, aggregate: seconds_since_last, of: amount}", "x.of", "event times"),
        (X, "{entity: shop, aggregate: last, of: amount, hop: 1h}", "x.hop", "takes no hop"),
        (
            X,
            "{entity: shop, aggregate: last, of: amount, include_current: true}",
            "x.include_current",
            "earlier",
        ),
        (
            X,
            "{entity: shop, aggregate: count, window: 1d, delay: 1d, include_current: true}",
            "x.include_current",
            "earlier",
        ),
        (X, "{entity: shop, aggregate: count, window: 1d, hop: 1h}", "x.hop", "window/48"),
        (X, "{entity: shop, aggregate: count, window: 1d, hop: 7m}", "x.hop", "does not divide the window"),
        (
            X,
            "{entity: shop, aggregate: count, window: 1d, delay: 45m}",
            "x.window",
            "does not divide the delay",
        ),
        (X, "{entity: shop, aggregate: count, window: 1d, hop: 30s}", "x.hop", "would be kept"),
        (X, "{entity: shop, aggregate: count, window: 12s}", "x.window", "would be kept"),
        (HST, "tree: 3", "hst.tree", "not a parameter"),
        (HST, "trees: 0", "hst.trees", ">= 1"),
        (HST, "limits: {a: x}", "hst.limits", "float"),
        (HST, "trees: 13", "hst", "unlucky"),
        (HST, "features: [amuont]", "hst.features", "not a feature"),
        ("{kind: half_space_trees}", "{kind: magic}", "detectors.hst.kind", "no kind of detector"),
        (HST, "needs: labels", "hst.needs", "learns without labels"),
        (HST, "pairs: [amuont]", "hst.pairs", "'amuont' is not a feature this detector sees"),
        (HST, "features: [shop_count], pairs: [amount]", "hst.pairs", "not a feature this detector sees"),
        ("  hst: {kind: half_space_trees}\n", "  {}\n", "detectors", "is empty"),
        ("{budget: 0.01}", "{precision: 1.0}", "decision.review.precision", "between 0 and 1"),
        ("{budget: 0.01}", "{score: 0.9}", "decision.review.score", "not built"),
        ("{budget: 0.01}", "{budget: 0.01, precision: 0.9}", "decision.review.precision", "beside budget"),
        ("{budget: 0.01}", "{capacity: 100}", "decision.review.capacity", "alerts a day"),
        ("{budget: 0.01}", "{capacity: {per_day: 0}}", "decision.review.capacity", "out of range"),
        ("{budget: 0.01}", "{cost: {false_alarm: 5}}", "decision.review.cost.missed", "missing"),
        (
            "{budget: 0.01}",
            "{cost: {false_alarm: 0, missed: 9}}",
            "decision.review.cost.false_alarm",
            "everything",
        ),
        (
            "{budget: 0.01}",
            "{cost: {false_alarm: 5, missed: at}}",
            "decision.review.cost.missed",
            "is no feature",
        ),
        ("{budget: 0.01}", "{precision: 0.9}\n  block: {precision: 0.8}", "decision.block", "not above"),
        ("{budget: 0.01}", "{budget: 0.01}\n  block: {budget: 0.01}", "decision.block", "not below"),
        ("decision:\n", "decision:\n  combine: staked\n", "decision.combine", "not a choice"),
        ("decision:\n", "lists: [trusted]\ndecision:\n", "lists", "not built"),
        ("decision:\n", "rules: rules.yaml\ndecision:\n", "rules", "must be a list"),
        ("decision:\n", "rules: [3]\ndecision:\n", "rules", "no name"),
        ("decision:\n", "rules: [a, a]\ndecision:\n", "rules", "twice"),
        (
            "{budget: 0.01}",
            "{budget: 0.01}\n  explore: {share: 0.9}",
            "decision.explore.share",
            "out of range",
        ),
        ("{budget: 0.01}", "{budget: 0.01}\n  explore: {}", "decision.explore.share", "is missing"),
        (
            "{budget: 0.01}",
            "{budget: 0.01}\n  explore: {share: 0.1, instead: block}",
            "decision.explore.instead",
            "not a choice",
        ),
        ("decision:\n", "guards: {teach: 4}\ndecision:\n", "guards.teach", "not a key"),
        (
            "decision:\n",
            "guards: {teach_per_entity: 0.5}\ndecision:\n",
            "guards.teach_per_entity",
            "out of range",
        ),
        (
            "decision:\n",
            "guards: {teach_per_entity: often}\ndecision:\n",
            "guards.teach_per_entity",
            "must be a number",
        ),
        ("version: 2", "version: 2\nversion: 3", "version", "stands here again"),
        ("version: 2", "version: !!python/object:os.system 2", "version", "tag"),
        ("{budget: 0.01}", "{<<: {budget: 0.01}}", "decision.review", "merge"),
    ],
)
def test_each_mistake_is_named(old: str, new: str, path: str, reason: str) -> None:
    if old == X:
        old, new, path = FEATURE, f"  x: {new}\n", f"features.{path}"
    elif old == HST:
        old, new, path = "half_space_trees", f"half_space_trees, {new}", f"detectors.{path}"
    found = problems(change(old, new))
    assert [p for p in found if p.path == path and reason in p.reason], [str(p) for p in found]
    assert all(p.remedy and p.line >= 1 and p.column >= 1 for p in found)


def test_one_mistake_gives_one_problem() -> None:
    assert len(problems(change("type: number", "type: numbr"))) == 2  # the type, and the value feature
    assert len(problems(change("window: 1d", "window: 1 day"))) == 1
    assert len(problems(change("    at: {type: timestamp}", "    at: {type: time}"))) == 1


def test_expressions_are_checked_against_fields_and_earlier_features() -> None:
    seen: list[tuple[str, frozenset[str], frozenset[str]]] = []

    class WrongError(ValueError):
        reason = "at character 3: nonsense."
        remedy = "Mend it."

    def check(text: str, numbers: frozenset[str], strings: frozenset[str]) -> None:
        seen.append((text, numbers, strings))
        if text == "bad":
            raise WrongError

    text = change(
        FEATURE, FEATURE + "  a: {expression: good}\n  b: {expression: bad}\n  c: {expression: a}\n"
    )
    found = problems(text, check)
    assert [(p.path, p.reason, p.remedy, p.line) for p in found] == [
        ("features.b.expression", "at character 3: nonsense.", "Mend it.", line_of(text, "bad"))
    ]
    fields = {"at", "shop", "amount", "online", "tries", "opened"}
    assert seen[0][1] == fields | {"shop_count"}
    assert seen[0][2] == {"id", "channel"}
    assert seen[2][1] == fields | {"shop_count", "a", "b"}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "empty"),
        ("[1, 2]", "must be a mapping"),
        ("a: [1, 2", "not valid YAML"),
        ("a: b: c", "not valid YAML"),
        ("a: \x00", "not valid YAML"),
        ("[" * 10_000, "nest deeper"),
        ("a: *missing", "not valid YAML"),
        ("a: [" + "x, " * 30_000 + "]", "more than"),
        ("# " + "x" * (1 << 20), "limit"),
        ("a: &a [x,x,x,x,x,x,x,x,x,x]\n" + "".join(
            f"{n}: &{n} [{','.join(['*' + m] * 10)}]\n" for m, n in zip("abcde", "bcdef", strict=True)
        ), "aliases expand"),
        ("a: &a [*a, *a]", "aliases expand"),
    ],
)  # fmt: skip
def test_hostile_and_broken_yaml_ends_in_a_problem(text: str, reason: str) -> None:
    found = problems(text)
    assert any(reason in p.reason for p in found), found[0]


def test_an_unquoted_expression_with_a_comma_gets_one_fitting_remedy() -> None:
    (found,) = problems(change(FEATURE, "  x: {expression: amount / max(tries, 1.0)}\n"))
    assert found.path == "features.x.expression"
    assert "quotes" in found.remedy


def test_limits_on_counts() -> None:
    many = "".join(f"    f{i}: {{type: number}}\n" for i in range(129))
    assert any("limit is 128" in p.reason for p in problems(change("    id: {", many + "    id: {")))


def test_files_that_cannot_be_read_name_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(ServiceMissing, match="pipeline init"):
        load_pipeline(tmp_path / "none.yaml")
    latin = tmp_path / "latin.yaml"
    latin.write_bytes(b"pipeline: a\nversion: \xe9\n")
    with pytest.raises(PipelineInvalid) as caught:
        load_pipeline(latin)
    assert caught.value.problems[0].line == 2


def test_aliases_may_be_used() -> None:
    text = (
        change("{type: boolean, required: false}", "&flag {type: boolean, required: false}")
        .replace("    tries:", "    other: *flag\n    tries:")
        .replace("Shop Id", "Shop")
    )
    assert parse_pipeline(text, "p").event.field("other").type is FieldType.BOOLEAN


def test_a_label_fed_rate_makes_the_pipeline_label_fed() -> None:
    feature = "  x: {entity: shop, aggregate: rate, of: label, window: 28d, delay: 7d}\n"
    pipeline = parse_pipeline(change(FEATURE, FEATURE + feature), "p.yaml")
    rate = pipeline.features[-1]
    assert isinstance(rate, AggregateFeature)
    assert (rate.aggregate, rate.of, rate.include_current) == (Aggregate.RATE, "label", False)
    assert (rate.window, rate.delay) == (parse_duration("28d"), parse_duration("7d"))
    assert pipeline.label_fed
    assert not payments().label_fed


def test_decayed_sums_and_quantiles_are_declared() -> None:
    features = (
        "  a: {entity: shop, aggregate: decayed_sum, of: amount, half_life: 1d}\n"
        "  b: {entity: shop, aggregate: decayed_count, half_life: 90s, include_current: false}\n"
        "  c: {entity: shop, aggregate: quantile, of: amount, q: 0.95, window: 30d, delay: 15h}\n"
    )
    text = change(FEATURE, FEATURE + features)
    a, b, c = parse_pipeline(text, "p.yaml").features[-3:]
    assert isinstance(a, AggregateFeature)
    assert isinstance(b, AggregateFeature)
    assert isinstance(c, AggregateFeature)
    assert (a.half_life, a.window, a.include_current) == (parse_duration("1d"), None, True)
    assert (b.half_life, b.of, b.include_current) == (parse_duration("90s"), None, False)
    assert (c.q, c.hop, c.include_current) == (0.95, parse_duration("15h"), False)
    jsonschema.Draft202012Validator(json_schema()).validate(YAML(typ="safe").load(text))


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 400), st.integers(0, 400))
def test_a_suggested_hop_is_right(window: int, delay: int) -> None:
    w, d = window * 60_000_000, delay * 60_000_000
    hop = _suggest_hop(w, d)
    assert hop is not None
    assert w % hop == 0
    assert d % hop == 0
    assert hop * 48 <= w
    assert parse_duration(format_duration(hop)) == hop


@settings(max_examples=50, deadline=None)
@given(st.data())
def test_no_damaged_file_raises_anything_else(data: st.DataObject) -> None:
    lines = PAYMENTS.splitlines()
    at = data.draw(st.integers(0, len(lines) - 1))
    column = data.draw(st.integers(0, len(lines[at])))
    inserted = data.draw(st.text(alphabet="{}[]:,&*!|>'\"\\-#?% \t\nab1.", max_size=4))
    lines[at] = lines[at][:column] + inserted + lines[at][column + data.draw(st.integers(0, 5)) :]
    try:
        pipeline = parse_pipeline("\n".join(lines), "p", kinds=KINDS)
    except PipelineInvalid as error:
        assert error.problems  # noqa: PT017
    else:
        schema = jsonschema.Draft202012Validator(json_schema())
        schema.validate(YAML(typ="safe").load("\n".join(lines)))
        assert pipeline.digest


@pytest.mark.parametrize(
    "damage",
    [
        lambda d: d.update(versoin=1),
        lambda d: d.pop("event"),
        lambda d: d["event"].pop("key"),
        lambda d: d["event"]["fields"]["amount"].update(type="numbr"),
        lambda d: d["event"]["fields"]["at"].update(minimum=1),
        lambda d: d["event"].update(max_lateness="soon"),
        lambda d: d["features"].update(x={"entity": "shop", "aggregate": "rate", "window": "1d"}),
        lambda d: d["features"].update(
            x={"entity": "shop", "aggregate": "rate", "of": "amount", "window": "1d"}
        ),
        lambda d: d["features"].update(x={"entity": "shop", "aggregate": "decayed_sum", "half_life": "1d"}),
        lambda d: d["features"].update(
            x={"entity": "shop", "aggregate": "quantile", "of": "amount", "window": "1d"}
        ),
        lambda d: d["features"].update(x={"entity": "shop", "aggregate": "sum", "window": "1d"}),
        lambda d: d["features"].update(x={"entity": "shop", "aggregate": "count"}),
        lambda d: d["features"].update(Bad={"value": "amount"}),
        lambda d: d["detectors"]["hst"].pop("kind"),
        lambda d: d["decision"].update(combine="staked"),
        lambda d: d["decision"]["review"].update(budget=2),
        lambda d: d["decision"]["review"].update(precision=0.9),
        lambda d: d["decision"].update(review={"capacity": "100/w"}),
        lambda d: d["decision"].update(review={"cost": {"missed": "amount"}}),
        lambda d: d.update(guards={"teach_per_entity": 0}),
        lambda d: d.update(rules=[]),
    ],
)
def test_the_json_schema_rejects_obvious_mistakes(damage: Callable[[Any], object]) -> None:
    document = YAML(typ="safe").load(PAYMENTS)
    schema = jsonschema.Draft202012Validator(json_schema())
    assert schema.is_valid(document)
    damage(document)
    assert not schema.is_valid(document)


def test_the_json_schema_describes_parameters_of_known_kinds() -> None:
    document = YAML(typ="safe").load(PAYMENTS)
    schema = jsonschema.Draft202012Validator(json_schema(KINDS))
    schema.check_schema(schema.schema)
    assert schema.is_valid(document)
    document["detectors"]["hst"]["trees"] = 0
    assert not schema.is_valid(document)
