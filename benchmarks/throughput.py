"""The worker beside a bare transactional passthrough: same broker, same events, in turns, in one run.

A figure of a shared machine means little alone. Each round copies the events with the bare loop (at several
batch sizes; the best is the limit) and then scores them with a real worker process; what counts is the ratio
within a round. Rates come from the broker's append times of the output, which costs nothing while it runs.
"""

from __future__ import annotations

import json
import secrets
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from confluent_kafka import Consumer

from benchmarks.kernels import machine
from benchmarks.throughput_kafka import (
    Records,
    append_times,
    fill,
    group_progress,
    make_topic,
    make_topics,
    remove_topics,
)
from benchmarks.throughput_load import traffic
from benchmarks.throughput_worker import Reading, Worker, cpu_seconds, percentile
from stream.topics import Topics
from tidegate.defaults import default_pipeline, renamed_pipeline
from tidegate.embedded.kafka import EmbeddedKafka
from tidegate.embedded.redis import EmbeddedRedis

__all__ = ["BATCHES", "Plan", "run"]

BATCHES = (500, 1_000, 2_000)
"""Transaction sizes of the passthrough; the best of a round is its limit."""
WARM_SHARE = 0.1
"""Of the events of each pass, left out of rates: start-up, the detectors' first fit, cold caches."""
STALL_SECONDS = 300.0
"""Without any progress for so long, something is broken."""
LATENCY_WARM_EVENTS = 20_000
"""Scored before the latency run: all detectors are ready then."""
ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True, slots=True)
class Plan:
    """What to measure. ``max_batch`` None is the worker's default; no latency run for 0 seconds."""

    events: int
    rounds: int = 3
    partitions: int = 1
    max_batch: int | None = None
    latency_seconds: float = 10.0

    @property
    def warm(self) -> int:
        """Events left out at the beginning of each pass."""
        return max(1, round(self.events * WARM_SHARE))


@dataclass(frozen=True, slots=True)
class _Services:
    kafka: EmbeddedKafka
    redis: EmbeddedRedis
    directory: Path


def run(plan: Plan, *, now: datetime, say: Callable[[str], None]) -> dict[str, Any]:
    """Measure everything on an own Kafka and Redis; one JSON-able object. ``say`` is told of the progress."""
    load_before = machine()["load_1min"]
    say("compiling kernels, making events")
    subprocess.run([sys.executable, "-m", "tidegate.warm"], check=True, cwd=ROOT)
    records = traffic(0, plan.events)
    with (
        tempfile.TemporaryDirectory(prefix="tidegate-bench-", ignore_cleanup_errors=True) as place,
        EmbeddedKafka(Path(place, "kafka")) as kafka,
        EmbeddedRedis(Path(place, "redis"), appendonly=True) as redis,
    ):
        services = _Services(kafka, redis, Path(place))
        make_topic(kafka.bootstrap, "source", plan.partitions)
        fill(kafka.bootstrap, "source", records)
        say("warming the broker: one pass that does not count")
        _passthrough(services, plan, BATCHES[1])
        rounds = []
        for number in range(plan.rounds):
            copies = {batch: _passthrough(services, plan, batch) for batch in BATCHES}
            scored = _worker(services, plan, f"round{number}", records)
            limit = max(copy["rate"] for copy in copies.values())
            best = next(batch for batch, copy in copies.items() if copy["rate"] == limit)
            ratio = scored["rate"] / limit
            rounds.append(
                {"passthrough": copies, "limit": limit, "best": best, "worker": scored, "ratio": ratio}
            )
            say(
                f"round {number + 1}: passthrough {limit:,.0f}/s, worker {scored['rate']:,.0f}/s, ratio {ratio:.3f}"
            )
        result = _summary(plan, rounds)
        if plan.latency_seconds > 0:
            rate = result["worker"]["rate"]["median"] / 2
            say(f"latency at {rate:,.0f} events a second")
            result["latency"] = _latency(services, plan, rate)
    facts = machine() | {"load_1min_before": load_before, "kafka": EmbeddedKafka.version}
    return {"date": now.isoformat(timespec="seconds"), "machine": facts, **result}


