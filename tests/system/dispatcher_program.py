"""Dispatchers that die: a process that has loaded everything, and forks one for each line of its standard input.

A line is ``STEP SECONDS``: the dispatcher kills itself (SIGKILL) so long after the STEP-th step that it does, or never
for step 0. Steps are those that it names, every statement it sends to the database, and every commit; an idle one goes
on looking at its queue, so it reaches every step. Its process id is printed when it begins, ``ended CODE`` when it has
ended (-9: killed). Forking a prepared process costs a tenth of starting one. Settings come from the environment.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
import traceback
from dataclasses import replace
from typing import Any

from prometheus_client import CollectorRegistry
from sqlalchemy import Engine, event

from alerts.dispatcher import run_dispatcher
from alerts.guard import AddressGuard, parse_networks
from alerts.metrics import DispatcherMetrics
from alerts.schedule import Schedule
from alerts.sender import Sender
from domain.clock import SystemClock
from domain.pipeline import Pipeline
from lifecycle.database import Database
from tidegate.dispatcher import dispatcher_config, dispatcher_parts
from tidegate.loading import load
from tidegate.logs import set_up_logging
from tidegate.settings import Settings
from tidegate.signals import stop_on_signals


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def run(settings: Settings, pipeline: Pipeline, step: int, seconds: float) -> None:
    """A dispatcher that retries at once."""
    left, lock = step, threading.Lock()

    def at(_: str) -> None:
        nonlocal left
        with lock:
            left -= 1
            last = left == 0
        if last and seconds:
            # wherever its threads are by then
            threading.Timer(seconds, die).start()
        elif last:
            die()

    def statement(*_: Any) -> None:
        at("statement")

    event.listen(Engine, "before_cursor_execute", statement)
    event.listen(Engine, "commit", statement)
    stop = stop_on_signals()
    database = Database(settings.database())
    parts = dispatcher_parts(settings, pipeline, DispatcherMetrics(CollectorRegistry()))
    config = replace(dispatcher_config(settings), schedule=Schedule(delays=(0.0,) * 100, jitter=0.0))
    run_dispatcher(config, replace(parts(database), at=at), stop)


async def nowhere(host: str, port: int) -> list[str]:
    return ["127.0.0.1"]


async def attempt_nothing() -> None:
    guard = AddressGuard(parse_networks("127.0.0.1"))
    async with Sender(guard, SystemClock(), user_agent="test", resolve=nowhere) as sender:
        # nobody listens there
        await sender.send("http://localhost:1/", {}, b"{}")


def main() -> None:
    set_up_logging()
    settings = Settings()
    pipeline = load(settings.pipeline)
    # what is loaded only when it is used: alembic, and much of httpx
    Database(settings.database()).close()
    asyncio.run(attempt_nothing())
    for line in sys.stdin:
        step, seconds = line.split()
        child = os.fork()
        if child == 0:
            code = 1
            try:
                run(settings, pipeline, int(step), float(seconds))
                code = 0
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(code)
        print(child, flush=True)
        _, status = os.waitpid(child, 0)
        print("ended", os.waitstatus_to_exitcode(status), flush=True)


if __name__ == "__main__":
    main()
