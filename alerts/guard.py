"""Guard against server-side request forgery: which addresses a webhook may be delivered to.

A name is resolved once, every address it has must be allowed, and the connection goes to one of exactly these: a name
that answers differently a moment later (DNS rebinding) gains nothing, and neither does one with a public and a private
address. Addresses that carry an IPv4 address (mapped, 6to4, Teredo, NAT64) are judged by that one too.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

from domain.errors import Fatal, TidegateError

__all__ = ["AddressGuard", "AddressRefused", "parse_networks"]

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

_NAT64 = IPv6Network("64:ff9b::/96")
"""RFC 6052: the last 32 bits are an IPv4 address, which a gateway connects to."""


class AddressRefused(TidegateError):
    """Nothing is sent there; ``code`` is what the delivery log shows."""

    def __init__(self, code: str, message: str, *, remedy: str) -> None:
        super().__init__(message, remedy=remedy)
        self.code = code


def parse_networks(text: str) -> tuple[Network, ...]:
    """Networks in CIDR notation with commas between; an address alone is a network of one. Raises Fatal.

    >>> parse_networks("10.0.0.0/8, ::1")
    (IPv4Network('10.0.0.0/8'), IPv6Network('::1/128'))
    """
    try:
        return tuple(ip_network(part.strip()) for part in text.split(",") if part.strip())
    except ValueError as error:
        raise Fatal(
            f"TIDEGATE_WEBHOOK_PRIVATE is no list of networks: {error}",
            remedy="write networks such as 10.20.0.0/16,fd00::/8, with commas between",
        ) from None


class AddressGuard:
    """Lets global addresses pass, and those in the networks ``allowed``."""

    def __init__(self, allowed: Sequence[Network] = ()) -> None:
        self._allowed = tuple(allowed)

    def choose(self, found: Sequence[str], *, encrypted: bool) -> str:
        """The address to connect to, of all that a name resolved to.

        ``encrypted``: whether TLS is spoken; without it only allowed private networks are reached. Raises
        AddressRefused when there is none, or when any of them is not allowed.
        """
        if not found:
            raise AddressRefused(
                "no_address", "the name has no address", remedy="check the endpoint's URL and the name server"
            )
        for text in found:
            self._check(text, encrypted)
        return found[0]

    def _check(self, text: str, encrypted: bool) -> None:
        try:
            address = ip_address(text)
        except ValueError:
            raise _refused() from None
        if self._is_allowed(address):
            return
        if not all(_is_public(one) for one in _readings(address)):
            raise _refused()
        if not encrypted:
            raise AddressRefused(
                "not_encrypted",
                "alerts leave for public addresses by https only",
                remedy="give the endpoint an https URL, or put its network into TIDEGATE_WEBHOOK_PRIVATE",
            )

    def _is_allowed(self, address: Address) -> bool:
        # what a mapped address means is the IPv4 one
        plain = getattr(address, "ipv4_mapped", None) or address
        return any(plain in network for network in self._allowed)


def _refused() -> AddressRefused:
    # without the address: a caller of the API should not learn what our name server knows
    return AddressRefused(
        "private_address",
        "the name leads to an address that is not public",
        remedy="if it is yours and meant, put its network into TIDEGATE_WEBHOOK_PRIVATE",
    )


def _readings(address: Address) -> Iterator[Address]:
    """``address`` and every IPv4 address that something on the way may take it for."""
    yield address
    if isinstance(address, IPv4Address):
        return
    for inner in (address.ipv4_mapped, address.sixtofour, *(address.teredo or ())):
        if inner is not None:
            yield inner
    if address in _NAT64:
        yield IPv4Address(int(address) & 0xFFFF_FFFF)


def _is_public(address: Address) -> bool:
    if isinstance(address, IPv6Address):
        if address.ipv4_mapped is not None or address in _NAT64:
            return True  # the IPv4 address in it is judged by itself
        if address.is_site_local or address.scope_id is not None:
            return False
    return address.is_global and not (
        address.is_multicast or address.is_reserved or address.is_unspecified or address.is_loopback
    )
