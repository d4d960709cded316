"""One attempt over HTTP: resolve once, connect to exactly that address, never follow, never wait for ever."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

import httpx

from alerts.guard import AddressGuard, AddressRefused
from alerts.schedule import retry_after_seconds
from domain.clock import Clock

__all__ = ["Outcome", "Resolve", "Sender", "resolve_by_system"]

Resolve = Callable[[str, int], Awaitable[list[str]]]
"""All addresses of a name, for a port; raises OSError."""

_GONE = 410
_SLOW_DOWN = frozenset({429, 503})
"""What a ``Retry-After`` beside them says holds for the endpoint as a whole."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one attempt.

    ``status`` is the answer's, None when there was none; ``error`` says why it failed, None after a success;
    ``retry_after`` (seconds) is what the receiver asked for, ``slow_down`` whether of all deliveries; ``gone``: it
    wants none any more. ``seconds`` it took.
    """

    status: int | None
    error: str | None
    seconds: float
    retry_after: float | None = None
    slow_down: bool = False
    gone: bool = False


async def resolve_by_system(host: str, port: int) -> list[str]:
    """The system's resolver, in a thread."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


class Sender:
    """Sends to webhooks; ``async with`` it.

    ``seconds`` bounds one attempt from resolving to the head of the answer. ``trust`` is what TLS checks
    certificates against; None: the certificates of the package certifi.
    """

    def __init__(
        self,
        guard: AddressGuard,
        clock: Clock,
        *,
        user_agent: str,
        seconds: float = 15.0,
        resolve: Resolve = resolve_by_system,
        trust: ssl.SSLContext | None = None,
    ) -> None:
        self._guard = guard
        self._clock = clock
        self._seconds = seconds
        self._resolve = resolve
        self._headers = {"user-agent": user_agent, "content-type": "application/json"}
        self._client = httpx.AsyncClient(
            # neither a proxy nor certificates nor a .netrc of the environment
            trust_env=False,
            follow_redirects=False,
            timeout=seconds,
            verify=True if trust is None else trust,
            # a kept connection is known by its address only: two names at one address would share it, though the
            # certificate was checked for one of them
            limits=httpx.Limits(max_keepalive_connections=0),
        )

    async def __aenter__(self) -> Sender:
        await self._client.__aenter__()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._client.aclose()

    async def send(self, url: str, headers: Mapping[str, str], body: bytes) -> Outcome:
        """POST ``body``; every failure is an Outcome."""
        begun = self._clock.monotonic()
        status, answered, error = None, httpx.Headers(), None
        try:
            async with asyncio.timeout(self._seconds):
                status, answered = await self._post(httpx.URL(url), headers, body)
        except AddressRefused as refused:
            error = refused.code
        except (TimeoutError, httpx.TimeoutException):
            error = "timeout"
        except (ssl.SSLError, httpx.ConnectError) as failed:
            error = "tls" if _is_tls(failed) else "connect"
        except (httpx.HTTPError, httpx.InvalidURL, OSError, UnicodeError) as failed:
            error = _word(failed)
        took = self._clock.monotonic() - begun
        if status is None:
            return Outcome(None, error, took)
        if 200 <= status < 300:
            return Outcome(status, None, took)
        asked = retry_after_seconds(answered.get("retry-after"), self._clock.now())
        why = "redirect" if 300 <= status < 400 else f"status_{status}"
        return Outcome(
            status,
            why,
            took,
            retry_after=asked,
            slow_down=status in _SLOW_DOWN and asked is not None,
            gone=status == _GONE,
        )

    async def _post(
        self, url: httpx.URL, headers: Mapping[str, str], body: bytes
    ) -> tuple[int, httpx.Headers]:
        encrypted = url.scheme == "https"
        port = url.port or (443 if encrypted else 80)
        try:
            found = await self._resolve(url.host, port)
        except OSError as error:
            raise AddressRefused(
                "no_address", f"the name was not resolved: {error}", remedy="check the endpoint's URL"
            ) from error
        address = self._guard.choose(found, encrypted=encrypted)
        request = self._client.build_request(
            "POST",
            url.copy_with(host=address),
            # the name stays what the receiver sees, and what its certificate is checked for
            headers={**self._headers, **headers, "host": url.netloc.decode("ascii")},
            content=body,
            extensions={"sni_hostname": url.raw_host.decode("ascii")},
        )
        response = await self._client.send(request, stream=True)
        # what it says beside the head is of no interest, however long
        await response.aclose()
        return response.status_code, response.headers


def _is_tls(error: BaseException) -> bool:
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLError):
            return True
        cause = cause.__cause__ or cause.__context__
    return False


def _word(error: Exception) -> str:
    return "bad_url" if isinstance(error, (httpx.InvalidURL, UnicodeError)) else "broken_answer"
