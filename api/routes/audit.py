"""``GET /v1/audit``: who changed what, when and why."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Query
from starlette.responses import Response

from api.access import Scope, needs
from api.deps import ApiDeps
from api.problems import responses
from api.routes.models import registry_of
from api.threads import Threads

__all__ = ["router"]

JSON = "application/json"
MAX_LIMIT = 500


def router(deps: ApiDeps) -> APIRouter:
    """The route, bound to its ports."""
    routes = APIRouter(tags=["models"])
    threads = Threads(2, deps.limits.answer_seconds)

    @routes.get(
        "/v1/audit",
        dependencies=[needs(deps, Scope.AUDIT_READ)],
        summary="Audit records, newest first",
        responses={200: {"description": "One page", "content": _PAGE}, **responses(404, 422, 503)},
    )
    async def audit(
        limit: Annotated[int, Query(ge=1, le=MAX_LIMIT)] = 50,
        before: Annotated[int | None, Query(ge=1, description="next of the page before")] = None,
        verify: Annotated[bool, Query(description="Check the whole chain of hashes")] = False,
    ) -> Response:
        def look() -> dict[str, Any]:
            registry = registry_of(deps)()
            records = registry.newest_audit(before=before, limit=limit)
            more = bool(records) and records[-1].number > 1
            body: dict[str, Any] = {"records": records, "next": records[-1].number if more else None}
            if verify:
                broken = registry.verify_audit()
                body |= {"whole": broken is None, "broken": broken}
            return body

        return Response(msgspec.json.encode(await threads.run(look)), media_type=JSON)

    return routes


_PAGE: dict[str, Any] = {
    JSON: {
        "schema": {
            "type": "object",
            "required": ["records", "next"],
            "properties": {
                "records": {"type": "array", "items": {"$ref": "#/components/schemas/AuditRecord"}},
                "next": {
                    "type": ["integer", "null"],
                    "description": "before of the next page; null at the end",
                },
                "whole": {
                    "type": "boolean",
                    "description": "with verify: no record was changed or is missing",
                },
                "broken": {
                    "type": ["object", "null"],
                    "properties": {"number": {"type": "integer"}, "why": {"type": "string"}},
                    "description": "with verify: the first record that is not what it should be",
                },
            },
        }
    }
}
