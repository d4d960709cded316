"""Tokens of an identity provider (OpenID Connect): signed JWTs (RFC 7519), checked as RFC 8725 advises.

Pinned are the algorithms (signatures by public key only), issuer and audience. What a token says of where its key
might be found (``jku``, ``x5u``, ``jwk``) is not looked at.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jwt
import structlog
from jwt.exceptions import PyJWTError

from api.access import ROLES, Principal, Scope
from api.problems import ProblemError
from api.threads import Threads
from domain.clock import Clock
from domain.errors import Fatal, Retriable

__all__ = ["ALGORITHMS", "OidcTokens", "TokenRules"]

_LOG = structlog.get_logger(__name__)
ALGORITHMS = frozenset(
    {"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"}
)
LEEWAY_SECONDS = 30.0
"""Between the provider's clock and ours."""
REFRESH_SECONDS = 600.0
"""Providers change keys over days, and publish new ones before they use them."""
UNKNOWN_SECONDS = 30.0
"""So long after a look no other one is taken for a key we do not know: anybody can invent key ids."""
MAX_NAME = 200


@dataclass(frozen=True, slots=True)
class TokenRules:
    """Whose tokens are believed, and what their roles mean. Raises Fatal for what can not be.

    ``claim`` leads to the roles, inwards; ``roles`` maps the issuer's names of roles to those of
    :data:`api.access.ROLES`.
    """

    issuer: str
    audience: str
    algorithms: Sequence[str]
    claim: Sequence[str]
    roles: Mapping[str, str]
    pipeline: str
    meaning: Mapping[str, str] = field(init=False)

    def __post_init__(self) -> None:
        wrong = set(self.algorithms) - ALGORITHMS
        if wrong or not self.algorithms:
            raise Fatal(
                f"TIDEGATE_OIDC_ALGORITHMS names {', '.join(sorted(wrong)) or 'none'}",
                remedy=f"use some of {', '.join(sorted(ALGORITHMS))}; others do not prove who signed",
            )
        unknown = set(self.roles.values()) - ROLES.keys()
        if unknown:
            raise Fatal(
                f"TIDEGATE_OIDC_ROLES names the role {sorted(unknown)[0]}",
                remedy=f"use {', '.join(ROLES)}",
            )
        # a role without a pipeline would open every tenant's API
        default = {f"{self.pipeline}:{role}": role for role in ROLES}
        object.__setattr__(self, "meaning", self.roles or default)

    def scopes(self, payload: Mapping[str, Any]) -> frozenset[Scope]:
        """All that the token's roles may; none for one without a role of ours."""
        found: Any = payload
        for name in self.claim:
            found = found.get(name) if isinstance(found, dict) else None
        named = [found] if isinstance(found, str) else found if isinstance(found, list) else []
        granted = [self.meaning.get(name) for name in named if isinstance(name, str)]
        return frozenset().union(*(ROLES[role] for role in granted if role is not None))


class OidcTokens:
    """Believes tokens that ``rules`` allow, signed by a key that ``load`` gives.

    ``load`` returns the provider's JWKS (RFC 7517) as decoded JSON; blocking, run in a thread; raises Retriable.
    """

    def __init__(
        self,
        rules: TokenRules,
        load: Callable[[], Any],
        clock: Clock,
        *,
        answer_seconds: float = 10.0,
    ) -> None:
        self._rules = rules
        self._load = load
        self._clock = clock
        self._threads = Threads(1, answer_seconds)
        self._keys: dict[str | None, jwt.PyJWK] = {}
        self._looked_at: float | None = None
        self._lock = asyncio.Lock()

    async def principal(self, token: str) -> Principal | None:
        """Whose token it is; None when it is not to be believed. Raises Retriable before any key is known."""
        try:
            header = jwt.get_unverified_header(token)
        except (PyJWTError, ValueError, RecursionError):
            return None
        kid = header.get("kid")
        if header.get("alg") not in self._rules.algorithms or not (kid is None or isinstance(kid, str)):
            return None
        key = await self._key(kid)
        payload = None if key is None else self._believed(token, key)
        if payload is None:
            return None
        name = payload["sub"]
        return Principal(f"user {name}", self._rules.scopes(payload))

    def _believed(self, token: str, key: jwt.PyJWK) -> dict[str, Any] | None:
        try:
            payload: dict[str, Any] = jwt.decode(
                token,
                key,
                algorithms=list(self._rules.algorithms),
                audience=self._rules.audience,
                issuer=self._rules.issuer,
                # times are checked below, on our clock
                options={
                    "require": ["exp", "iss", "aud", "sub"],
                    "verify_exp": False,
                    "verify_nbf": False,
                    "verify_iat": False,
                    "enforce_minimum_key_length": True,
                },
            )
        except (PyJWTError, ValueError, TypeError, RecursionError):
            return None
        now = self._clock.now() / 1e6
        name = payload["sub"]
        if not isinstance(name, str) or not 0 < len(name) <= MAX_NAME or not name.isprintable():
            return None
        ends = _seconds(payload["exp"])
        begins = [_seconds(payload[claim]) for claim in ("nbf", "iat") if claim in payload]
        if ends is None or now >= ends + LEEWAY_SECONDS:
            return None
        if any(moment is None or moment > now + LEEWAY_SECONDS for moment in begins):
            return None
        return payload

    async def _key(self, kid: str | None) -> jwt.PyJWK | None:
        found = self._keys.get(kid)
        age = self._age()
        if age > REFRESH_SECONDS or (found is None and age > UNKNOWN_SECONDS):
            await self._refresh()
            found = self._keys.get(kid)
        if not self._keys:
            raise Retriable("the identity provider's keys could not be read", remedy="see TIDEGATE_OIDC_JWKS")
        return found

    def _age(self) -> float:
        return math.inf if self._looked_at is None else self._clock.monotonic() - self._looked_at

    async def _refresh(self) -> None:
        """Read the keys again; a failure leaves what is there."""
        async with self._lock:
            if self._age() <= UNKNOWN_SECONDS:
                return
            try:
                keys = _usable(await self._threads.run(self._load), self._rules.algorithms)
            except (Retriable, ProblemError) as error:
                _LOG.warning("the identity provider's keys could not be read", error=str(error))
                keys = {}
            # also after a failure: somebody else's outage must not be made worse
            self._looked_at = self._clock.monotonic()
            if keys:
                self._keys = keys


def _usable(document: Any, algorithms: Sequence[str]) -> dict[str | None, jwt.PyJWK]:
    """The keys that verify one of ``algorithms``, by id; a single one also without. Raises Retriable for other JSON."""
    listed = document.get("keys") if isinstance(document, dict) else None
    if not isinstance(listed, list):
        raise Retriable("the identity provider's keys are no JWKS", remedy="check TIDEGATE_OIDC_JWKS")
    found: dict[str | None, jwt.PyJWK] = {}
    usable = []
    for entry in listed:
        if not isinstance(entry, dict) or entry.get("use", "sig") != "sig":
            continue
        try:
            key = jwt.PyJWK(entry)
        except (PyJWTError, ValueError, TypeError):
            continue
        # a symmetric key would let whoever reads the JWKS sign
        if key.algorithm_name in algorithms:
            usable.append(key)
            if isinstance(key.key_id, str):
                found[key.key_id] = key
    if len(usable) == 1:
        found[None] = usable[0]
    return found


def _seconds(value: object) -> float | None:
    """A NumericDate; None for what is none."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)
