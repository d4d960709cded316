"""Who gets into the API, as the settings say: everybody on this machine, or who has a key or a token."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from dataclasses import dataclass

import structlog
from prometheus_client import CollectorRegistry

from api.access import Access, EverybodyOnThisMachine
from api.key_ring import KeyRing
from api.keys import KeyAccess, Rate, RootKey
from domain.clock import Clock
from domain.errors import Fatal
from lifecycle.database import Database
from lifecycle.key_store import KeyStore
from tidegate.oidc import oidc_tokens
from tidegate.settings import Settings

__all__ = ["Entrance", "entrance_of", "is_loopback"]

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Entrance:
    """Who asks, and what to call when keys were changed here."""

    access: Access
    keys_changed: Callable[[], None] = lambda: None


def entrance_of(
    settings: Settings,
    pipeline: str,
    database: Callable[[], Database],
    clock: Clock,
    registry: CollectorRegistry,
) -> Entrance:
    """The entrance to the API of ``pipeline``.

    Raises Fatal for settings that contradict each other, and for an address off loopback without authentication.
    """
    guarded = settings.api_auth or settings.api_key is not None or settings.oidc_issuer is not None
    if guarded and settings.api_open:
        raise Fatal(
            "TIDEGATE_API_OPEN lets everybody in, but other settings ask for keys or tokens",
            remedy="remove TIDEGATE_API_OPEN, or TIDEGATE_API_AUTH, TIDEGATE_API_KEY and TIDEGATE_OIDC_ISSUER",
        )
    if guarded:
        ring = KeyRing(lambda: KeyStore(database(), pipeline, clock).live(), clock)
        access = KeyAccess(
            ring,
            clock,
            registry,
            root=None if settings.api_key is None else RootKey(settings.api_key.get_secret_value()),
            tokens=oidc_tokens(settings, pipeline, clock),
            rate=Rate(settings.api_rate, max(1, round(2 * settings.api_rate))),
        )
        return Entrance(access, ring.forget)
    local = is_loopback(settings.api_host)
    if not local and not settings.api_open:
        raise Fatal(
            f"on {settings.api_host} the API could be reached from other machines, and it would let everybody in",
            remedy="set TIDEGATE_API_KEY (`tidegate keys root` makes one) or TIDEGATE_API_AUTH=true with keys of "
            "`tidegate keys create`, or TIDEGATE_OIDC_ISSUER; TIDEGATE_API_OPEN=true only where something else keeps "
            "strangers out; see docs/access.md",
        )
    if not local:
        log.warning("the API is open: whoever reaches it may do anything", host=settings.api_host)
    return Entrance(EverybodyOnThisMachine(only_local_names=local and not settings.api_open))


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches ``host``. Names but localhost count as the outside."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
