"""What people write as rules: taken as it is, or refused with every mistake."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from domain.errors import RulesInvalid
from domain.rule_records import Band, Rule, RuleAction, RuleMode, RuleSet, Typology, read_rules

GOOD: dict[str, Any] = {
    "rules": [
        {"id": "big", "when": "amount > 900.0", "action": "review", "reason": "a large amount"},
        {
            "id": "new_device",
            "when": "device_count < 2.0",
            "typology": "takeover",
            "weight": 2,
            "mode": "shadow",
        },
        {
            "id": "night",
            "when": "hour(event_time) < 5.0",
            "score_effect": 0.25,
            "priority": 3,
            "enabled": False,
        },
    ],
    "typologies": [
        {
            "id": "takeover",
            "bands": [{"low": 1, "reason": "some"}, {"low": 2.5, "reason": "much", "action": "block"}],
        }
    ],
}


def test_rules_are_read_as_they_are_written() -> None:
    rules, typologies = read_rules(GOOD)
    assert [rule.id for rule in rules] == ["big", "new_device", "night"]
    assert rules[0] == Rule(
        id="big", when="amount > 900.0", action=RuleAction.REVIEW, reason="a large amount"
    )
    assert (rules[1].mode, rules[1].weight, rules[1].typology) == (RuleMode.SHADOW, 2.0, "takeover")
    assert (rules[2].score_effect, rules[2].enabled) == (0.25, False)
    bands = (Band(low=1.0, reason="some"), Band(low=2.5, reason="much", action=RuleAction.BLOCK))
    assert typologies == (Typology(id="takeover", bands=bands),)


def test_a_rule_set_survives_its_topic() -> None:
    rules, typologies = read_rules(GOOD)
    whole = RuleSet(
        epoch=3, rules=rules, typologies=typologies, changed_at=1, changed_by="ann", reason="first"
    )
    assert msgspec.json.decode(msgspec.json.encode(whole), type=RuleSet) == whole
    assert read_rules(msgspec.to_builtins({"rules": rules, "typologies": typologies})) == (rules, typologies)


@pytest.mark.parametrize(
    ("change", "rule", "field"),
    [
        ({"when": ""}, "big", "when"),
        ({"when": 3}, "big", "when"),
        ({"when": "a" * 1001}, "big", "when"),
        ({"reason": "\ud800"}, "big", "reason"),
        ({"action": "deny"}, "big", "action"),
        ({"action": ["allow"]}, "big", "action"),
        ({"action": "none"}, "big", "action"),
        ({"score_effect": 1.5}, "big", "score_effect"),
        ({"score_effect": float("nan")}, "big", "score_effect"),
        ({"priority": True}, "big", "priority"),
        ({"priority": 1.5}, "big", "priority"),
        ({"enabled": "yes"}, "big", "enabled"),
        ({"typology": "fishing"}, "big", "typology"),
        ({"weight": -1}, "big", "weight"),
        ({"colour": "red"}, "big", "colour"),
        ({"id": "night"}, "night", "id"),
        ({"id": "takeover"}, "takeover", "id"),
        ({"id": "Big"}, "rules[0]", "id"),
        ({"id": None}, "rules[0]", "id"),
    ],
)
def test_a_mistake_names_rule_and_key(change: dict[str, Any], rule: str, field: str) -> None:
    data = {**GOOD, "rules": [{**GOOD["rules"][0], **change}, *GOOD["rules"][1:]]}
    with pytest.raises(RulesInvalid) as caught:
        read_rules(data)
    (problem,) = caught.value.problems
    assert (problem.rule, problem.field) == (rule, field)
    assert problem.reason
    assert problem.remedy
    assert str(problem) in str(caught.value)


@pytest.mark.parametrize(
    ("bands", "field"),
    [
        ([], "bands"),
        ("x", "bands"),
        ([3], "bands[0]"),
        ([{"low": 0, "reason": "x"}], "bands[0].low"),
        ([{"low": 2, "reason": "x"}, {"low": 2, "reason": "y"}], "bands[1].low"),
        ([{"low": 2}], "bands[0].reason"),
    ],
)
def test_bands_rise_and_have_reasons(bands: Any, field: str) -> None:
    with pytest.raises(RulesInvalid) as caught:
        read_rules({"typologies": [{"id": "takeover", "bands": bands}]})
    assert field in [problem.field for problem in caught.value.problems]


@pytest.mark.parametrize(
    "data", [None, [], 3, {"rules": 3}, {"rules": [3]}, {"rulez": []}, {"rules": [{}] * 501}]
)
def test_what_is_no_rule_set_is_refused(data: Any) -> None:
    with pytest.raises(RulesInvalid):
        read_rules(data)


def test_every_mistake_is_listed() -> None:
    with pytest.raises(RulesInvalid) as caught:
        read_rules({"rules": [{"id": "a"}, {"id": "b", "when": "x > 1", "action": "stop"}]})
    assert {problem.rule for problem in caught.value.problems} == {"a", "b"}
