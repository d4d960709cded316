"""Models over HTTP: what there is, who runs it, and changing it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from typing import Any

import httpx
import jsonschema
import msgspec
import pytest
from structlog.testing import capture_logs

from api.app import create_app
from api.convergence import ConvergenceWatch
from api.deps import ApiDeps
from api.ports import WorkerReport
from domain.clock import ManualClock
from domain.errors import RegistryUnavailable, Retriable
from lifecycle.registry import ModelCard, ModelRegistry
from lifecycle.registry_memory import MemoryModelRegistry
from tests.contract.check_model_registry import add
from tests.models import NOW, sealed
from tests.unit.api.fakes import World
from tests.unit.api.test_routes import problem

pytestmark = pytest.mark.anyio


@dataclass
class Models:
    """A registry that can be away, and what was published of it."""

    registry: MemoryModelRegistry = field(
        default_factory=lambda: MemoryModelRegistry("payments", ManualClock(NOW))
    )
    away: bool = False
    kafka_away: bool = False
    published: list[int] = field(default_factory=list)

    def opened(self) -> ModelRegistry:
        if self.away:
            raise RegistryUnavailable("db.internal:5432 is away")
        return self.registry

    def publish(self) -> None:
        if self.kafka_away:
            raise Retriable("kafka.internal is away")
        self.published.append(self.registry.state().epoch)


@pytest.fixture
def models() -> Models:
    return Models()


@pytest.fixture
def deps(world: World, models: Models) -> ApiDeps:
    return replace(world.deps, model_registry=models.opened, publish_models=models.publish)


@pytest.fixture
async def client(deps: ApiDeps) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(app=create_app(deps))
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        yield client


def report(worker: str, **changes: Any) -> WorkerReport:
    fields: dict[str, Any] = {
        "partitions": (0,),
        "code": "1",
        "pipeline": 1,
        "pipeline_digest": "d",
        "models": {},
    }
    return WorkerReport(worker=worker, reported_at=NOW, **{**fields, **changes})


async def test_models_are_listed_with_what_is_in_force(client: httpx.AsyncClient, models: Models) -> None:
    a, b = add(models.registry, "a", shadow=True), add(models.registry, "b")
    body = (await client.get("/v1/models")).json()
    assert body["registry"] == "ok"
    assert [m["version"] for m in body["versions"]] == [b, a]
    assert (body["in_force"]["epoch"], body["in_force"]["challenger"]) == (1, a)
    assert body["versions"][1]["manifest"]["lineage"]["seed"] == 1
    body = (await client.get("/v1/models?stage=candidate&limit=1")).json()
    assert [m["version"] for m in body["versions"]] == [b]
    problem(await client.get("/v1/models?stage=best"), 422, "invalid-parameter")
    problem(await client.get("/v1/models?limit=501"), 422, "invalid-parameter")


async def test_workers_agree_when_all_run_what_is_in_force(
    client: httpx.AsyncClient, world: World, models: Models
) -> None:
    async def agreed() -> tuple[bool, list[str]]:
        body = (await client.get("/v1/models")).json()
        return body["agreed"], body["behind"]

    assert await agreed() == (False, [])  # nobody is there
    world.models.found = [report("w1"), report("w2")]
    assert await agreed() == (True, [])  # nothing was ever promoted, and nobody runs anything
    a = add(models.registry, "a", shadow=True)
    models.registry.promote(a, epoch=1, reason="x", by="x")
    assert await agreed() == (False, ["w1", "w2"])
    world.models.found = [report("w1", epoch=2, champion=a), report("w2", epoch=1, challenger=a)]
    assert await agreed() == (False, ["w2"])
    world.models.found[1] = report("w2", epoch=2, champion=a)
    assert await agreed() == (True, [])
    # it has seen the state, but goes on with the last good one
    world.models.found[1] = report("w2", epoch=2, champion=None, refused={a: "forged"})
    assert await agreed() == (False, ["w2"])


async def test_without_the_registry_workers_are_shown_nevertheless(
    client: httpx.AsyncClient, world: World, models: Models
) -> None:
    models.away = True
    world.models.found = [report("w1")]
    body = (await client.get("/v1/models")).json()
    assert [w["worker"] for w in body["workers"]] == ["w1"]
    assert body["converged"] is True
    assert (body["registry"], body["agreed"], body["in_force"], body["versions"]) == (
        "unreachable", None, None, None,
    )  # fmt: skip
    for path in ("/v1/models/m-1", "/v1/audit"):
        answer = await client.get(path)
        problem(answer, 503, "unavailable")
        assert "db.internal" not in answer.text


async def test_an_api_without_registry_says_so(world: World) -> None:
    transport = httpx.ASGITransport(app=create_app(world.deps))
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        body = (await client.get("/v1/models")).json()
        assert (body["registry"], body["agreed"]) == ("none", None)
        for path in ("/v1/models/m-1", "/v1/audit"):
            problem(await client.get(path), 404, "no-registry")
        problem(await client.post("/v1/models/m-1:promote", json={"reason": "x"}), 404, "no-registry")


async def test_one_model_has_card_lineage_metrics_and_plots(
    client: httpx.AsyncClient, models: Models
) -> None:
    blob, manifest = sealed(b"a")
    card = ModelCard(markdown="# Card", plots={"pr.svg": "<svg/>"})
    models.registry.register(
        blob, manifest, by="trainer", reason="drift", metrics={"gate": {"passed": True}}, card=card
    )
    models.registry.set_challenger(manifest.version, epoch=0, reason="x", by="x")
    body = (await client.get(f"/v1/models/{manifest.version}")).json()
    assert body["version"] == manifest.version
    assert body["stage"] == "shadow"
    assert body["role"] == "challenger"
    assert body["card"] == "# Card"
    assert body["plots"] == {"pr.svg": "<svg/>"}
    assert body["metrics"] == {"gate": {"passed": True}}
    assert body["manifest"]["lineage"]["data"] == {"verdicts": 7, "labels": 3}
    for version in ("m-000000000000", "%00", "%ff", "a%20b"):
        problem(await client.get(f"/v1/models/{version}"), 404, "no-such-model")


async def test_a_person_promotes_and_rolls_back(client: httpx.AsyncClient, models: Models) -> None:
    a = add(models.registry, "a", shadow=True)
    answer = await client.post(f"/v1/models/{a}:promote", json={"reason": "better", "by": "ana", "epoch": 1})
    assert answer.status_code == 200
    assert answer.json()["published"] is True
    assert answer.json()["in_force"]["champion"] == a
    assert models.registry.state().changed_by == "ana (API)"
    # again: nothing changes, and the workers are told again
    assert (await client.post(f"/v1/models/{a}:promote", json={"reason": "better"})).status_code == 200
    assert models.registry.state().epoch == 2
    answer = await client.post(f"/v1/models/{a}:rollback", json={"reason": "worse"})
    assert answer.json()["in_force"]["champion"] is None
    assert models.published == [2, 2, 3]
    # sent twice: the champion is another one by now
    problem(await client.post(f"/v1/models/{a}:rollback", json={"reason": "worse"}), 409, "stage-forbids")
    records = (await client.get("/v1/audit?limit=2")).json()
    assert [r["action"] for r in records["records"]] == ["rollback", "promote"]


async def test_refused_changes_change_nothing(client: httpx.AsyncClient, models: Models) -> None:
    a, b = add(models.registry, "a", shadow=True), add(models.registry, "b")
    reason = {"reason": "x"}
    found = problem(
        await client.post(f"/v1/models/{a}:promote", json={**reason, "epoch": 0}), 409, "conflict"
    )
    assert found["remedy"]
    problem(await client.post(f"/v1/models/{b}:promote", json=reason), 409, "stage-forbids")
    problem(await client.post("/v1/models/m-0:promote", json=reason), 404, "no-such-model")
    problem(await client.post("/v1/models/m-0:rollback", json=reason), 404, "no-such-model")
    problem(await client.post("/v1/models/%00:rollback", json=reason), 404, "no-such-model")
    problem(await client.post(f"/v1/models/{a}:retire", json=reason), 405, "method-not-allowed")
    problem(await client.get(f"/v1/models/{a}:promote"), 404, "no-such-model")
    bodies: list[Any] = [{}, [], {"reason": " "}, {"reason": 1}, {"reason": "x" * 501}, {"reason": "x\n"}]
    bodies += [{"reason": "x", "by": "y" * 101}, {"reason": "x", "more": 1}]
    for body in bodies:
        problem(await client.post(f"/v1/models/{a}:promote", json=body), 422, "invalid-parameter")
    large = {"reason": "x", "by": "y" * 10_000}
    assert (await client.post(f"/v1/models/{a}:promote", json=large)).status_code == 413
    assert (await client.post(f"/v1/models/{a}:promote", content=b"reason")).status_code == 415
    assert models.registry.state().epoch == 1
    assert models.published == []
    forced = await client.post(f"/v1/models/{b}:promote", json={**reason, "force": True})
    assert forced.json()["in_force"]["champion"] == b


async def test_a_change_that_the_workers_could_not_be_told_is_accepted_and_said(
    client: httpx.AsyncClient, models: Models
) -> None:
    a = add(models.registry, "a", shadow=True)
    models.kafka_away = True
    answer = await client.post(f"/v1/models/{a}:promote", json={"reason": "better"})
    assert answer.status_code == 202
    assert answer.json()["published"] is False
    assert models.registry.state().champion == a
    models.kafka_away = False
    assert (await client.post(f"/v1/models/{a}:promote", json={"reason": "better"})).status_code == 200
    assert models.published == [2]


async def test_the_audit_comes_in_pages_and_is_verified(client: httpx.AsyncClient, models: Models) -> None:
    assert (await client.get("/v1/audit?verify=true")).json() == {
        "records": [], "next": None, "whole": True, "broken": None,
    }  # fmt: skip
    for number in range(1, 6):
        models.registry.note("note", "x", by="ana", reason=str(number))
    seen: list[str] = []
    before: int | None = None
    while True:
        query = "" if before is None else f"&before={before}"
        page = (await client.get(f"/v1/audit?limit=2{query}")).json()
        seen += [r["reason"] for r in page["records"]]
        before = page["next"]
        if before is None:
            break
    assert seen == ["5", "4", "3", "2", "1"]
    problem(await client.get("/v1/audit?before=0"), 422, "invalid-parameter")


async def test_answers_are_what_openapi_says(client: httpx.AsyncClient, models: Models, world: World) -> None:
    a = add(models.registry, "a", shadow=True)
    world.models.found = [report("w1", epoch=1, challenger=a)]
    document = (await client.get("/openapi.json")).json()
    for path, template in {
        "/v1/models": "/v1/models",
        f"/v1/models/{a}": "/v1/models/{version}",
        "/v1/audit?verify=true": "/v1/audit",
    }.items():
        schema = document["paths"][template]["get"]["responses"]["200"]["content"]["application/json"][
            "schema"
        ]
        answer = (await client.get(path)).json()
        jsonschema.validate(answer, {**schema, "components": document["components"]})
    assert msgspec.json.encode(document).count(b"HTTPValidationError") == 0


async def test_a_worker_that_stays_behind_is_counted_and_told_of_once(
    deps: ApiDeps, world: World, models: Models
) -> None:
    watch = ConvergenceWatch(deps)

    def looked(seconds: float = 0.0) -> tuple[float | None, ...]:
        world.clock.advance(seconds)
        with capture_logs() as logs:
            watch.look()
        names = (
            "tidegate_registry_epoch",
            "tidegate_models_workers_behind",
            "tidegate_models_behind_seconds",
        )
        return (*(deps.registry.get_sample_value(name) for name in names), len(logs))

    a = add(models.registry, "a", shadow=True)
    world.models.found = [report("w1", epoch=1, challenger=a), report("w2")]
    assert looked() == (1, 1, 0, 0)
    assert looked(59) == (1, 1, 59, 0)
    assert looked(1) == (1, 1, 60, 1)
    assert looked(1) == (1, 1, 61, 0)
    world.models.found[1] = report("w2", epoch=1, challenger=a)
    assert looked(1) == (1, 0, 0, 0)
    world.models.found[1] = report("w2", epoch=0)
    assert looked(1) == (1, 1, 0, 0)
    assert looked(60) == (1, 1, 60, 1)
    world.models.found = []  # who is gone does not stay behind
    assert looked(60) == (1, 0, 0, 0)
