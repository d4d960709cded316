from __future__ import annotations

from typing import Any

import httpx
import msgspec
import pytest

from domain.drift_record import BankState, ColumnState, DriftAlarm, DriftState, Evidence, MonitorState
from domain.errors import StoreUnavailable
from tests.unit.api.fakes import World

pytestmark = pytest.mark.anyio


def alarm(column: str) -> DriftAlarm:
    evidence = Evidence(
        edges=[1.0],
        reference=[0.5, 0.5],
        current=[0.1, 0.9],
        reference_missing=0.0,
        current_missing=0.0,
        events=9,
    )
    return DriftAlarm(
        id=f"d-{column}", pipeline="payments", pipeline_digest="x", reference="r-1", column=column, raised_at=5,
        since=3, window=(1, 5), shift=0.2, monitors=[], evidence=evidence, text="moved",
    )  # fmt: skip


def state() -> DriftState:
    columns = [
        ColumnState(
            column=name,
            monitors=[MonitorState(monitor="psi", statistic=0.1, threshold=0.2)],
            history={"psi": [0.3, 0.1]},
        )
        for name in ("score", "decision")
    ]
    bank = BankState(
        bank="traffic", phase="watching", cell=3600.0, gathered=0, needed=672, reference="r-1", reference_window=(0, 1),
        declared=0.9, simulated=0.8, extrapolated=False, late=0, note=None, history_cells=[1, 2], columns=columns,
    )  # fmt: skip
    return DriftState(
        pipeline="payments", pipeline_digest="x", as_of=7, written_at=8, banks=[bank],
        alarms=[alarm("score"), alarm("decision")],
    )  # fmt: skip


async def got(client: httpx.AsyncClient, query: str = "") -> dict[str, Any]:
    answer = await client.get(f"/v1/drift{query}")
    assert answer.status_code == 200
    body: dict[str, Any] = answer.json()
    return body


async def test_before_a_monitor_has_run_there_are_no_banks(client: httpx.AsyncClient, world: World) -> None:
    body = await got(client)
    assert (body["pipeline"], body["banks"], body["alarms"], body["as_of"]) == ("payments", [], [], None)


async def test_values_thresholds_history_and_alarms_narrowed_as_asked(
    client: httpx.AsyncClient, world: World
) -> None:
    world.drift.report = msgspec.json.encode(state())
    assert await got(client) == msgspec.json.decode(msgspec.json.encode(state()))
    one = await got(client, "?column=score")
    assert [column["column"] for column in one["banks"][0]["columns"]] == ["score"]
    assert [found["id"] for found in one["alarms"]] == ["d-score"]
    assert one["banks"][0]["columns"][0]["history"] == {"psi": [0.3, 0.1]}
    bare = await got(client, "?history=false")
    assert bare["banks"][0]["history_cells"] == []
    assert [column["history"] for column in bare["banks"][0]["columns"]] == [{}, {}]
    assert bare["banks"][0]["columns"][0]["monitors"][0]["threshold"] == 0.2
    assert len(bare["alarms"]) == 2
    assert (await client.get("/v1/drift?history=perhaps")).status_code == 422


async def test_redis_away_is_said(client: httpx.AsyncClient, world: World) -> None:
    world.drift.error = StoreUnavailable("away", remedy="wait")
    assert (await client.get("/v1/drift")).status_code == 503


async def test_the_document_describes_the_state(client: httpx.AsyncClient) -> None:
    document = (await client.get("/openapi.json")).json()
    assert {"DriftState", "DriftAlarm", "BankState"} <= document["components"]["schemas"].keys()
