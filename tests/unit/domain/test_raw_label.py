"""Raw labels off the wire: what is taken, and why the rest is refused."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import jsonschema
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.errors import EventRejected, PipelineInvalid, Reject
from domain.pipeline import Pipeline
from domain.pipeline_file import json_schema, parse_pipeline
from domain.privacy import Protector
from domain.raw_label import RawLabelCodec, json_schema_of_label

NOW = 1_700_000_000_000_000
MINUTE = 60_000_000
KEY = Protector(b"k" * 32)
TEXT = """
pipeline: payments
event:
  id: txn
  time: at
  key: account
  fields:
    txn: {ID}
    at: {type: timestamp}
    account: {type: string}
features:
  count: {entity: account, aggregate: count, window: 1d}
detectors:
  hst: {kind: half_space_trees}
decision:
  review: {budget: 0.01}
{LABELS}
"""
GOOD: dict[str, Any] = {"id": "t1", "label": 1, "source": "analyst"}


def pipeline(*, id_field: str = "{type: string, max_length: 8}", labels: str = "") -> Pipeline:
    return parse_pipeline(TEXT.replace("{ID}", id_field).replace("{LABELS}", labels), "test")


@pytest.fixture
def codec() -> RawLabelCodec:
    return RawLabelCodec(pipeline(labels="labels: {sources: [chargeback, analyst]}"), KEY)


def refused(codec: RawLabelCodec, raw: bytes) -> EventRejected:
    with pytest.raises(EventRejected) as caught:
        codec.decode(raw, received_at=NOW)
    assert caught.value.remedy
    return caught.value


def test_a_label_is_known_since_it_arrived_unless_it_says_when(codec: RawLabelCodec) -> None:
    plain = codec.decode(json.dumps(GOOD).encode(), received_at=NOW)
    assert (plain.id, plain.key, plain.label, plain.source) == ("t1", b"t1", 1, "analyst")
    assert (plain.known_at, plain.event_time) == (NOW, None)
    told = {**GOOD, "label": None, "known_at": "2023-11-14T22:13:20+00:00", "event_time": NOW - MINUTE}
    label = codec.decode(json.dumps(told).encode(), received_at=NOW + 9)
    assert (label.label, label.known_at, label.event_time) == (None, NOW, NOW - MINUTE)
    assert codec.decode(codec.encode(label), received_at=NOW + 99) == label


@pytest.mark.parametrize(
    ("change", "reason", "field"),
    [
        ({"id": None}, Reject.MISSING_FIELD, "id"),
        ({"id": ""}, Reject.EMPTY, "id"),
        ({"id": 7}, Reject.WRONG_TYPE, "id"),
        ({"id": "123456789"}, Reject.TOO_LONG, "id"),
        ({"id": "a\0"}, Reject.BAD_TEXT, "id"),
        ({"label": ...}, Reject.MISSING_FIELD, "label"),
        ({"label": True}, Reject.WRONG_TYPE, "label"),
        ({"label": 1.0}, Reject.WRONG_TYPE, "label"),
        ({"label": "1"}, Reject.WRONG_TYPE, "label"),
        ({"label": 2}, Reject.NOT_ALLOWED, "label"),
        ({"source": ...}, Reject.MISSING_FIELD, "source"),
        ({"source": 1}, Reject.WRONG_TYPE, "source"),
        ({"source": "a\nb"}, Reject.BAD_TEXT, "source"),
        ({"source": "s" * 65}, Reject.TOO_LONG, "source"),
        ({"source": "customer"}, Reject.UNKNOWN_SOURCE, "source"),
        ({"known_at": 1.5}, Reject.WRONG_TYPE, "known_at"),
        ({"known_at": "yesterday"}, Reject.BAD_TIMESTAMP, "known_at"),
        ({"known_at": "2023-11-14T22:13:20"}, Reject.BAD_TIMESTAMP, "known_at"),
        ({"known_at": NOW // 1000}, Reject.BAD_TIMESTAMP, "known_at"),
        ({"known_at": NOW + 6 * MINUTE}, Reject.IN_FUTURE, "known_at"),
        ({"event_time": NOW + 6 * MINUTE}, Reject.IN_FUTURE, "event_time"),
        ({"value": 1}, Reject.UNKNOWN_FIELD, "value"),
    ],
)
def test_what_is_wrong_is_named(
    codec: RawLabelCodec, change: dict[str, Any], reason: Reject, field: str
) -> None:
    record = {name: value for name, value in {**GOOD, **change}.items() if value is not ...}
    found = refused(codec, json.dumps(record).encode())
    assert (found.reason, found.field) == (reason, field)


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b"", Reject.NOT_JSON),
        (b"nonsense", Reject.NOT_JSON),
        (b"\xff", Reject.NOT_JSON),
        (b'{"id": NaN}', Reject.NOT_JSON),
        (b"[" * 100_00, Reject.NOT_JSON),
        (b"[]", Reject.NOT_OBJECT),
        (b"1", Reject.NOT_OBJECT),
        (b" " * 65_537, Reject.TOO_LARGE),
    ],
)
def test_what_is_no_label_at_all(codec: RawLabelCodec, raw: bytes, reason: Reject) -> None:
    assert refused(codec, raw).reason is reason


@given(
    st.binary(max_size=40)
    | st.recursive(st.none() | st.text() | st.integers() | st.booleans(), st.lists).map(
        lambda value: msgspec.json.encode({"id": value, "label": 1, "source": value})
    )
)
def test_nothing_else_is_raised_whatever_comes(raw: bytes) -> None:
    plain = RawLabelCodec(pipeline(), KEY)
    with suppress(EventRejected):
        assert plain.decode(raw, received_at=NOW).label == 1


def test_sensitive_ids_are_hashed_as_in_verdicts_and_stay_out_of_messages() -> None:
    codec = RawLabelCodec(pipeline(id_field="{type: string, sensitive: true}"), KEY)
    label = codec.decode(json.dumps({**GOOD, "id": "4929-1"}).encode(), received_at=NOW)
    assert (label.id, label.key) == (KEY.protect("4929-1"), b"4929-1")
    assert "4929" not in repr(label)
    found = refused(codec, json.dumps({**GOOD, "id": "4929-1\0"}).encode())
    assert "4929" not in str(found)


def test_ids_that_are_numbers_in_events_are_numbers_here() -> None:
    codec = RawLabelCodec(pipeline(id_field="{type: integer, minimum: 1}"), KEY)
    label = codec.decode(json.dumps({**GOOD, "id": 17}).encode(), received_at=NOW)
    assert (label.id, label.key) == ("17", b"17")
    assert json.loads(codec.encode(label))["id"] == 17
    assert refused(codec, json.dumps(GOOD).encode()).reason is Reject.WRONG_TYPE
    assert refused(codec, json.dumps({**GOOD, "id": 0}).encode()).reason is Reject.OUT_OF_RANGE


def test_files_and_reviewers_may_always_speak_and_without_declared_sources_anybody_may() -> None:
    declared = RawLabelCodec(pipeline(labels="labels: {sources: [chargeback]}"), KEY)
    for source in ("import", "review"):
        assert declared.check({**GOOD, "source": source}, received_at=NOW).source == source
    anybody = RawLabelCodec(pipeline(), KEY)
    assert anybody.check({**GOOD, "source": "my aunt"}, received_at=NOW).source == "my aunt"


def test_the_schema_takes_what_the_codec_takes(codec: RawLabelCodec) -> None:
    schema = json_schema_of_label(pipeline(labels="labels: {sources: [chargeback, analyst]}"))
    jsonschema.Draft202012Validator.check_schema(schema)
    check = jsonschema.Draft202012Validator(schema).is_valid
    assert check(GOOD)
    assert check({**GOOD, "label": None, "known_at": "2023-11-14T22:13:20Z", "event_time": NOW})
    assert not check({**GOOD, "source": "customer"})
    assert not check({**GOOD, "more": 1})
    assert not check({"id": "t1", "source": "analyst"})


def test_the_section_of_the_pipeline_file() -> None:
    plain, declared = (
        pipeline(),
        pipeline(labels="labels: {sources: [chargeback, analyst], orphans_wait: 2h}"),
    )
    assert (plain.label_sources, plain.orphans_wait) == ((), 1440 * MINUTE)
    assert (declared.label_sources, declared.orphans_wait) == (("chargeback", "analyst"), 120 * MINUTE)
    assert declared.digest == plain.digest, "who is believed changes no verdict"
    schema = jsonschema.Draft202012Validator(
        json_schema()["properties"]["labels"] | {"$defs": json_schema()["$defs"]}
    )
    assert schema.is_valid({"sources": ["chargeback"], "orphans_wait": "2h"})
    assert not schema.is_valid({"sources": []})
    for wrong, told in {
        "[chargeback]": "must be a mapping",
        "{sources: chargeback}": "must be a list",
        "{sources: []}": "must be a list",
        "{sources: [a, a]}": "stands twice",
        "{sources: [7]}": "is no name",
        "{sources: [a], wait: 1h}": "is not a key here",
        "{orphans_wait: soon}": "is not a duration",
    }.items():
        with pytest.raises(PipelineInvalid, match=told):
            pipeline(labels=f"labels: {wrong}")
