"""Tokens of an identity provider, as the settings say."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from api.tokens import OidcTokens, TokenRules
from domain.clock import Clock
from domain.errors import Fatal, Retriable
from tidegate.settings import Settings

__all__ = ["oidc_tokens"]

MAX_JWKS = 256 * 1024
TIMEOUT_SECONDS = 5.0
_LOCAL = ("127.0.0.1", "localhost", "::1")


def oidc_tokens(settings: Settings, pipeline: str, clock: Clock) -> OidcTokens | None:
    """What believes tokens; None without an issuer. Raises Fatal for settings that do not go together."""
    if settings.oidc_issuer is None:
        return None
    if not settings.oidc_audience or not settings.oidc_jwks:
        raise Fatal(
            "TIDEGATE_OIDC_ISSUER needs TIDEGATE_OIDC_AUDIENCE and TIDEGATE_OIDC_JWKS",
            remedy="name the audience that tokens for this API have, and the issuer's jwks_uri (or a file of it)",
        )
    rules = TokenRules(
        issuer=settings.oidc_issuer,
        audience=settings.oidc_audience,
        algorithms=[name.strip() for name in settings.oidc_algorithms.split(",") if name.strip()],
        claim=settings.oidc_roles_claim.split("."),
        roles=settings.oidc_roles,
        pipeline=pipeline,
    )
    return OidcTokens(rules, _source(settings.oidc_jwks), clock, answer_seconds=2 * TIMEOUT_SECONDS)


def _source(where: str) -> Callable[[], Any]:
    parts = urlsplit(where)
    if parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in _LOCAL):
        return lambda: _fetched(where)
    if parts.scheme == "http":
        raise Fatal(
            "TIDEGATE_OIDC_JWKS is not encrypted: whoever is on the way could put their own keys there",
            remedy="use https, or a file",
        )
    path = Path(where.removeprefix("file://")).expanduser()
    if not path.is_file():
        raise Fatal(f"TIDEGATE_OIDC_JWKS: there is no file {path}", remedy="name the issuer's JWKS")
    return lambda: _decoded(_read(path))


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise Retriable(
            f"the JWKS {path} can not be read: {error.strerror}", remedy="check its rights"
        ) from None


def _fetched(url: str) -> Any:
    # only who uses it
    import httpx

    try:
        with (
            # a proxy of the environment is for the outside
            httpx.Client(timeout=TIMEOUT_SECONDS, trust_env=url.startswith("https:")) as client,
            client.stream("GET", url) as answer,
        ):
            if answer.status_code != 200:
                raise Retriable(f"{url} answered {answer.status_code}", remedy="check TIDEGATE_OIDC_JWKS")
            body = b""
            for chunk in answer.iter_bytes():
                body += chunk
                if len(body) > MAX_JWKS:
                    raise Retriable(f"{url} answered too much", remedy="check TIDEGATE_OIDC_JWKS")
    except httpx.HTTPError as error:
        raise Retriable(
            f"{url} did not answer: {type(error).__name__}", remedy="check TIDEGATE_OIDC_JWKS and the network"
        ) from error
    return _decoded(body)


def _decoded(body: bytes) -> Any:
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        raise Retriable(
            "the identity provider's keys are no JSON", remedy="check TIDEGATE_OIDC_JWKS"
        ) from None
