"""``/v1/lists``: lists of values of events' fields, tags among them, with expiry, source and note."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from api.access import Scope, needs
from api.body import read_json_body
from api.deps import ApiDeps
from api.problems import responses
from api.rule_parts import JSON, Asking, Described, by_of, decoded, invalid, json_body, said
from domain.clock import from_micros, to_micros
from domain.list_records import ListEntry
from domain.list_values import ListValues
from lifecycle.list_store import NewEntry, SqlListStore

__all__ = ["expiry", "router", "shown"]

MAX_BODY = 1_000_000
MOST = 1_000
"""Entries of one request; `tidegate lists import` takes files of any length."""
MAX_LIMIT = 1_000
MOST_SECONDS = 100 * 366 * 86_400
Reason = Annotated[str, msgspec.Meta(min_length=1, max_length=500)]
Text = Annotated[str, msgspec.Meta(max_length=500)]
_Moment: Any = Annotated[datetime, msgspec.Meta(tz=True)]
Seconds = Annotated[int, msgspec.Meta(ge=1, le=MOST_SECONDS)]


class WrittenEntry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a person or program wants to stand in a list; ``value`` as on the wire."""

    field: str
    value: str | int
    expires_at: Annotated[str, msgspec.Meta(max_length=64)] | None = None
    expires_in: Seconds | None = None
    source: Annotated[str, msgspec.Meta(max_length=100)] = "api"
    note: Text = ""


