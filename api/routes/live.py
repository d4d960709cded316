"""``GET /v1/verdicts/stream``: verdicts as they are committed, by server-sent events."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Annotated, Any, cast

import anyio
import msgspec
from fastapi import APIRouter, Query
from sse_starlette import EventSourceResponse, ServerSentEvent
from starlette.responses import Response

from api.access import Scope, needs
from api.deps import ApiDeps
from api.metrics import ApiMetrics
from api.ports import FeedEntry
from api.problems import ProblemError, responses
from domain.verdict import DecisionName

__all__ = ["LiveStreams", "router"]


class LiveStreams:
    """The open streams: how many there are, and the signal that ends them all (the server is stopping)."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.open = 0
        self._ending = asyncio.Event()

    def end(self) -> None:
        """End every stream; on the event loop."""
        self._ending.set()

    async def until_ended(self, entries: AsyncIterator[FeedEntry | None]) -> AsyncIterator[FeedEntry | None]:
        """``entries`` until they end or the server stops."""
        ending = asyncio.create_task(self._ending.wait())
        upcoming: asyncio.Task[FeedEntry | None] | None = None
        try:
            while not self._ending.is_set():
                upcoming = asyncio.ensure_future(anext(entries))
                await asyncio.wait((upcoming, ending), return_when=asyncio.FIRST_COMPLETED)
                if not upcoming.done():
                    return
                try:
                    entry = upcoming.result()
                except StopAsyncIteration:
                    return
                yield entry
        finally:
            # a watcher who left cancels again at every await; ``entries`` can be closed only when nobody reads it
            with anyio.CancelScope(shield=True):
                for task in (ending, upcoming):
                    if task is not None and not task.done():
                        task.cancel()
                        await asyncio.gather(task, return_exceptions=True)


def router(deps: ApiDeps, metrics: ApiMetrics, streams: LiveStreams) -> APIRouter:
    """The route, bound to its ports."""
    routes = APIRouter(tags=["verdicts"])

    @routes.get(
        "/v1/verdicts/stream",
        dependencies=[needs(deps, Scope.VERDICTS_READ)],
        summary="Watch verdicts as they are committed",
        description="Events: `ready` once watching has begun, `verdict` (id: partition-offset in the topic of "
        "verdicts, data: the verdict), `dropped` with how many a slow client lost. To fill a gap use "
        "GET /v1/verdicts; Last-Event-ID is not used.",
        response_class=EventSourceResponse,
        responses={
            200: {"description": "The stream", "content": {"text/event-stream": {}}},
            **responses(422, 429),
        },
    )
    async def stream(
        decision: Annotated[
            list[DecisionName] | None, Query(description="Only these; may be given several times")
        ] = None,
        min_score: Annotated[float | None, Query(ge=0, le=1, allow_inf_nan=False)] = None,
    ) -> Response:
        if streams.open >= streams.limit:
            raise ProblemError(
                429,
                "too-many-streams",
                f"{streams.limit} streams are open already",
                remedy="close one, or add API replicas",
            )
        wanted = frozenset(decision or DecisionName)

        def matches(found: DecisionName, score: float | None) -> bool:
            return found in wanted and (min_score is None or (score is not None and score >= min_score))

        return EventSourceResponse(
            _events(deps, metrics, streams, matches),
            ping=deps.limits.heartbeat,
            send_timeout=deps.limits.stream_send,
        )

    return routes


async def _events(
    deps: ApiDeps, metrics: ApiMetrics, streams: LiveStreams, matches: Any
) -> AsyncIterator[ServerSentEvent]:
    streams.open += 1
    metrics.streams.inc()
    try:
        feed = cast(Any, deps.feed.subscribe(matches))
        async with aclosing(feed), aclosing(cast(Any, streams.until_ended(feed))) as entries:
            async for entry in entries:
                if entry is None:
                    yield ServerSentEvent("{}", event="ready")
                    continue
                if entry.dropped:
                    metrics.dropped.inc(entry.dropped)
                    lost = msgspec.json.encode({"dropped": entry.dropped}).decode()
                    yield ServerSentEvent(lost, event="dropped")
                yield ServerSentEvent(
                    entry.raw.decode(), event="verdict", id=f"{entry.partition}-{entry.offset}"
                )
    finally:
        streams.open -= 1
        metrics.streams.dec()
