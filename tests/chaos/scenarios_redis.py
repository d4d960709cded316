"""Redis that dies, falls silent, loses what it had, and fills up."""

from __future__ import annotations

import threading
from pathlib import Path

import redis

from tests.chaos.scenario import Scenario
from tests.chaos.stage import Stage

__all__ = ["SCENARIOS"]

_OWN = frozenset({"redis"})
_AWAY = "online store away; waiting"


def _client(stage: Stage) -> redis.Redis:
    return redis.Redis.from_url(stage.services.redis.url, socket_timeout=10.0)


def _everywhere(stage: Stage) -> range:
    return range(stage.scene.partitions)


def kill(stage: Stage) -> None:
    """kill -9, and back a moment later, three times."""
    stage.start(2)
    stage.feed(rate=len(stage.records) / 12.0)
    for number in range(3):
        stage.await_answers(len(stage.records) * (number + 1) // 5)
        fault = stage.fault("kill -9 of Redis", _everywhere(stage))
        stage.services.redis.kill()
        stage.await_that("a worker waits", lambda n=number: len(stage.logged(_AWAY)) > n)  # type: ignore[misc]
        stage.services.redis.restart()
        stage.await_news(fault.at, fault.partitions)


def stall(stage: Stage) -> None:
    """SIGSTOP for longer than our clients wait: connections stay open and nothing answers."""
    stage.start(2)
    stage.feed(rate=len(stage.records) / 12.0)
    stage.await_answers(len(stage.records) // 4)
    fault = stage.fault("SIGSTOP of Redis", _everywhere(stage))
    stage.services.redis.pause()
    try:
        stage.await_that("a worker waits", lambda: bool(stage.logged(_AWAY)))
        threading.Event().wait(2.5)  # longer than the client's time-out of 2 s, once more
    finally:
        stage.services.redis.resume()
    stage.await_news(fault.at, fault.partitions)


def _cut_tail(directory: Path, share: float) -> int:
    """Cut off the last ``share`` of the newest append-only file, most likely amid a command; bytes lost."""
    files = sorted((directory / "appendonlydir").glob("*.incr.aof"))
    newest = files[-1]
    size = newest.stat().st_size
    with newest.open("r+b") as file:
        file.truncate(size - max(1, int(size * share)) - 1)
    return size - newest.stat().st_size


def aof_cut(stage: Stage) -> None:
    """Killed, a piece of its append-only file lost, and back with an older state, twice."""
    stage.start(2)
    stage.feed(rate=len(stage.records) / 12.0)
    for number, share in enumerate((0.02, 0.3)):
        stage.await_answers(len(stage.records) * (number + 1) // 4)
        fault = stage.fault(f"Redis without the last {share:.0%} of its file", _everywhere(stage))
        stage.services.redis.kill()
        stage.expect(_cut_tail(stage.services.redis.directory, share) > 0, "something was cut off")
        stage.services.redis.restart()
        stage.await_news(fault.at, fault.partitions)


def aof_cut_cold(stage: Stage) -> None:
    """The same while workers that have just recovered hold nothing in memory and read every entity."""
    workers = stage.start(2)
    stage.feed(len(stage.records) // 2, rate=len(stage.records) / 6.0)
    _settled(stage, len(stage.records) // 2)
    for worker in workers:
        worker.stop()
    for worker in workers:
        worker.start()
    stage.await_owners("w1", "w2")
    fault = stage.fault("Redis without the last third of its file", _everywhere(stage))
    stage.services.redis.kill()
    stage.expect(_cut_tail(stage.services.redis.directory, 0.3) > 0, "something was cut off")
    stage.services.redis.restart()
    stage.feed(rate=len(stage.records) / 6.0)
    stage.await_news(fault.at, fault.partitions)


def script_flush(stage: Stage) -> None:
    """Redis forgets our scripts again and again."""
    stage.start(2)
    stage.feed(rate=len(stage.records) / 8.0)
    with _client(stage) as client:
        for number in range(20):
            stage.await_answers(len(stage.records) * number // 22)
            fault = stage.fault("SCRIPT FLUSH")
            client.script_flush()
    stage.await_news(fault.at, _everywhere(stage))


def flushall(stage: Stage) -> None:
    """Everything in Redis is gone, amid traffic, twice."""
    stage.start(2)
    stage.feed(rate=len(stage.records) / 12.0)
    for number in range(2):
        stage.await_answers(len(stage.records) * (number + 1) // 4)
        fault = stage.fault("FLUSHALL", _everywhere(stage))
        with _client(stage) as client:
            client.flushall()
        stage.await_news(fault.at, fault.partitions)


def flushall_cold(stage: Stage) -> None:
    """The same while workers that have just recovered hold nothing in memory and read every entity."""
    workers = stage.start(2)
    stage.feed(len(stage.records) // 2, rate=len(stage.records) / 6.0)
    _settled(stage, len(stage.records) // 2)
    for worker in workers:
        worker.stop()
    for worker in workers:
        worker.start()
    stage.await_owners("w1", "w2")
    fault = stage.fault("FLUSHALL", _everywhere(stage))
    with _client(stage) as client:
        client.flushall()
    stage.feed(rate=len(stage.records) / 6.0)
    stage.await_news(fault.at, fault.partitions)


def flushall_idle(stage: Stage) -> None:
    """After the last event: state must come back although nothing asks for it."""
    stage.start(2)
    stage.feed(len(stage.records), rate=len(stage.records) / 6.0)
    _settled(stage, len(stage.records))
    stage.fault("FLUSHALL")
    with _client(stage) as client:
        client.flushall()


def _settled(stage: Stage, count: int) -> None:
    stage.await_answers(count)
    stage.await_applied(stage.reaches())


def out_of_memory(stage: Stage) -> None:
    """maxmemory below what is used: writes are refused until somebody raises it."""
    stage.start(2)
    stage.feed(rate=len(stage.records) / 12.0)
    stage.await_answers(len(stage.records) // 4)
    with _client(stage) as client:
        fault = stage.fault("Redis out of memory", _everywhere(stage))
        client.config_set("maxmemory", "1mb")
        stage.await_that("a worker waits and says why", lambda: _said(stage, "OOM"))
        client.config_set("maxmemory", "0")
    stage.await_news(fault.at, fault.partitions)


def _said(stage: Stage, text: str) -> bool:
    return any(stage.says(worker, text) for worker in stage.scene.workers)


SCENARIOS = (
    Scenario("redis-kill", "kill -9 of Redis, restarted, three times", kill, own=_OWN, short_events=3_000),
    Scenario("redis-stall", "SIGSTOP of Redis for longer than clients wait", stall, own=_OWN),
    Scenario("redis-aof-cut", "Redis restarted without the tail of its append-only file", aof_cut, own=_OWN),
    Scenario("redis-aof-cut-cold", "the same under workers with empty memories", aof_cut_cold, own=_OWN),
    Scenario("script-flush", "SCRIPT FLUSH, 20 times", script_flush, own=_OWN),
    Scenario("flushall", "FLUSHALL amid traffic, twice", flushall, own=_OWN),
    Scenario(
        "flushall-cold",
        "FLUSHALL under workers with empty memories",
        flushall_cold,
        own=_OWN,
        short_events=3_000,
        telling=True,
    ),
    Scenario("flushall-idle", "FLUSHALL when no events come", flushall_idle, own=_OWN, events=3_000),
    Scenario("redis-full", "Redis out of memory, later with more of it", out_of_memory, own=_OWN),
)
