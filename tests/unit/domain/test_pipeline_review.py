"""The ``review:`` section: what it says, what it leaves out, and every mistake with line and remedy."""

from __future__ import annotations

from typing import Any

import jsonschema
import pytest
from ruamel.yaml import YAML

from domain.errors import PipelineInvalid
from domain.pipeline_file import json_schema, parse_pipeline
from domain.pipeline_review import ReviewSpec
from tests.unit.domain.samples import PAYMENTS

HOUR = 3_600_000_000


def with_review(text: str) -> str:
    return PAYMENTS + f"review: {text}\n"


def test_without_a_section_the_key_groups_and_a_field_called_amount_counts() -> None:
    pipeline = parse_pipeline(PAYMENTS, "p.yaml")
    assert pipeline.review is None
    assert pipeline.reviewing == ReviewSpec(amount="amount", group_by=pipeline.event.key, window=24 * HOUR)
    other = PAYMENTS.replace("amount", "sum_of_it")
    assert parse_pipeline(other, "p.yaml").reviewing.amount is None


def test_the_section_says_it_and_the_digest_does_not_know() -> None:
    text = with_review("{amount: amount, group_by: shop, window: 6h, reopen: 2h}")
    pipeline = parse_pipeline(text, "p.yaml")
    assert pipeline.reviewing == ReviewSpec(
        amount="amount", group_by="shop", window=6 * HOUR, reopen=2 * HOUR
    )
    assert pipeline.digest == parse_pipeline(PAYMENTS, "p.yaml").digest
    assert parse_pipeline(with_review("{reopen: never}"), "p.yaml").reviewing.reopen is None


@pytest.mark.parametrize(
    ("text", "path", "reason", "remedy"),
    [
        ("{amount: amuont}", "review.amount", "is no field of type number", "'amount'"),
        ("{amount: online}", "review.amount", "is no field of type number", "Known number fields"),
        ("{group_by: online}", "review.group_by", "is no entity", "Known entities"),
        ("{window: 0s}", "review.window", "out of range", "Choose from"),
        ("{reopen: sometimes}", "review.reopen", "is not a duration", "90s"),
        ("{windows: 1d}", "review.windows", "not a key", "window"),
        ("[amount]", "review", "must be a mapping", "amount: amount"),
    ],
)
def test_every_mistake_has_its_line_and_remedy(text: str, path: str, reason: str, remedy: str) -> None:
    with pytest.raises(PipelineInvalid) as caught:
        parse_pipeline(with_review(text), "p.yaml")
    [problem] = caught.value.problems
    assert (problem.path, problem.line) == (path, PAYMENTS.count("\n") + 1)
    assert reason in problem.reason
    assert remedy in problem.remedy


@pytest.mark.parametrize(
    ("review", "valid"),
    [
        ({"amount": "amount", "group_by": "shop", "window": "6h", "reopen": "2h"}, True),
        ({"reopen": "never"}, True),
        ({"reopen": "soon"}, False),
        ({"window": 3}, False),
        ({"amounts": "amount"}, False),
    ],
)
def test_the_json_schema_knows_the_section(review: dict[str, Any], valid: bool) -> None:
    document = YAML(typ="safe").load(PAYMENTS)
    schema = jsonschema.Draft202012Validator(json_schema())
    assert schema.is_valid({**document, "review": review}) is valid
