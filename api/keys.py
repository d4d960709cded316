"""Who asks, by API key or by a token of the organisation's identity provider: ``Authorization: Bearer ...``."""

from __future__ import annotations

import hmac
from collections.abc import Awaitable
from dataclasses import dataclass
from math import ceil
from typing import Protocol

from fastapi import Request
from prometheus_client import CollectorRegistry, Counter

from api.access import EVERYTHING, Principal, Scope
from api.key_ring import KeyRing
from api.problems import ProblemError
from api.rates import Rates
from domain.clock import Clock
from domain.errors import Fatal
from lifecycle.keys import fingerprint, key_id_of

__all__ = ["KeyAccess", "Rate", "RootKey", "Tokens"]

MAX_CREDENTIAL = 8_192
"""Of one Authorization header; tokens with many roles have 2 kB."""
_SCOPES = {scope.value: scope for scope in Scope}
_UNKNOWN = "0" * 64


@dataclass(frozen=True, slots=True)
class Rate:
    """What somebody without a rate of their own may ask: ``rate`` requests a second, ``burst`` at once."""

    rate: float = 1_000.0
    burst: int = 2_000


class Tokens(Protocol):
    """Believes tokens of an identity provider."""

    def principal(self, token: str) -> Awaitable[Principal | None]:
        """Whose token it is; None when it is not to be believed. Raises Retriable."""
        ...


class RootKey:
    """The key of the environment (TIDEGATE_API_KEY): may do everything, and is in no database.

    For a first start, and for making other keys. Raises Fatal for what is no key.
    """

    def __init__(self, text: str) -> None:
        if key_id_of(text) is None:
            raise Fatal(
                "TIDEGATE_API_KEY is no key",
                remedy="make one with `tidegate keys root`",
            )
        self.id = key_id_of(text)
        self._sha256 = fingerprint(text)

    def is_of(self, text: str) -> bool:
        """Whether ``text`` is this key; takes as long whatever the difference."""
        return hmac.compare_digest(self._sha256, fingerprint(text))


class KeyAccess:
    """Believes keys of ``ring``, the root key, and ``tokens``; everybody has a rate."""

    def __init__(
        self,
        ring: KeyRing,
        clock: Clock,
        registry: CollectorRegistry,
        *,
        root: RootKey | None = None,
        tokens: Tokens | None = None,
        rate: Rate = Rate(),  # frozen
    ) -> None:
        self._ring = ring
        self._clock = clock
        self._root = root
        self._tokens = tokens
        self._rate = rate
        self._rates = Rates(clock)
        self._refused = Counter(
            "tidegate_api_refused",
            "Requests refused for who asks (missing, malformed, unknown, token) or how often (rate)",
            ["why"],
            registry=registry,
        )

    async def identify(self, request: Request) -> Principal:
        """Who sent ``request``. Raises ProblemError 401 and 429, Retriable."""
        credential = self._credential(request)
        key_id = key_id_of(credential)
        if key_id is not None:
            return await self._by_key(key_id, credential)
        if credential.startswith("tg_") or self._tokens is None:
            raise self._unknown("malformed")
        principal = await self._tokens.principal(credential)
        if principal is None:
            raise self._unknown("token")
        self._count(principal.name, self._rate.rate, self._rate.burst)
        return principal

    def _credential(self, request: Request) -> str:
        given = request.headers.getlist("authorization")
        if not given:
            raise self._unknown("missing")
        scheme, _, credential = given[0].partition(" ")
        credential = credential.strip()
        # of two, a proxy before us might have believed the other
        if len(given) > 1 or scheme.lower() != "bearer" or not 0 < len(credential) <= MAX_CREDENTIAL:
            raise self._unknown("malformed")
        return credential

    async def _by_key(self, key_id: str, text: str) -> Principal:
        if self._root is not None and self._root.id == key_id:
            if not self._root.is_of(text):
                raise self._unknown("unknown")
            self._count(key_id, self._rate.rate, self._rate.burst)
            return Principal("key of the environment", EVERYTHING)
        stored = await self._ring.find(key_id)
        if stored is None:
            # as much work as for a known id
            hmac.compare_digest(_UNKNOWN, fingerprint(text))
            raise self._unknown("unknown")
        if not stored.is_of(text) or not stored.key.live(self._clock.now()):
            raise self._unknown("unknown")
        key = stored.key
        rate = self._rate.rate if key.rate is None else key.rate
        burst = key.burst or (self._rate.burst if key.rate is None else max(1, ceil(2 * key.rate)))
        self._count(key_id, rate, burst)
        scopes = frozenset(_SCOPES[name] for name in key.scopes if name in _SCOPES)
        return Principal(f"key {key.name} ({key_id})", scopes)

    def _count(self, who: str, rate: float, burst: int) -> None:
        wait = self._rates.wait(who, rate, burst)
        if wait:
            self._refused.labels("rate").inc()
            raise ProblemError(
                429,
                "too-many-requests",
                f"more than {rate:g} requests a second",
                remedy="wait as Retry-After says, or ask for a higher rate of this key",
                headers={"Retry-After": str(ceil(wait))},
            )

    def _unknown(self, why: str) -> ProblemError:
        """The same answer whatever is wrong: nobody learns which ids there are."""
        self._refused.labels(why).inc()
        return ProblemError(
            401,
            "unauthenticated",
            "this needs a valid key or token",
            remedy="send the header Authorization: Bearer KEY; `tidegate keys create` makes one",
            headers={"WWW-Authenticate": "Bearer"},
        )
