"""The AsyncAPI document in itself; tests/integration/live/test_topics.py holds it against what is in the topics."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from jsonschema import Draft7Validator

from domain.pipeline_file import parse_pipeline
from stream.asyncapi import asyncapi_document
from stream.topics import Topics
from tests.unit.api.fakes import PIPELINE_TEXT


@pytest.fixture
def document() -> dict[str, Any]:
    return asyncapi_document(parse_pipeline(PIPELINE_TEXT, source="test"), "1.2.3")


def references(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if isinstance(value.get("$ref"), str):
            yield value["$ref"]
        for one in value.values():
            yield from references(one)
    elif isinstance(value, list):
        for one in value:
            yield from references(one)


def test_every_topic_is_a_channel(document: dict[str, Any]) -> None:
    topics = Topics("payments")
    names = [name for name, what in vars(Topics).items() if isinstance(what, property)]
    assert {c["address"] for c in document["channels"].values()} == {getattr(topics, name) for name in names}
    for name, channel in document["channels"].items():
        assert channel["address"] == getattr(topics, name)
        assert channel["messages"]


def test_every_reference_leads_somewhere_and_nothing_is_left_over(document: dict[str, Any]) -> None:
    found = set(references(document))
    for reference in found:
        at: Any = document
        for part in reference.removeprefix("#/").split("/"):
            at = at[part]
    for kind in ("messages", "schemas"):
        unused = {f"#/components/{kind}/{name}" for name in document["components"][kind]} - found
        assert not unused
    for operation in document["operations"].values():
        channel = operation["channel"]["$ref"]
        assert {m["$ref"].rpartition("/messages/")[0] for m in operation["messages"]} == {channel}


def test_schemas_are_such_of_draft_07(document: dict[str, Any]) -> None:
    for schema in document["components"]["schemas"].values():
        Draft7Validator.check_schema(schema)
    window = document["components"]["schemas"]["DriftAlarm"]["properties"]["window"]
    assert Draft7Validator(window).is_valid([1, 2])
    # what 2020-12 calls prefixItems would say nothing here
    assert not Draft7Validator(window).is_valid(["a", 2])
