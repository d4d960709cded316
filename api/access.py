"""Who asks, and what they may: every route names the scope that it needs.

A route declares it once, ``dependencies=[needs(deps, Scope.RULES_WRITE)]``, and asks :func:`principal_of` for the name
that goes into the audit. Who somebody is comes from the port ``Access`` of the dependencies. :func:`routes_of` and
:func:`needed` tell which route needs what: the OpenAPI document says it, and a test walks all of them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Protocol

from fastapi import Depends, Request
from starlette.routing import BaseRoute

from api.problems import ProblemError

if TYPE_CHECKING:
    from api.deps import ApiDeps

__all__ = [
    "EVERYTHING",
    "ROLES",
    "Access",
    "EverybodyOnThisMachine",
    "Principal",
    "Scope",
    "asked_by",
    "needed",
    "needs",
    "principal_of",
    "routes_of",
]

_LOCAL = "local"
_LOOPBACK = re.compile(r"(localhost|127\.0\.0\.1|\[::1\])(:[0-9]{1,5})?", re.IGNORECASE)


class Scope(StrEnum):
    """What a key or a person may do."""

    SCORE = "score"
    """Send events and ask for their verdicts by id."""
    VERDICTS_READ = "verdicts:read"
    """See verdicts, the live stream and drift."""
    LABELS_WRITE = "labels:write"
    """Say what events turned out to be."""
    CASES_READ = "cases:read"
    CASES_WRITE = "cases:write"
    """Assign and decide review cases."""
    RULES_READ = "rules:read"
    """Rules, lists and tags."""
    RULES_WRITE = "rules:write"
    MODELS_READ = "models:read"
    MODELS_WRITE = "models:write"
    """Promote and roll back."""
    WEBHOOKS_READ = "webhooks:read"
    WEBHOOKS_WRITE = "webhooks:write"
    AUDIT_READ = "audit:read"
    ENTITIES_ERASE = "entities:erase"
    KEYS_WRITE = "keys:write"
    """See, make, rotate and revoke keys."""
    METRICS_READ = "metrics:read"
    """The API's metrics, for Prometheus."""


EVERYTHING = frozenset(Scope)

_VIEWER = frozenset(
    {Scope.VERDICTS_READ, Scope.CASES_READ, Scope.RULES_READ, Scope.MODELS_READ, Scope.WEBHOOKS_READ}
)
_ANALYST = _VIEWER | {Scope.LABELS_WRITE, Scope.CASES_WRITE, Scope.RULES_WRITE, Scope.AUDIT_READ}
ROLES = {"viewer": _VIEWER, "analyst": _ANALYST, "admin": EVERYTHING}
"""What people in a role may do: see; work on cases, labels, rules and lists too; everything."""


@dataclass(frozen=True, slots=True)
class Principal:
    """Somebody who asks: ``name`` goes into the audit."""

    name: str
    scopes: frozenset[Scope]


class Access(Protocol):
    """Finds out who asks."""

    async def identify(self, request: Request) -> Principal:
        """Who sent ``request``. Raises ProblemError 401 (nobody known), 429 (asks too often), Retriable."""
        ...


class EverybodyOnThisMachine:
    """Without configured authentication: the API listens on loopback only, and who reaches it may do anything.

    With ``only_local_names`` a request must call us by a name of loopback. A page in a browser here that had its own
    name resolve to 127.0.0.1 (DNS rebinding) could otherwise read and change everything.
    """

    def __init__(self, *, only_local_names: bool = False) -> None:
        self._only_local_names = only_local_names

    async def identify(self, request: Request) -> Principal:
        """Always the same. Raises ProblemError 403 for a foreign name."""
        if self._only_local_names and not _LOOPBACK.fullmatch(request.headers.get("host", "")):
            raise ProblemError(
                403,
                "forbidden",
                "without authentication this API answers on loopback only",
                remedy="ask 127.0.0.1 or localhost, or configure authentication (docs/access.md)",
            )
        return Principal(_LOCAL, EVERYTHING)


class _Check:
    """What :func:`needs` hangs on a route."""

    def __init__(self, deps: ApiDeps, scopes: frozenset[Scope]) -> None:
        self._deps = deps
        self.scopes = scopes

    async def __call__(self, request: Request) -> None:
        principal = await self._deps.access.identify(request)
        if self.scopes and not self.scopes & principal.scopes:
            wanted = " or ".join(sorted(self.scopes))
            raise ProblemError(
                403,
                "forbidden",
                f"{principal.name} lacks the scope {wanted}",
                remedy="use a key or a role that has it; `tidegate keys` makes keys",
            )
        request.scope["tidegate_principal"] = principal


def needs(deps: ApiDeps, *scopes: Scope) -> Any:
    """A route's dependency: 401 unless somebody known asks, 403 unless they have one of ``scopes``.

    Without scopes whoever is known may.
    """
    return Depends(_Check(deps, frozenset(scopes)))


def routes_of(routes: Iterable[BaseRoute]) -> Iterator[BaseRoute]:
    """Every route, those of included routers too (FastAPI keeps them apart)."""
    for route in routes:
        inner = getattr(route, "original_router", None)
        if inner is None:
            yield route
        else:
            yield from routes_of(inner.routes)


def needed(route: BaseRoute) -> frozenset[Scope] | None:
    """The scopes of which ``route`` needs one (none: somebody known); None when it asks nobody who they are."""
    for dependency in getattr(route, "dependencies", ()):
        if isinstance(dependency.dependency, _Check):
            return dependency.dependency.scopes
    return None


def principal_of(request: Request) -> Principal:
    """Who asks, on a route with :func:`needs`."""
    found = request.scope["tidegate_principal"]
    assert isinstance(found, Principal)  # noqa: S101  # set by needs() and nobody else
    return found


def asked_by(request: Request, claimed: str | None) -> str:
    """Who is answerable for a change, for the audit; ``claimed`` is what the body says about it.

    Somebody known by key or token stays so, whatever the body claims.
    """
    name = principal_of(request).name
    if name == _LOCAL:
        return f"{claimed or 'somebody'} (API)"
    return f"{name} for {claimed}" if claimed else name