class AddEntries(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Entries, and why."""

    reason: Reason
    entries: Annotated[list[WrittenEntry], msgspec.Meta(min_length=1, max_length=MOST)]


class WrittenValue(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A value as on the wire; ``hashed``: as the list shows it."""

    field: str
    value: str | int
    hashed: bool = False


class RemoveEntries(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Values, and why."""

    reason: Reason
    entries: Annotated[list[WrittenValue], msgspec.Meta(min_length=1, max_length=MOST)]


def router(deps: ApiDeps) -> APIRouter:
    """The routes, bound to their ports."""
    routes = APIRouter(tags=["lists"])
    asking = Asking(deps)
    values = ListValues(deps.pipeline, deps.protector)
    reading: dict[str, Any] = {"dependencies": [needs(deps, Scope.RULES_READ)]}
    writing: dict[str, Any] = {"dependencies": [needs(deps, Scope.RULES_WRITE)]}
    changed: Described = {
        200: {"description": "Changed, and the workers are told", "content": CHANGED},
        202: {"description": "Changed; the workers will be told later", "content": CHANGED},
        **responses(404, 408, 409, 413, 415, 422, 503),
    }

    async def body(request: Request) -> bytes:
        return await read_json_body(
            request, MAX_BODY, deps.limits.body_seconds, smaller="send fewer entries at once"
        )

    def stored(written: WrittenValue) -> tuple[str, str]:
        raw = str(written.value)
        return written.field, raw if written.hashed else values.value(written.field, raw)

    @routes.get(
        "/v1/lists",
        summary="Which lists there are, and how many entries they have",
        responses={200: {"description": "Lists", "content": _LISTS}, **responses(404, 503)},
        **reading,
    )
    async def lists() -> Response:
        def look(store: SqlListStore) -> dict[str, Any]:
            return {"version": store.version(), "lists": store.lists()}

        return Response(msgspec.json.encode(await asking.lists(look)), media_type=JSON)

    @routes.get(
        "/v1/lists/{name}/entries",
        summary="Entries of a list, newest first",
        responses={200: {"description": "One page", "content": _PAGE}, **responses(404, 422, 503)},
        **reading,
    )
    async def entries(
        name: str,
        field: Annotated[str | None, Query(description="Only values of this field")] = None,
        limit: Annotated[int, Query(ge=1, le=MAX_LIMIT)] = 100,
        before: Annotated[int | None, Query(ge=1, le=2**62, description="next of the page before")] = None,
    ) -> Response:
        def look(store: SqlListStore) -> dict[str, Any]:
            wanted = None if field is None else values.known(field)
            found = store.entries(values.name(name), field=wanted, before=before, limit=limit)
            more = len(found) == limit
            return {
                "entries": [shown(entry, values) for entry in found],
                "next": found[-1].number if more else None,
            }

        return Response(msgspec.json.encode(await asking.lists(look)), media_type=JSON)

    @routes.post(
        "/v1/lists/{name}/entries",
        summary="Put values into a list, or renew them",
        responses=changed,
        openapi_extra=json_body(_ADD),
        **writing,
    )
    async def add(name: str, request: Request) -> Response:
        wanted = decoded(await body(request), AddEntries)
        reason, by, now = said(wanted.reason), by_of(request), deps.clock.now()

        def change(store: SqlListStore) -> Any:
            new = [
                NewEntry(
                    field=one.field,
                    value=values.value(one.field, str(one.value)),
                    expires_at=expiry(one.expires_at, one.expires_in, now),
                    source=one.source,
                    note=one.note,
                )
                for one in wanted.entries
            ]
            return store.put(values.name(name), new, by=by, reason=reason)

        return await asking.told(deps.publish_lists, {"changed": await asking.lists(change)})

    @routes.post(
        "/v1/lists/{name}/entries:remove",
        summary="Take values out of a list",
        responses=changed,
        openapi_extra=json_body(_REMOVE),
        **writing,
    )
    async def remove(name: str, request: Request) -> Response:
        wanted = decoded(await body(request), RemoveEntries)
        reason, by = said(wanted.reason), by_of(request)

        def change(store: SqlListStore) -> Any:
            return store.remove(
                values.name(name), [stored(one) for one in wanted.entries], by=by, reason=reason
            )

        return await asking.told(deps.publish_lists, {"changed": await asking.lists(change)})

    @routes.delete(
        "/v1/lists/{name}/entries",
        summary="Take one value out of a list",
        responses={k: v for k, v in changed.items() if k not in (408, 413, 415)},
        **writing,
    )
    async def delete(
        name: str,
        request: Request,
        field: Annotated[str, Query(max_length=100)],
        value: Annotated[str, Query(max_length=4096, description="as on the wire, or as the list shows it")],
        reason: Annotated[str, Query(min_length=1, max_length=500, description="kept in the audit")],
        hashed: Annotated[bool, Query(description="value is as the list shows it")] = False,
    ) -> Response:
        why, by = said(reason), by_of(request)

        def change(store: SqlListStore) -> Any:
            one = stored(WrittenValue(field=values.known(field), value=value, hashed=hashed))
            return store.remove(values.name(name), [one], by=by, reason=why)

        return await asking.told(deps.publish_lists, {"changed": await asking.lists(change)})

    return routes


def expiry(at: str | None, seconds: int | None, now: int) -> int | None:
    """When an entry ends (UTC microseconds), given as a moment or from ``now`` on. Raises ProblemError 422."""
    if at is not None and seconds is not None:
        raise invalid("expires_at", "give expires_at or expires_in, not both")
    if seconds is not None:
        return now + seconds * 1_000_000
    if at is None:
        return None
    try:
        return to_micros(msgspec.convert(at, type=_Moment))
    except (msgspec.ValidationError, OverflowError):
        raise invalid(
            "expires_at", "expires_at must be a moment with its zone", "write it as 2026-01-31T12:00:00Z"
        ) from None


def shown(entry: ListEntry, values: ListValues) -> dict[str, Any]:
    """An entry as people read it."""
    return {
        **msgspec.structs.asdict(entry),
        "expires_at": None if entry.expires_at is None else moment(entry.expires_at),
        "added_at": moment(entry.added_at),
        "hashed": values.sensitive(entry.field),
    }


def moment(micros: int) -> str:
    """RFC 3339, UTC."""
    return from_micros(micros).isoformat().replace("+00:00", "Z")


_REASON = {"type": "string", "minLength": 1, "maxLength": 500, "description": "kept in the audit"}
_VALUE = {
    "type": ["string", "integer"],
    "description": "as on the wire; kept as a keyed hash where sensitive",
}
EXPIRES: dict[str, Any] = {
    "expires_at": {
        "type": ["string", "null"],
        "format": "date-time",
        "description": "the entry counts for events that happen before",
    },
    "expires_in": {
        "type": ["integer", "null"],
        "minimum": 1,
        "maximum": MOST_SECONDS,
        "description": "seconds",
    },
}
_ADD: dict[str, Any] = {
    "type": "object",
    "required": ["reason", "entries"],
    "additionalProperties": False,
    "properties": {
        "reason": _REASON,
        "entries": {
            "type": "array",
            "minItems": 1,
            "maxItems": MOST,
            "items": {
                "type": "object",
                "required": ["field", "value"],
                "additionalProperties": False,
                "properties": {
                    "field": {"type": "string"},
                    "value": _VALUE,
                    **EXPIRES,
                    "source": {"type": "string", "maxLength": 100, "default": "api"},
                    "note": {"type": "string", "maxLength": 500, "default": ""},
                },
            },
        },
    },
}
_REMOVE: dict[str, Any] = {
    "type": "object",
    "required": ["reason", "entries"],
    "additionalProperties": False,
    "properties": {
        "reason": _REASON,
        "entries": {
            "type": "array",
            "minItems": 1,
            "maxItems": MOST,
            "items": {
                "type": "object",
                "required": ["field", "value"],
                "additionalProperties": False,
                "properties": {
                    "field": {"type": "string"},
                    "value": _VALUE,
                    "hashed": {
                        "type": "boolean",
                        "default": False,
                        "description": "value as the list shows it",
                    },
                },
            },
        },
    },
}
CHANGED: dict[str, Any] = {
    JSON: {
        "schema": {
            "type": "object",
            "required": ["changed", "published"],
            "properties": {
                "changed": {"$ref": "#/components/schemas/ListsChanged"},
                "published": {"type": "boolean", "description": "whether the workers can know of it"},
            },
        }
    }
}
ENTRY: dict[str, Any] = {
    "type": "object",
    "required": ["list", "field", "value", "expires_at", "source", "note", "added_at", "added_by", "hashed"],
    "properties": {
        **{name: {"type": "string"} for name in ("list", "field", "value", "source", "note", "added_by")},
        "expires_at": {"type": ["string", "null"], "format": "date-time"},
        "added_at": {"type": "string", "format": "date-time"},
        "number": {"type": "integer", "description": "of the change that made it so"},
        "hashed": {"type": "boolean", "description": "value is the keyed hash of what was written"},
    },
}
_LISTS: dict[str, Any] = {
    JSON: {
        "schema": {
            "type": "object",
            "required": ["version", "lists"],
            "properties": {
                "version": {"type": "integer", "description": "l<version> in verdicts"},
                "lists": {"type": "array", "items": {"$ref": "#/components/schemas/ListSummary"}},
            },
        }
    }
}
_PAGE: dict[str, Any] = {
    JSON: {
        "schema": {
            "type": "object",
            "required": ["entries", "next"],
            "properties": {
                "entries": {"type": "array", "items": ENTRY},
                "next": {"type": ["integer", "null"], "description": "before of the next page"},
            },
        }
    }
}
