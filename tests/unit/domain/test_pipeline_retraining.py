from __future__ import annotations

from typing import Any

import jsonschema
import pytest
from ruamel.yaml import YAML

from domain.durations import parse_duration
from domain.errors import PipelineInvalid
from domain.pipeline_file import json_schema, parse_pipeline
from domain.pipeline_retraining import RETRAINING_SCHEMA, GateRules, GuardRules, Retraining, ShadowRules
from tests.unit.domain.samples import PAYMENTS

FULL = """\
retraining:
  schedule: 7d
  on_drift: false
  cool_down: 12h
  min_labels: 400
  min_positive: 50
  label_maturity: 3d
  window: 30d
  max_rows: 5000
  search: true
  group_by: shop
  split: 0.1
  promote: person
  gate: {test: 0.4, margin: 0.01, level: 0.8, replicates: 200, min_positive: 30, max_ratio: 1.5,
         max_prevalence_ratio: 4, leaks: warn}
  shadow: {events: 700, time: 6h, max_failures: 0.01, max_alert_ratio: 2, patience: 2d}
  guards: {events: 600, time: 1d, max_alert_ratio: 2.5, max_failures: 0.02, max_latency_ratio: 4,
           min_precision_ratio: 0.25}
"""


def read(text: str) -> Retraining | None:
    return parse_pipeline(PAYMENTS + text, "p.yaml").retraining


def test_a_pipeline_without_the_section_trains_nothing() -> None:
    assert read("") is None


def test_every_setting_arrives() -> None:
    hour, day = parse_duration("1h"), parse_duration("1d")
    assert read(FULL) == Retraining(
        schedule=7 * day,
        on_drift=False,
        cool_down=12 * hour,
        min_labels=400,
        min_positive=50,
        label_maturity=3 * day,
        window=30 * day,
        max_rows=5000,
        search=True,
        group_by="shop",
        split=0.1,
        promote="person",
        gate=GateRules(
            test=0.4,
            margin=0.01,
            level=0.8,
            replicates=200,
            min_positive=30,
            max_ratio=1.5,
            max_prevalence_ratio=4.0,
            leaks="warn",
        ),
        shadow=ShadowRules(
            events=700, time=6 * hour, max_failures=0.01, max_alert_ratio=2.0, patience=2 * day
        ),
        guards=GuardRules(
            events=600,
            time=day,
            max_alert_ratio=2.5,
            max_failures=0.02,
            max_latency_ratio=4.0,
            min_precision_ratio=0.25,
        ),
    )
    assert read("retraining: {on_drift: true}\n") == Retraining()


def test_the_digest_leaves_the_section_out() -> None:
    assert parse_pipeline(PAYMENTS + FULL, "p.yaml").digest == parse_pipeline(PAYMENTS, "p.yaml").digest


@pytest.mark.parametrize(
    ("old", "new", "path", "reason"),
    [
        ("schedule: 7d", "schedule: 1h", "retraining.schedule", "shorter than the cool_down"),
        ("schedule: 7d", "schedule: weekly", "retraining.schedule", "not a duration"),
        ("min_positive: 50", "min_positive: 300", "retraining.min_positive", "would have to be positive"),
        ("window: 30d", "window: 3d", "retraining.window", "holds no label"),
        ("group_by: shop", "group_by: account", "retraining.group_by", "neither a feature nor an entity"),
        ("group_by: shop", "group_by: shopp", "retraining.group_by", "neither a feature nor an entity"),
        ("split: 0.1", "split: 0.9", "retraining.split", "out of range"),
        ("promote: person", "promote: never", "retraining.promote", "not a choice"),
        ("gate: {test: 0.4", "gate: {test: 0.95", "retraining.gate.test", "out of range"),
        ("gate: {test: 0.4", "gate: {tests: 0.4", "retraining.gate.tests", "not a key"),
        ("events: 700", "events: some", "retraining.shadow.events", "whole number"),
        ("patience: 2d", "patience: 2h", "retraining.shadow.patience", "not longer than time"),
        (
            "min_precision_ratio: 0.25",
            "min_precision_ratio: 2",
            "retraining.guards.min_precision_ratio",
            "out",
        ),
        ("on_drift: false", "on_drift: maybe", "retraining.on_drift", "true or false"),
        ("search: true", "serch: true", "retraining.serch", "not a key"),
    ],
)
def test_each_mistake_is_named_with_line_and_remedy(old: str, new: str, path: str, reason: str) -> None:
    assert old in FULL
    text = PAYMENTS + FULL.replace(old, new, 1)
    with pytest.raises(PipelineInvalid) as caught:
        parse_pipeline(text, "p.yaml")
    [found] = [p for p in caught.value.problems if p.path == path]
    assert reason in found.reason
    assert found.remedy
    assert found.line > PAYMENTS.count("\n")


def test_a_section_of_nothing_is_refused() -> None:
    with pytest.raises(PipelineInvalid, match="retraining"):
        read("retraining: 7d\n")


def test_the_schema_knows_every_setting_and_accepts_what_the_loader_does() -> None:
    schema = jsonschema.Draft202012Validator(json_schema())
    schema.check_schema(schema.schema)
    schema.validate(YAML(typ="safe").load(PAYMENTS + FULL))

    def keys(node: dict[str, Any]) -> set[str]:
        return set(node["properties"])

    assert keys(RETRAINING_SCHEMA) == set(Retraining.__struct_fields__)
    inner = RETRAINING_SCHEMA["properties"]
    for name, record in (("gate", GateRules), ("shadow", ShadowRules), ("guards", GuardRules)):
        assert keys(inner[name]) == set(record.__struct_fields__)
