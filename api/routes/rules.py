"""``/v1/rules``: the rules in force, changing them, what they were, and trying them before."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from api.access import Scope, needs
from api.body import read_json_body
from api.deps import ApiDeps
from api.problems import ProblemError, responses
from api.rule_parts import JSON, Asking, Described, by_of, decoded, json_body, rules_problem, said
from api.rules_watch import behind
from api.threads import Threads
from domain.errors import RulesInvalid
from domain.rule_records import MAX_RECORD_BYTES, Rule, RuleSet, Typology, read_rules
from lifecycle.rule_changes import with_rule
from lifecycle.rule_store import SqlRuleStore, unknown_rule

__all__ = ["router"]

MAX_BODY = 2 * MAX_RECORD_BYTES
"""Escapes and blanks may double what is kept."""
MAX_LIMIT = 100
MOST_TRIED = 20_000
"""Verdicts of one trial; `tidegate rules test --events` takes files of any length."""
Reason = Annotated[str, msgspec.Meta(min_length=1, max_length=500)]


class ApplyRules(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What shall be in force, why, and on which ``epoch`` that was decided (it protects from overtaking)."""

    reason: Reason
    rules: list[dict[str, Any]] = []
    typologies: list[dict[str, Any]] = []
    epoch: int | None = None


class PutRule(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One rule, why, and on which ``epoch`` that was decided."""

    reason: Reason
    rule: dict[str, Any]
    epoch: int | None = None


class TryRules(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Rules, on how many of the newest verdicts."""

    rules: list[dict[str, Any]]
    typologies: list[dict[str, Any]] = []
    last: Annotated[int, msgspec.Meta(ge=1, le=MOST_TRIED)] = 1_000


def router(deps: ApiDeps) -> APIRouter:
    """The routes, bound to their ports."""
    routes = APIRouter(tags=["rules"])
    asking = Asking(deps)
    threads = Threads(2, deps.limits.answer_seconds)
    trials = Threads(1, deps.limits.publish_seconds)
    reading: dict[str, Any] = {"dependencies": [needs(deps, Scope.RULES_READ)]}
    writing: dict[str, Any] = {"dependencies": [needs(deps, Scope.RULES_WRITE)]}
    changed: Described = {
        200: {"description": "In force, and the workers are told", "content": _CHANGED},
        202: {"description": "In force; the workers will be told later", "content": _CHANGED},
        **responses(404, 408, 409, 413, 415, 422, 503),
    }

    async def body(request: Request) -> bytes:
        return await read_json_body(
            request, MAX_BODY, deps.limits.body_seconds, smaller="send fewer or shorter rules"
        )

    @routes.get(
        "/v1/rules",
        summary="The rules in force, and which workers do not go by them yet",
        responses={200: {"description": "Rules", "content": _RULES}, **responses(404, 503)},
        **reading,
    )
    async def rules() -> Response:
        current = await asking.rules(SqlRuleStore.current)
        workers = await threads.run(deps.models.workers)
        found = behind(workers, current.epoch)
        answer = {"in_force": current, "agreed": bool(workers) and not found, "behind": found}
        return Response(msgspec.json.encode(answer), media_type=JSON)

    @routes.put(
        "/v1/rules",
        summary="Put exactly these rules in force",
        responses=changed,
        openapi_extra=json_body(_APPLY),
        **writing,
    )
    async def apply(request: Request) -> Response:
        wanted = decoded(await body(request), ApplyRules)
        reason, by = said(wanted.reason), by_of(request)

        def change(store: SqlRuleStore) -> RuleSet:
            # nothing but what was written counts as one of ours: forms are checked here, meanings by the store
            found, typologies = read_rules({"rules": wanted.rules, "typologies": wanted.typologies})
            return store.apply(found, typologies, epoch=wanted.epoch, by=by, reason=reason)

        return await asking.told(deps.publish_rules, {"in_force": await asking.rules(change)})

    @routes.get(
        "/v1/rules:history",
        summary="Rule sets that were in force, newest first",
        responses={200: {"description": "One page", "content": _HISTORY}, **responses(404, 422, 503)},
        **reading,
    )
    async def history(
        limit: Annotated[int, Query(ge=1, le=MAX_LIMIT)] = 20,
        before: Annotated[int | None, Query(ge=1, le=2**62, description="next of the page before")] = None,
    ) -> Response:
        found = await asking.rules(lambda store: store.history(before=before, limit=limit))
        more = bool(found) and found[-1].epoch > 1
        answer = {"rule_sets": found, "next": found[-1].epoch if more else None}
        return Response(msgspec.json.encode(answer), media_type=JSON)

    @routes.post(
        "/v1/rules:test",
        summary="What rules would have done of the newest verdicts; changes nothing",
        responses={
            200: {"description": "What each rule would have done", "content": _TRIED},
            **responses(404, 408, 413, 415, 422, 503),
        },
        openapi_extra=json_body(_TRY),
        **reading,
    )
    async def test(request: Request) -> Response:
        wanted = decoded(await body(request), TryRules)
        trying = deps.try_rules
        if trying is None:
            raise ProblemError(404, "no-verdicts", "this API can not read verdicts", remedy="ask another one")
        try:
            rules, typologies = read_rules({"rules": wanted.rules, "typologies": wanted.typologies})
            proposed = RuleSet(
                epoch=0, rules=rules, typologies=typologies, changed_at=0, changed_by="", reason=""
            )
            report = await trials.run(lambda: trying(proposed, wanted.last))
        except RulesInvalid as error:
            raise rules_problem(error) from None
        return Response(msgspec.json.encode(report), media_type=JSON)

    @routes.get(
        "/v1/rules/{rule_id}",
        summary="One rule or typology, and what it was before",
        responses={200: {"description": "The rule", "content": _ONE}, **responses(404, 503)},
        **reading,
    )
    async def rule(rule_id: str) -> Response:
        def look(store: SqlRuleStore) -> dict[str, Any]:
            current, versions = store.current(), store.versions(_usable(rule_id, deps))
            ones: tuple[Rule | Typology, ...] = (*current.rules, *current.typologies)
            mine = next((one for one in ones if one.id == rule_id), None)
            if mine is None:
                raise unknown_rule(rule_id, deps.pipeline.name)
            return {"rule": mine, "epoch": current.epoch, "versions": versions}

        return Response(msgspec.json.encode(await asking.rules(look)), media_type=JSON)

    @routes.put(
        "/v1/rules/{rule_id}",
        summary="Add a rule, or change it",
        responses=changed,
        openapi_extra=json_body(_PUT),
        **writing,
    )
    async def put(rule_id: str, request: Request) -> Response:
        wanted = decoded(await body(request), PutRule)
        reason, by = said(wanted.reason), by_of(request)

        def change(store: SqlRuleStore) -> RuleSet:
            current = store.current()
            epoch = current.epoch if wanted.epoch is None else wanted.epoch
            return store.put(with_rule(current, rule_id, wanted.rule), epoch=epoch, by=by, reason=reason)

        return await asking.told(deps.publish_rules, {"in_force": await asking.rules(change)})

    @routes.delete(
        "/v1/rules/{rule_id}",
        summary="Take a rule or typology away",
        responses={k: v for k, v in changed.items() if k not in (408, 413, 415)},
        **writing,
    )
    async def delete(
        rule_id: str,
        request: Request,
        reason: Annotated[str, Query(min_length=1, max_length=500, description="kept in the audit")],
        epoch: Annotated[int | None, Query(ge=0, le=2**62, description="on which this was decided")] = None,
    ) -> Response:
        why, by = said(reason), by_of(request)
        after = await asking.rules(
            lambda store: store.delete(_usable(rule_id, deps), epoch=epoch, by=by, reason=why)
        )
        return await asking.told(deps.publish_rules, {"in_force": after})

    return routes


def _usable(rule_id: str, deps: ApiDeps) -> str:
    """The id, if one may be called so: databases refuse some texts."""
    if not 1 <= len(rule_id) <= 63 or not rule_id.isascii() or not rule_id.isprintable():
        raise unknown_rule(rule_id, deps.pipeline.name)
    return rule_id


_REASON = {"type": "string", "minLength": 1, "maxLength": 500, "description": "kept in the audit"}
_EPOCH = {
    "type": ["integer", "null"],
    "description": "in_force.epoch on which this was decided; 409 when it is another by now",
}
_ONES = {"type": "array", "items": {"type": "object"}}
_APPLY: dict[str, Any] = {
    "type": "object",
    "required": ["reason"],
    "additionalProperties": False,
    "properties": {
        "reason": _REASON,
        "rules": {**_ONES, "maxItems": 500, "description": "docs/rules.md says what a rule is"},
        "typologies": {**_ONES, "maxItems": 50},
        "epoch": _EPOCH,
    },
}
_PUT: dict[str, Any] = {
    "type": "object",
    "required": ["reason", "rule"],
    "additionalProperties": False,
    "properties": {"reason": _REASON, "rule": {"type": "object"}, "epoch": _EPOCH},
}
_TRY: dict[str, Any] = {
    "type": "object",
    "required": ["rules"],
    "additionalProperties": False,
    "properties": {
        "rules": {**_ONES, "maxItems": 500, "description": "as in PUT /v1/rules"},
        "typologies": {**_ONES, "maxItems": 50},
        "last": {"type": "integer", "minimum": 1, "maximum": MOST_TRIED, "default": 1_000},
    },
}
_TRIED: dict[str, Any] = {JSON: {"schema": {"$ref": "#/components/schemas/TrialReport"}}}
_SET = {"$ref": "#/components/schemas/RuleSet"}
_CHANGED: dict[str, Any] = {
    JSON: {
        "schema": {
            "type": "object",
            "required": ["in_force", "published"],
            "properties": {
                "in_force": _SET,
                "published": {"type": "boolean", "description": "whether the workers can know of it"},
            },
        }
    }
}
_RULES: dict[str, Any] = {
    JSON: {
        "schema": {
            "type": "object",
            "required": ["in_force", "agreed", "behind"],
            "properties": {
                "in_force": _SET,
                "agreed": {"type": "boolean", "description": "all workers alive go by these rules"},
                "behind": {
                    "type": "array",
                    "items": {"type": "string"},
                    "description": "workers that do not",
                },
            },
        }
    }
}
_HISTORY: dict[str, Any] = {
    JSON: {
        "schema": {
            "type": "object",
            "required": ["rule_sets", "next"],
            "properties": {
                "rule_sets": {"type": "array", "items": _SET},
                "next": {"type": ["integer", "null"], "description": "before of the next page"},
            },
        }
    }
}
_ONE: dict[str, Any] = {
    JSON: {
        "schema": {
            "type": "object",
            "required": ["rule", "epoch", "versions"],
            "properties": {
                "rule": {
                    "anyOf": [
                        {"$ref": "#/components/schemas/Rule"},
                        {"$ref": "#/components/schemas/Typology"},
                    ]
                },
                "epoch": {"type": "integer"},
                "versions": {"type": "array", "items": {"$ref": "#/components/schemas/RuleVersion"}},
            },
        }
    }
}