def _passthrough(services: _Services, plan: Plan, batch: int) -> dict[str, Any]:
    """One pass of the bare loop: rate after the warm share, and CPU microseconds an event."""
    bootstrap, name = services.kafka.bootstrap, f"copy-{secrets.token_hex(4)}"
    make_topic(bootstrap, name, plan.partitions)
    numbers = [str(batch), str(plan.events), str(plan.warm)]
    with subprocess.Popen(
        [
            sys.executable,
            "-m",
            "benchmarks.throughput_passthrough",
            bootstrap,
            "source",
            name,
            name,
            *numbers,
        ],
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()  # "warm"
        kafka = cpu_seconds(services.kafka.pid)
        last = process.stdout.readline()
        kafka = cpu_seconds(services.kafka.pid) - kafka
    if process.returncode:
        raise SystemExit(f"the passthrough failed with code {process.returncode}")
    own = json.loads(last)["cpu_seconds"]
    rate, overall = _rates(append_times(bootstrap, name, plan.partitions), plan)
    remove_topics(bootstrap, [name])
    counted = plan.events - plan.warm
    return {
        "rate": rate,
        "overall": overall,
        "cpu_us": {"process": own / counted * 1e6, "kafka": kafka / counted * 1e6},
    }


def _worker(services: _Services, plan: Plan, name: str, records: Records) -> dict[str, Any]:
    """One pass of a fresh worker over ``records``: rates, CPU and stages an event after the warm share."""
    topics = make_topics(services.kafka.bootstrap, name, plan.partitions)
    fill(services.kafka.bootstrap, topics.events, records)
    worker = _new_worker(services, plan, name)
    pids = {"kafka": services.kafka.pid, "redis": services.redis.pid}
    with worker:
        pids["worker"] = worker.pid
        progress = _Progress(services, plan, topics)
        progress.wait_for(plan.warm)
        before = {key: cpu_seconds(pid) for key, pid in pids.items()}
        first = worker.read()
        progress.wait_for(plan.events)
        after = {key: cpu_seconds(pid) for key, pid in pids.items()}
        second = worker.read()
        progress.close()
    counted = max(second.events - first.events, 1.0)
    times = append_times(services.kafka.bootstrap, topics.verdicts, plan.partitions)
    verdicts = sum(map(len, times))
    if verdicts != plan.events:
        raise SystemExit(f"{plan.events} events became {verdicts} verdicts; see {worker.log}")
    rate, overall = _rates(times, plan)
    remove_topics(services.kafka.bootstrap, [topics.events, topics.verdicts])
    transactions = max(second.transactions - first.transactions, 1.0)
    return {
        "rate": rate,
        "overall": overall,
        "events_per_transaction": counted / transactions,
        "cpu_us": {key: (after[key] - before[key]) / counted * 1e6 for key in sorted(pids)},
        "stage_us": _stages(first, second, counted),
    }


def _latency(services: _Services, plan: Plan, rate: float) -> dict[str, Any]:
    """Percentiles at ``rate`` events a second from a producer in a process of its own."""
    bootstrap, count = services.kafka.bootstrap, max(1, round(rate * plan.latency_seconds))
    warm = min(LATENCY_WARM_EVENTS, plan.events)
    topics = make_topics(bootstrap, "latency", plan.partitions)
    fill(bootstrap, topics.events, traffic(0, warm))
    with _new_worker(services, plan, "latency") as worker:
        progress = _Progress(services, plan, topics)
        progress.wait_for(warm)
        first = worker.read()
        done = subprocess.run(
            [
                *(sys.executable, "-m", "benchmarks.throughput_load", bootstrap, topics.events),
                *(f"{rate}", f"{warm}", f"{count}"),
            ],
            stdout=subprocess.PIPE,
            check=True,
            cwd=ROOT,
        )
        progress.wait_for(warm + count)
        second = worker.read()
        progress.close()
    sent = json.loads(done.stdout)
    counts = {bound: second.latency[bound] - first.latency.get(bound, 0.0) for bound in second.latency}
    delays = _delays(bootstrap, topics, plan.partitions, warm // plan.partitions)
    cuts = statistics.quantiles(delays, n=100) if len(delays) > 1 else [0.0] * 99
    transactions = max(second.transactions - first.transactions, 1.0)
    return {
        "events_per_second": sent["rate"],
        "events": count,
        "to_commit_ms": {f"p{p}": percentile(counts, p / 100) * 1e3 for p in (50, 99)},
        "to_append_ms": {"p50": cuts[49], "p99": cuts[98], "max": max(delays, default=0)},
        "events_per_transaction": (second.events - first.events) / transactions,
    }


def _delays(bootstrap: str, topics: Topics, partitions: int, skip: int) -> list[int]:
    """Milliseconds from each event's append to its verdict's, the first ``skip`` of a partition left out."""
    events = append_times(bootstrap, topics.events, partitions)
    verdicts = append_times(bootstrap, topics.verdicts, partitions)
    # all events are valid, and a partition's verdicts have the order of its events
    return [
        out - came
        for before, after in zip(events, verdicts, strict=True)
        for came, out in list(zip(before, after, strict=True))[skip:]
    ]


class _Progress:
    """How far the worker's group has come, asked seldom: each question costs the broker a little."""

    def __init__(self, services: _Services, plan: Plan, topics: Topics) -> None:
        self._topic, self._partitions = topics.events, plan.partitions
        self._consumer = Consumer(
            {"bootstrap.servers": services.kafka.bootstrap, "group.id": f"{topics.pipeline}.worker"}
        )
        self._seconds = 0.05

    def wait_for(self, count: int) -> None:
        """Return when ``count`` events are committed. Raises SystemExit when nothing moves any more."""
        seen, moved = -1, time.monotonic()
        while (now := group_progress(self._consumer, self._topic, self._partitions)) < count:
            if now > seen:
                seen, moved = now, time.monotonic()
            elif time.monotonic() - moved > STALL_SECONDS:
                raise SystemExit(f"{self._topic}: the worker stopped at {seen} of {count} events")
            time.sleep(self._seconds)

    def close(self) -> None:
        self._consumer.close()


def _new_worker(services: _Services, plan: Plan, name: str) -> Worker:
    directory = services.directory / name
    pipeline = renamed_pipeline(default_pipeline(), name, directory / "pipeline.yaml")
    environment = {
        "TIDEGATE_PIPELINE": str(pipeline),
        "TIDEGATE_KAFKA_BOOTSTRAP": services.kafka.bootstrap,
        "TIDEGATE_REDIS_URL": services.redis.url,
        "TIDEGATE_WORKER_ID": f"bench-{name}",
        "TIDEGATE_PRIVACY_KEY": secrets.token_hex(16),
    }
    if plan.max_batch is not None:
        environment["TIDEGATE_MAX_BATCH"] = str(plan.max_batch)
    return Worker(directory, environment)


def _rates(times: Sequence[Sequence[int]], plan: Plan) -> tuple[float, float]:
    """Records a second by append times: after the warm share, and over all."""
    ordered = sorted(at for partition in times for at in partition)
    warm = min(plan.warm, len(ordered) - 1)
    return (
        (len(ordered) - warm) / max(ordered[-1] - ordered[warm], 1) * 1e3,
        len(ordered) / max(ordered[-1] - ordered[0], 1) * 1e3,
    )


def _stages(first: Reading, second: Reading, events: float) -> dict[str, float]:
    return {
        stage: (seconds - first.stages.get(stage, 0.0)) / events * 1e6
        for stage, seconds in second.stages.items()
    }


def _spread(values: Sequence[float]) -> dict[str, float]:
    return {"min": min(values), "median": statistics.median(values), "max": max(values)}


def _medians(rows: Sequence[dict[str, float]]) -> dict[str, float]:
    return {key: statistics.median(row[key] for row in rows) for key in rows[0]}


def _summary(plan: Plan, rounds: Sequence[dict[str, Any]]) -> dict[str, Any]:
    workers = [one["worker"] for one in rounds]
    return {
        "events": plan.events,
        "partitions": plan.partitions,
        "passthrough": {
            "limit": _spread([one["limit"] for one in rounds]),
            "by_batch": {str(b): _spread([one["passthrough"][b]["rate"] for one in rounds]) for b in BATCHES},
            "cpu_us": _medians([one["passthrough"][one["best"]]["cpu_us"] for one in rounds]),
        },
        "worker": {
            "rate": _spread([one["rate"] for one in workers]),
            "overall": _spread([one["overall"] for one in workers]),
            "cpu_us": _medians([one["cpu_us"] for one in workers]),
            "stage_us": _medians([one["stage_us"] for one in workers]),
            "events_per_transaction": statistics.median(one["events_per_transaction"] for one in workers),
        },
        "ratio": _spread([one["ratio"] for one in rounds]),
        "rounds": [
            {"passthrough": one["limit"], "batch": one["best"], "worker": one["worker"]["rate"]}
            | {"ratio": one["ratio"]}
            for one in rounds
        ],
    }
