"""The dispatcher: alerts into the queue (a thread), and from the queue to the endpoints (an event loop).

At least once: an attempt whose outcome was not kept is made again, with the same id.
"""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import structlog

from alerts.intake import Intake
from alerts.metrics import DispatcherMetrics
from alerts.schedule import Schedule
from alerts.sender import Outcome, Sender
from alerts.signing import signed_headers
from domain.clock import Clock
from domain.errors import Retriable
from domain.verdict import Alert
from lifecycle.webhook_queue import WebhookQueue
from lifecycle.webhooks import Due, Settled

__all__ = ["Deliverer", "DispatcherConfig", "DispatcherParts", "run_dispatcher", "settled"]

_LOG = structlog.get_logger(__name__)

_IDLE_SECONDS = 0.25
"""Between two looks at the queue while nothing happens: test events and replays come from other processes."""
_REST_SECONDS = 5.0
"""For attempts under way when we shall stop; below the grace that containers get."""
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 5.0
_HOUSEKEEPING_SECONDS = 10.0
_DAY = 86_400.0


@dataclass(frozen=True, slots=True)
class DispatcherConfig:
    """``owner`` names this dispatcher, the same after a restart, and no other one. Seconds.

    places        attempts under way at once
    each          of them for one endpoint
    lease         how long a claimed delivery is ours; well above an attempt's longest time
    keep_days     how long messages and their log are kept
    """

    owner: str
    places: int = 32
    each: int = 8
    lease: float = 60.0
    keep_days: float = 30.0
    schedule: Schedule = field(default_factory=Schedule)


def _nowhere(_: str) -> None:
    """Fault tests pass something else."""


def _nobody(_: Alert) -> bool:
    return False


@dataclass(frozen=True, slots=True, kw_only=True)
class DispatcherParts:
    """What a dispatcher is made of. See :class:`alerts.intake.Intake`; ``draw`` gives random numbers in [0, 1)."""

    conf: dict[str, Any] = field(repr=False)
    topic: str
    key_field: str
    identity: Callable[[], str]
    queue: WebhookQueue
    sender: Callable[[], Sender]
    clock: Clock
    draw: Callable[[], float]
    metrics: DispatcherMetrics
    snoozed: Callable[[Alert], bool] = _nobody
    at: Callable[[str], None] = _nowhere


def settled(due: Due, outcome: Outcome, now: int, schedule: Schedule, draw: float) -> Settled:
    """What an attempt that ended ``now`` means for its delivery."""
    again = None
    if outcome.error is not None and not outcome.gone:
        again = schedule.due(due.attempts + 1, now, draw, outcome.retry_after)
    quiet = None
    if outcome.slow_down and outcome.retry_after is not None:
        quiet = now + round(outcome.retry_after * 1e6)
    return Settled(
        due=due,
        at=now,
        seconds=outcome.seconds,
        status=outcome.status,
        error=outcome.error,
        due_at=again,
        pause_until=quiet,
        gone=outcome.gone,
    )


def run_dispatcher(config: DispatcherConfig, parts: DispatcherParts, stop: threading.Event) -> None:
    """Take in and deliver until ``stop`` is set. Raises Fatal when only a person can help."""
    intake = Intake(
        parts.conf,
        parts.topic,
        parts.identity,
        parts.queue,
        parts.key_field,
        parts.clock,
        parts.metrics,
        snoozed=parts.snoozed,
        at=parts.at,
    )
    failed: list[BaseException] = []
    deliverer = Deliverer(config, parts, stop)

    def take_in() -> None:
        try:
            intake.run(stop, deliverer.wake)
        except BaseException as error:
            failed.append(error)
        finally:
            # whatever ended it: without it there is nothing to deliver
            stop.set()

    thread = threading.Thread(target=take_in, name="intake", daemon=True)
    thread.start()
    try:
        asyncio.run(deliverer.run())
    finally:
        stop.set()
        thread.join()
    if failed:
        raise failed[0]


