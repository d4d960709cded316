"""Reading a JSON body that is neither too large, too slow, compressed nor something else, and says nothing twice."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from http import HTTPStatus

from fastapi import Request
from starlette.requests import ClientDisconnect

from api.problems import ProblemError
from api.strict_json import MAX_VALUES, check
from domain.errors import EventRejected, Reject

__all__ = ["read_event_body", "read_json_body"]

_CLOSE = {"Connection": "close"}
"""The rest of such a body is unread, so the connection is of no further use."""
_THROWN_AWAY = 1 << 20
"""Bytes of a refused body that are read all the same: to close a connection with something unread resets it, and the
sender may then never see why it was refused. Whoever sends more than that is cut off."""


async def read_json_body(
    request: Request, limit: int, seconds: float, *, smaller: str = "send less", values: int = MAX_VALUES
) -> bytes:
    """As :func:`read_event_body`, for what is no event: raises ProblemError only."""
    try:
        return await read_event_body(request, limit, seconds, smaller=smaller, values=values)
    except EventRejected as error:
        raise ProblemError(
            422,
            "invalid-parameter",
            error.detail,
            remedy=error.remedy,
            field="body",
            reason=error.reason.value,
        ) from None


async def read_event_body(
    request: Request,
    limit: int,
    seconds: float,
    *,
    smaller: str = "send less per event, or raise event.max_bytes in the pipeline file",
    values: int = MAX_VALUES,
) -> bytes:
    """The body, at most ``limit`` bytes, arriving within ``seconds``; ``smaller`` says how to keep to the limit.

    Counted as it arrives, so a chunked body without a length is bounded too. It is JSON of at most ``values`` values
    that nests moderately and has no name twice in an object. Raises ProblemError with status 408, 413 or 415,
    EventRejected.
    """
    try:
        body = await _read(request, limit, seconds, smaller)
    except ProblemError as problem:
        if problem.status != HTTPStatus.REQUEST_TIMEOUT:
            await _throw_away(request, seconds)
        raise
    check(body, values)
    return body


async def _throw_away(request: Request, seconds: float) -> None:
    size = 0
    # RuntimeError is how the request says that all of it was read already
    with suppress(TimeoutError, ClientDisconnect, RuntimeError):
        async with asyncio.timeout(seconds):
            async for chunk in request.stream():
                size += len(chunk)
                if size > _THROWN_AWAY:
                    return


async def _read(request: Request, limit: int, seconds: float, smaller: str) -> bytes:
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != "application/json":
        raise ProblemError(
            415, "not-json", "the body must be application/json",
            remedy="send the header Content-Type: application/json", headers=_CLOSE,
        )  # fmt: skip
    if request.headers.get("content-encoding", "identity").strip().lower() != "identity":
        raise ProblemError(
            415, "compressed", "compressed bodies are not taken",
            remedy="send the body as it is, without Content-Encoding", headers=_CLOSE,
        )  # fmt: skip
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > limit:
        raise _too_large(limit, smaller)
    chunks, size = [], 0
    try:
        async with asyncio.timeout(seconds):
            async for chunk in request.stream():
                size += len(chunk)
                if size > limit:
                    raise _too_large(limit, smaller)
                chunks.append(chunk)
    except TimeoutError:
        raise ProblemError(
            408, "slow-body", f"the body did not arrive within {seconds:g} s", headers=_CLOSE
        ) from None
    except ClientDisconnect:
        raise ProblemError(408, "disconnected", "the client left", headers=_CLOSE) from None
    return b"".join(chunks)


def _too_large(limit: int, remedy: str) -> ProblemError:
    return ProblemError(
        413,
        "event-rejected",
        f"the body is larger than {limit:,} bytes",
        remedy=remedy,
        headers=_CLOSE,
        reason=Reject.TOO_LARGE.value,
        field=None,
    )
