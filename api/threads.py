"""Blocking ports on threads, with a limit and a time-out."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

import anyio
import anyio.to_thread

from api.problems import ProblemError

__all__ = ["Threads"]

T = TypeVar("T")


class Threads:
    """Runs at most ``size`` blocking calls at once; each is given up after ``seconds``."""

    def __init__(self, size: int, seconds: float) -> None:
        self._limiter = anyio.CapacityLimiter(size)
        self._seconds = seconds

    async def run(self, call: Callable[[], T]) -> T:
        """What ``call`` returns. Raises ProblemError 503 when it takes too long (the thread goes on alone)."""
        try:
            async with asyncio.timeout(self._seconds):
                return await anyio.to_thread.run_sync(call, abandon_on_cancel=True, limiter=self._limiter)
        except TimeoutError:
            raise ProblemError(
                503, "unavailable", "an answer took too long", remedy="try again; see /readyz"
            ) from None
