"""``POST /v1/labels`` over fakes."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from domain.errors import Retriable
from tests.contract.check_hot_verdicts import NOW
from tests.unit.api.fakes import World
from tests.unit.api.test_routes import problem

pytestmark = pytest.mark.anyio

LABEL: dict[str, Any] = {"id": "t/1", "label": 1, "source": "chargeback"}


async def test_one_label_is_written_and_told_as_it_was_understood(
    client: httpx.AsyncClient, world: World
) -> None:
    answer = await client.post("/v1/labels", json=LABEL)
    assert answer.status_code == 202
    assert answer.json() == {"accepted": 1, "labels": [{**LABEL, "known_at": NOW}]}
    [(key, value)] = world.labels.written
    assert key == b"t/1"
    assert json.loads(value) == {**LABEL, "known_at": NOW}


async def test_many_go_in_their_order(client: httpx.AsyncClient, world: World) -> None:
    many = [{**LABEL, "id": f"t{n}", "label": (1, 0, None)[n % 3]} for n in range(1000)]
    answer = await client.post("/v1/labels", json=many)
    assert answer.json()["accepted"] == 1000
    assert [key for key, _ in world.labels.written] == [f"t{n}".encode() for n in range(1000)]
    assert 'tidegate_api_labels_total{outcome="accepted"} 1000.0' in (await client.get("/metrics")).text


async def test_one_wrong_label_of_many_and_none_is_written(client: httpx.AsyncClient, world: World) -> None:
    many = [LABEL, {**LABEL, "label": 2}, LABEL, {**LABEL, "source": ""}]
    found = problem(await client.post("/v1/labels", json=many), 422, "event-rejected")
    assert (found["reason"], found["field"]) == ("not_allowed", "label")
    assert "label 1 of 4" in found["detail"]
    assert [(e["index"], e["reason"]) for e in found["errors"]] == [(1, "not_allowed"), (3, "empty")]
    assert "Nothing was written" in found["remedy"]
    assert world.labels.written == []


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"nonsense", "not_json"),
        (b"7", "not_object"),
        (b"[]", "empty"),
        (b"[" + b"1," * 1000 + b"1]", "too_long"),
        (b'{"id": "t1", "label": 1}', "missing_field"),
        (b'{"id": "t1", "label": 1, "source": "a", "more": 1}', "unknown_field"),
    ],
)
async def test_what_is_refused(client: httpx.AsyncClient, world: World, body: bytes, reason: str) -> None:
    answer = await client.post("/v1/labels", content=body, headers={"content-type": "application/json"})
    assert problem(answer, 422, "event-rejected")["reason"] == reason
    assert world.labels.written == []
    assert f'tidegate_api_labels_total{{outcome="{reason}"}} 1.0' in (await client.get("/metrics")).text


async def test_a_large_body_is_told_to_be_labels(client: httpx.AsyncClient) -> None:
    answer = await client.post(
        "/v1/labels", content=b" " * (1 << 20) + b"{}", headers={"content-type": "application/json"}
    )
    assert "fewer labels" in problem(answer, 413, "event-rejected")["remedy"]


async def test_kafka_away_is_said(client: httpx.AsyncClient, world: World) -> None:
    world.labels.failure = Retriable("broker-7.internal is away")
    answer = await client.post("/v1/labels", json=LABEL)
    problem(answer, 503, "unavailable")
    assert "internal" not in answer.text.replace("/v1", "")


async def test_the_document_has_an_example_that_is_accepted(client: httpx.AsyncClient) -> None:
    document = (await client.get("/openapi.json")).json()
    [example] = document["components"]["schemas"]["Label"]["examples"]
    assert (await client.post("/v1/labels", json=example)).status_code == 202
    assert (await client.post("/v1/labels", json=[example])).status_code == 202
