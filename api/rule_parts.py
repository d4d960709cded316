"""What the routes of rules and lists share: the stores, their errors as problems, and telling the workers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import msgspec
import structlog
from fastapi import Request
from starlette.responses import Response

from api.access import principal_of
from api.deps import ApiDeps
from api.problems import ProblemError
from api.threads import Threads
from domain.errors import RulesInvalid, TidegateError
from domain.list_values import ListInvalid
from lifecycle.database import Database
from lifecycle.list_store import ListFull, SqlListStore
from lifecycle.rule_changes import rule_store
from lifecycle.rule_store import SqlRuleStore, UnknownRule

__all__ = ["JSON", "Asking", "Described", "by_of", "decoded", "invalid", "json_body", "rules_problem", "said"]

_LOG = structlog.get_logger(__name__)
JSON = "application/json"
Described = dict[int | str, dict[str, Any]]
Records = dict[str, Any]
T = TypeVar("T")
MOST_REASON = 500


class Asking:
    """Asks the stores on threads, and tells the workers of what has changed."""

    def __init__(self, deps: ApiDeps) -> None:
        self._deps = deps
        self._threads = Threads(4, deps.limits.answer_seconds)
        self._publishing = Threads(2, deps.limits.publish_seconds)

    async def rules(self, call: Callable[[SqlRuleStore], T]) -> T:
        """What ``call`` says of the rules."""
        return await self._asked(
            lambda: call(rule_store(self._database(), self._deps.pipeline, self._deps.clock))
        )

    async def lists(self, call: Callable[[SqlListStore], T]) -> T:
        """What ``call`` says of the lists."""
        return await self._asked(
            lambda: call(SqlListStore(self._database(), self._deps.pipeline.name, self._deps.clock))
        )

    async def told(self, publish: Callable[[], object] | None, body: Records) -> Response:
        """``body`` as the answer to a change: 200 when the workers can know of it, else 202."""
        published = await self._published(publish)
        answer = msgspec.json.encode({**body, "published": published})
        return Response(answer, 200 if published else 202, media_type=JSON)

    async def _published(self, publish: Callable[[], object] | None) -> bool:
        if publish is None:
            return False
        try:
            await self._publishing.run(publish)
        except (TidegateError, ProblemError) as error:
            _LOG.warning("the database has changed, but the workers were not told yet", error=str(error))
            return False
        return True

    def _database(self) -> Database:
        if self._deps.database is None:
            raise ProblemError(
                404, "no-database", "this API has no database of rules", remedy="set TIDEGATE_DATABASE_URL"
            )
        return self._deps.database()

    async def _asked(self, call: Callable[[], T]) -> T:
        try:
            return await self._threads.run(call)
        except RulesInvalid as error:
            raise rules_problem(error) from None
        except UnknownRule as error:
            raise ProblemError(404, "no-such-rule", error.message, remedy=error.remedy) from None
        except ListInvalid as error:
            raise ProblemError(
                422, "invalid-parameter", error.message, remedy=error.remedy, field=error.field
            ) from None
        except ListFull as error:
            raise ProblemError(409, "lists-full", error.message, remedy=error.remedy) from None


def rules_problem(error: RulesInvalid) -> ProblemError:
    """Every mistake in rules, as 422."""
    found = [
        {"rule": p.rule, "field": p.field, "detail": p.reason, "remedy": p.remedy, "column": p.column}
        for p in error.problems
    ]
    return ProblemError(
        422,
        "rules-invalid",
        f"{len(found)} mistake(s) in the rules; nothing was changed",
        remedy="correct what errors names",
        errors=found,
    )


def by_of(request: Request) -> str:
    """Who asks, for the audit."""
    return f"{principal_of(request).name} (API)"


def decoded(raw: bytes, kind: type[T]) -> T:
    """The body as ``kind``; raises ProblemError 422, without values, which may be card numbers."""
    try:
        return msgspec.json.decode(raw, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise invalid("body", f"the body is not what it should be: {error}") from None


def invalid(field: str, detail: str, remedy: str = "see /openapi.json") -> ProblemError:
    """A 422."""
    return ProblemError(422, "invalid-parameter", detail, remedy=remedy, field=field)


def said(reason: str) -> str:
    """``reason``, if it says anything; raises ProblemError 422."""
    if not reason.strip() or len(reason) > MOST_REASON or not reason.isprintable():
        raise invalid("reason", f"reason must have 1 to {MOST_REASON} printable characters")
    return reason


def json_body(schema: Records) -> dict[str, Any]:
    """OpenAPI's description of a required body."""
    return {"requestBody": {"required": True, "content": {JSON: {"schema": schema}}}}
