"""Who asks, and what they may: every route names the scope that it needs.

A route declares it once, ``dependencies=[needs(deps, Scope.RULES_WRITE)]``, and asks :func:`principal_of` for the name
that goes into the audit. Who somebody is comes from the port ``Access`` of the dependencies.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Protocol

from fastapi import Depends, Request

from api.problems import ProblemError

if TYPE_CHECKING:
    from api.deps import ApiDeps

__all__ = ["EVERYTHING", "Access", "EverybodyOnThisMachine", "Principal", "Scope", "needs", "principal_of"]


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
    """Make and revoke keys."""


EVERYTHING = frozenset(Scope)


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
    """Without configured authentication: the API listens on loopback only, and who reaches it may do anything."""

    async def identify(self, request: Request) -> Principal:
        """Always the same."""
        return Principal("local", EVERYTHING)


def needs(deps: ApiDeps, scope: Scope) -> Any:
    """A route's dependency: 401 unless somebody asks, 403 unless they have ``scope``."""

    async def check(request: Request) -> None:
        principal = await deps.access.identify(request)
        if scope not in principal.scopes:
            raise ProblemError(
                403,
                "forbidden",
                f"{principal.name} lacks the scope {scope.value}",
                remedy="use a key or a role that has it; `tidegate keys` makes keys",
            )
        request.scope["tidegate_principal"] = principal

    return Depends(check)


def principal_of(request: Request) -> Principal:
    """Who asks, on a route with :func:`needs`."""
    found = request.scope["tidegate_principal"]
    assert isinstance(found, Principal)  # noqa: S101  # set by needs() and nobody else
    return found
