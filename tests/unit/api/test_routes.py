"""Every route and every refusal, over fakes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx
import msgspec
import pytest

from api.ports import WorkerReport
from domain.errors import EventRejected, Reject, StoreUnavailable
from domain.verdict import DecisionName
from tests.contract.check_hot_verdicts import NOW
from tests.unit.api.fakes import EVENT, World, verdict

pytestmark = pytest.mark.anyio


def problem(answer: httpx.Response, status: int, code: str) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    body: dict[str, Any] = answer.json()
    assert body["status"] == status
    assert body["code"] == code
    assert body["type"] == f"urn:tidegate:problem:{code}"
    assert body["request_id"] == answer.headers["x-request-id"]
    return body


async def test_an_event_gets_its_verdict_byte_for_byte(client: httpx.AsyncClient, world: World) -> None:
    world.gateway.answer = raw = b'{"id": "t/1",  "score":1e-1}'
    answer = await client.post(
        "/v1/score?deadline_ms=250", json=EVENT, headers={"traceparent": "00-ab-cd-01"}
    )
    assert answer.status_code == 200
    assert answer.content == raw
    [(sent, key, deadline, trace)] = world.gateway.seen
    assert msgspec.json.decode(sent) == EVENT
    assert (key, deadline, trace) == (b"4929-1", 0.25, "00-ab-cd-01")


async def test_a_late_verdict_is_promised_at_a_location_that_works(
    client: httpx.AsyncClient, world: World
) -> None:
    world.gateway.answer = None
    answer = await client.post("/v1/score", json=EVENT)
    assert answer.status_code == 202
    assert answer.headers["location"] == "/v1/verdicts/t%2F1"
    assert problem(await client.get(answer.headers["location"]), 404, "no-such-verdict")["remedy"]
    world.hot.put_many([verdict(1, id="t/1")])
    assert (await client.get(answer.headers["location"])).content == msgspec.json.encode(verdict(1, id="t/1"))


@pytest.mark.parametrize(
    ("body", "reason", "field"),
    [
        (b"nonsense", "not_json", None),
        (b"[]", "not_object", None),
        (msgspec.json.encode({**EVENT, "amount": -1}), "out_of_range", "amount"),
        (msgspec.json.encode({**EVENT, "more": 1}), "unknown_field", "more"),
        (msgspec.json.encode({**EVENT, "event_time": "2030-01-01T00:00:00Z"}), "in_future", "event_time"),
    ],
)
async def test_bad_events_are_refused_before_kafka(
    client: httpx.AsyncClient, world: World, body: bytes, reason: str, field: str | None
) -> None:
    answer = await client.post("/v1/score", content=body, headers={"content-type": "application/json"})
    found = problem(answer, 422, "event-rejected")
    assert (found["reason"], found["field"]) == (reason, field)
    assert found["remedy"]
    assert world.gateway.seen == []


async def test_a_dead_letter_is_a_422_too(client: httpx.AsyncClient, world: World) -> None:
    world.gateway.answer = EventRejected(Reject.WRONG_KEY, "account_id", "no", remedy="do")
    assert problem(await client.post("/v1/score", json=EVENT), 422, "event-rejected")["reason"] == "wrong_key"


async def test_a_dry_run_writes_nothing(client: httpx.AsyncClient, world: World) -> None:
    answer = await client.post("/v1/score?dry_run=true", json=EVENT)
    assert answer.content == msgspec.json.encode(verdict(2))
    assert world.gateway.seen == []


@pytest.mark.parametrize("chunked", [False, True])
async def test_large_bodies_are_refused(client: httpx.AsyncClient, chunked: bool) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(5):
            yield b"x" * 1000

    body: Any = chunks() if chunked else b"x" * 5000
    answer = await client.post("/v1/score", content=body, headers={"content-type": "application/json"})
    assert problem(answer, 413, "event-rejected")["reason"] == "too_large"
    assert ("content-length" in answer.request.headers) is not chunked


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({"content-type": "application/x-www-form-urlencoded"}, "not-json"),
        ({"content-type": "application/json", "content-encoding": "gzip"}, "compressed"),
    ],
)
async def test_other_bodies_are_refused(
    client: httpx.AsyncClient, headers: dict[str, str], code: str
) -> None:
    problem(await client.post("/v1/score", content=b"{}", headers=headers), 415, code)


async def test_a_slow_body_is_given_up(client: httpx.AsyncClient) -> None:
    async def never() -> AsyncIterator[bytes]:
        yield b"{"
        await asyncio.Event().wait()

    slow = World(body_seconds=0.05)
    from api.app import create_app

    transport = httpx.ASGITransport(app=create_app(slow.deps))
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as hasty:
        answer = await hasty.post("/v1/score", content=never(), headers={"content-type": "application/json"})
    problem(answer, 408, "slow-body")


async def test_unavailable_says_when_to_come_back_and_names_no_host(
    client: httpx.AsyncClient, world: World
) -> None:
    world.gateway.answer = StoreUnavailable("redis.internal:6379 is away")
    answer = await client.post("/v1/score", json=EVENT)
    problem(answer, 503, "unavailable")
    assert answer.headers["retry-after"] == "1"
    assert "internal:6379" not in answer.text


async def test_a_bug_shows_nothing_of_itself(client: httpx.AsyncClient, world: World) -> None:
    world.gateway.answer = ZeroDivisionError("card 4929-1")
    answer = await client.post("/v1/score", json=EVENT, headers={"x-request-id": "abc-1"})
    assert problem(answer, 500, "internal")["request_id"] == "abc-1"
    assert "4929" not in answer.text


async def test_strange_paths_methods_and_ids(client: httpx.AsyncClient) -> None:
    problem(await client.get("/nothing", headers={b"x-request-id": b"a b\xe4"}), 404, "not-found")
    answer = await client.delete("/v1/score")
    problem(answer, 405, "method-not-allowed")
    assert answer.headers["allow"] == "POST"


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("deadline_ms=0", "deadline_ms"),
        ("deadline_ms=30001", "deadline_ms"),
        ("dry_run=perhaps", "dry_run"),
    ],
)
async def test_score_parameters(client: httpx.AsyncClient, query: str, field: str) -> None:
    assert (
        problem(await client.post(f"/v1/score?{query}", json=EVENT), 422, "invalid-parameter")["field"]
        == field
    )


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("limit=0", "limit"),
        ("limit=501", "limit"),
        ("from=yesterday", "from"),
        ("from=2023-11-14T22:13:20", "from"),
        ("decision=maybe", "decision"),
        ("cursor=AAAA", "cursor"),
        ("entity=account_id", "entity"),
        ("entity=amount:3", "entity"),
        ("entity_hash=secret_4929:x", "entity_hash"),
    ],
)
async def test_list_parameters(client: httpx.AsyncClient, query: str, field: str) -> None:
    answer = await client.get(f"/v1/verdicts?{query}")
    code = "bad-cursor" if field == "cursor" else "invalid-parameter"
    assert problem(answer, 422, code)["field"] == field


async def test_lists_page_and_find_a_sensitive_entity_by_its_raw_value(
    client: httpx.AsyncClient, world: World
) -> None:
    hashed = world.protector.protect("4929-1")
    world.hot.put_many(
        [
            verdict(i, entities={"account_id": hashed if i % 2 else "x", "merchant_id": "a:b"})
            for i in range(6)
        ]
    )
    seen: list[str] = []
    cursor: str | None = ""
    while cursor is not None:
        url = f"/v1/verdicts?entity=account_id:4929-1&limit=2{'&cursor=' + cursor if cursor else ''}"
        page = (await client.get(url)).json()
        seen += [v["id"] for v in page["verdicts"]]
        cursor = page["next"]
    assert seen == ["e5", "e3", "e1"]
    by_hash = (await client.get(f"/v1/verdicts?entity_hash=account_id:{hashed}")).json()
    assert [v["id"] for v in by_hash["verdicts"]] == seen
    both = (await client.get("/v1/verdicts?entity=merchant_id:a:b")).json()["verdicts"]
    assert len(both) == 6
    later = (await client.get("/v1/verdicts?from=2023-11-14T22:13:20.000004Z")).json()["verdicts"]
    assert [v["scored_at"] - NOW for v in later] == [5, 4]


def report(worker: str, version: str) -> WorkerReport:
    return WorkerReport(
        worker=worker, reported_at=NOW, partitions=(0,), code="1", pipeline=1, pipeline_digest="d",
        models={"hst": version},
    )  # fmt: skip


@pytest.mark.parametrize(
    ("versions", "converged"), [((), False), (("a",), True), (("a", "a"), True), (("a", "b"), False)]
)
async def test_models(
    client: httpx.AsyncClient, world: World, versions: tuple[str, ...], converged: bool
) -> None:
    world.models.found = [report(f"w{i}", v) for i, v in enumerate(versions)]
    body = (await client.get("/v1/models")).json()
    assert body["converged"] is converged
    assert [w["models"]["hst"] for w in body["workers"]] == list(versions)


async def test_readiness_names_what_is_missing(client: httpx.AsyncClient, world: World) -> None:
    assert (await client.get("/readyz")).json()["checks"] == {"kafka": "ok", "redis": "ok"}

    def refuse() -> None:
        raise StoreUnavailable("away")

    world.probes["redis"] = refuse
    assert (await client.get("/readyz")).status_code == 200  # asked a moment ago
    world.clock.advance(2)
    answer = await client.get("/readyz")
    assert problem(answer, 503, "not-ready")["checks"] == {"kafka": "ok", "redis": "unreachable"}
    assert answer.headers["retry-after"]
    assert (await client.get("/livez")).status_code == 200


async def test_metrics_count_by_template_and_never_by_path(client: httpx.AsyncClient) -> None:
    await client.get("/v1/verdicts/4929-1")
    text = (await client.get("/metrics")).text
    assert (
        'tidegate_api_requests_total{method="GET",route="/v1/verdicts/{verdict_id:path}",status="404"} 1.0'
        in text
    )
    assert "4929" not in text


async def test_openapi_is_whole_and_its_example_is_accepted(client: httpx.AsyncClient) -> None:
    document = (await client.get("/openapi.json")).json()
    schemas = document["components"]["schemas"]
    text = msgspec.json.encode(document).decode()
    for name in {part.partition('"')[0] for part in text.split("#/components/schemas/")[1:]}:
        assert name in schemas
    assert schemas["Event"]["properties"]["amount"]["minimum"] == 0
    assert "HTTPValidationError" not in text
    for path, operations in document["paths"].items():
        for operation in operations.values():
            for status, described in operation["responses"].items():
                if status >= "400":
                    assert "application/problem+json" in described["content"], (path, status)
    [example] = schemas["Event"]["examples"]
    example["event_time"] = EVENT["event_time"]
    assert (await client.post("/v1/score", json=example)).status_code == 200


async def test_verdict_schema_accepts_a_verdict(client: httpx.AsyncClient) -> None:
    import jsonschema

    document = (await client.get("/openapi.json")).json()
    schema = {**document["components"]["schemas"]["Verdict"], "components": document["components"]}
    shown = msgspec.to_builtins(verdict(1, decision=DecisionName.BLOCK))
    jsonschema.validate(shown, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**shown, "decision": "maybe"}, schema)
