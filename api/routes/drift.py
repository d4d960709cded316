"""``GET /v1/drift``: what moved, and how close everything else is to its limit."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Query
from starlette.responses import Response

from api.access import Scope, needs
from api.deps import ApiDeps
from api.problems import responses
from api.threads import Threads
from domain.drift_record import BankState, DriftState

__all__ = ["router"]

JSON = "application/json"


def router(deps: ApiDeps) -> APIRouter:
    """The route, bound to its ports."""
    routes = APIRouter(tags=["drift"])
    threads = Threads(2, deps.limits.answer_seconds)
    decode = msgspec.json.Decoder(DriftState).decode

    @routes.get(
        "/v1/drift",
        dependencies=[needs(deps, Scope.VERDICTS_READ)],
        summary="Drift monitors: current values, history, thresholds, alarms",
        description="Times are UTC microseconds of event time. Before a monitor has run, there are no banks.",
        responses={200: {"description": "State of the monitors", "content": _STATE}, **responses(422, 503)},
    )
    async def drift(
        column: Annotated[
            str | None, Query(description="This column and its alarms only", max_length=300)
        ] = None,
        history: Annotated[bool, Query(description="Whether past values are wanted, too")] = True,
    ) -> Response:
        raw = await threads.run(deps.drift.get)
        if raw is None:
            state = DriftState(
                pipeline=deps.pipeline.name,
                pipeline_digest=deps.pipeline.digest,
                as_of=None,
                written_at=None,
                banks=[],
                alarms=[],
            )
        else:
            state = decode(raw)
        return Response(msgspec.json.encode(_narrowed(state, column, history)), media_type=JSON)

    return routes


def _narrowed(state: DriftState, column: str | None, history: bool) -> DriftState:
    if column is None and history:
        return state
    replace = msgspec.structs.replace
    banks: list[BankState] = []
    for bank in state.banks:
        columns = [c for c in bank.columns if column is None or c.column == column]
        if not history:
            columns = [replace(c, history={}) for c in columns]
        banks.append(replace(bank, columns=columns, history_cells=bank.history_cells if history else []))
    alarms = [alarm for alarm in state.alarms if column is None or alarm.column == column]
    return replace(state, banks=banks, alarms=alarms)


_STATE: dict[str, Any] = {JSON: {"schema": {"$ref": "#/components/schemas/DriftState"}}}