class Deliverer:
    """Claims what is due, attempts it, and settles what became of it."""

    def __init__(self, config: DispatcherConfig, parts: DispatcherParts, stop: threading.Event) -> None:
        self._config = config
        self._parts = parts
        self._stop = stop
        self._loop: asyncio.AbstractEventLoop | None = None
        self._woken = asyncio.Event()
        self._under_way: dict[asyncio.Task[Settled], Due] = {}
        self._next_housekeeping = 0.0
        self._released = False

    def wake(self) -> None:
        """There is something in the queue. From any thread."""
        if (loop := self._loop) is not None and not loop.is_closed():
            loop.call_soon_threadsafe(self._woken.set)

    async def run(self) -> None:
        """Until told to stop."""
        self._loop = asyncio.get_running_loop()
        pause = _FIRST_PAUSE
        async with self._parts.sender() as sender:
            while not self._stop.is_set():
                try:
                    if not await self._step(sender):
                        await self._idle()
                    pause = _FIRST_PAUSE
                except Retriable as error:
                    self._parts.metrics.errors.labels("database").inc()
                    _LOG.warning("trying again", process="dispatcher", error=str(error), pause=pause)
                    await asyncio.sleep(pause)
                    pause = min(2 * pause, _LONGEST_PAUSE)
            await self._end()

    async def _step(self, sender: Sender) -> bool:
        """Whether anything went on."""
        parts, config = self._parts, self._config
        if not self._released:
            # what a former process of our name held died with it
            await asyncio.to_thread(parts.queue.release, config.owner, parts.clock.now())
            self._released = True
        went_on = await self._settle()
        await self._keep_house()
        room = config.places - len(self._under_way)
        now = parts.clock.now()
        if room <= 0 or not await asyncio.to_thread(parts.queue.ready, now):
            return went_on
        busy = Counter(due.endpoint for due in self._under_way.values())

        def claim() -> list[Due]:
            return parts.queue.claim(
                config.owner, now, lease=config.lease, limit=room, each=config.each, busy=busy
            )

        claimed = await asyncio.to_thread(claim)
        if claimed:
            parts.at("claimed")
        for due in claimed:
            self._under_way[asyncio.create_task(self._attempt(sender, due))] = due
        parts.metrics.under_way.set(len(self._under_way))
        return went_on or bool(claimed)

    async def _attempt(self, sender: Sender, due: Due) -> Settled:
        parts = self._parts
        try:
            outcome = await self._send(sender, due)
        except Exception:
            # a mistake of ours; one endpoint must not stop the others
            _LOG.exception("an attempt broke", endpoint=due.endpoint, message=due.message)
            outcome = Outcome(None, "internal", 0.0)
        parts.at("sent")
        return settled(due, outcome, parts.clock.now(), self._config.schedule, parts.draw())

    async def _send(self, sender: Sender, due: Due) -> Outcome:
        if not due.secrets:
            _LOG.error(
                "the secrets of an endpoint were sealed under another key",
                endpoint=due.endpoint,
                remedy="give dispatcher, API and command line the same TIDEGATE_WEBHOOK_KEY, or rotate its secret",
            )
            return Outcome(None, "no_secret", 0.0)
        body = due.body.encode()
        headers = signed_headers(due.secrets, due.message, self._parts.clock.now(), body)
        return await sender.send(due.url, headers, body)

    async def _settle(self) -> bool:
        done = [task for task in self._under_way if task.done()]
        if not done:
            return False
        results = [task.result() for task in done]
        await asyncio.to_thread(self._parts.queue.settle, results, self._config.owner)
        self._parts.at("settled")
        # only now: while the database is away they are settled again and again
        for task in done:
            del self._under_way[task]
        for result in results:
            self._count(result)
        self._parts.metrics.under_way.set(len(self._under_way))
        return True

    def _count(self, result: Settled) -> None:
        metrics = self._parts.metrics
        metrics.seconds.observe(result.seconds)
        if result.error is None:
            metrics.attempts.labels("delivered").inc()
            return
        metrics.attempts.labels("failed" if result.due_at is None else "retried").inc()
        due = result.due
        _LOG.warning(
            "not delivered",
            endpoint=due.endpoint,
            message=due.message,
            error=result.error,
            again=result.due_at,
        )
        if result.gone:
            metrics.disabled.inc()

    async def _keep_house(self) -> None:
        parts = self._parts
        if parts.clock.monotonic() < self._next_housekeeping:
            return
        self._next_housekeeping = parts.clock.monotonic() + _HOUSEKEEPING_SECONDS
        now = parts.clock.now()
        oldest = now - round(self._config.keep_days * _DAY * 1e6)
        _, lost = await asyncio.to_thread(parts.queue.forget, oldest)
        if lost:
            parts.metrics.lost.inc(lost)
            _LOG.error("deliveries were forgotten undelivered", count=lost)
        waiting = await asyncio.to_thread(parts.queue.waiting)
        # endpoints that were deleted disappear
        parts.metrics.pending.clear()
        parts.metrics.overdue.clear()
        for queued in waiting:
            late = 0.0 if queued.oldest_due is None else max(0.0, (now - queued.oldest_due) / 1e6)
            parts.metrics.pending.labels(queued.endpoint).set(queued.pending)
            parts.metrics.overdue.labels(queued.endpoint).set(late)

    async def _idle(self) -> None:
        """Until an attempt ends, something is queued, or it is time to look."""
        woken = asyncio.create_task(self._woken.wait())
        await asyncio.wait(
            {woken, *self._under_way}, timeout=_IDLE_SECONDS, return_when=asyncio.FIRST_COMPLETED
        )
        woken.cancel()
        self._woken.clear()

    async def _end(self) -> None:
        """Let attempts under way come to their end, for a moment; the rest is somebody's to make again."""
        if self._under_way:
            await asyncio.wait(self._under_way, timeout=_REST_SECONDS)
        try:
            await self._settle()
            await asyncio.to_thread(self._parts.queue.release, self._config.owner, self._parts.clock.now())
        except Retriable as error:
            _LOG.warning("deliveries under way will be made again", error=str(error))
        for task in self._under_way:
            task.cancel()
        await asyncio.gather(*self._under_way, return_exceptions=True)
