"""The API over real HTTP: Kafka, Redis, worker, archiver and API on this machine, asked at an even rate.

``python -m benchmarks.api`` prints one JSON object; ``--out FILE`` writes it, too. Requests leave when they are due
(see :mod:`benchmarks.http_load`), first ``POST /v1/score`` with new events, then ``GET /v1/verdicts/{id}`` of events
scored before; and one request with a chunked body of a gigabyte. The load generator shares the machine's cores.
"""

from __future__ import annotations

import argparse
import json
import random
import secrets
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import psutil

from benchmarks.endless_body import send_endless_body
from benchmarks.http_load import Answers, get, open_loop, post
from benchmarks.kernels import machine
from benchmarks.throughput_kafka import fill, make_topics
from benchmarks.throughput_load import traffic
from tidegate.defaults import default_pipeline, renamed_pipeline
from tidegate.embedded.kafka import EmbeddedKafka
from tidegate.embedded.kafka_jars import KAFKA_VERSION
from tidegate.embedded.redis import EmbeddedRedis
from tidegate.stack import process_of

__all__ = ["main"]

WARM_EVENTS = 5_000
"""Scored before anything is measured: all detectors are ready then."""
WARM_REQUESTS = 400
"""Of each kind, in each repetition, before those that count: connections, imports and caches."""
PATIENCE_SECONDS = 120.0
TARGETS_MS = {"score": 100.0, "verdict": 20.0}
"""p99 that issue 7 asks for on 2 cores with Kafka and Redis on the same machine."""
MEMORY_TARGET = 20 << 20


def main(given: Sequence[str] | None = None) -> None:
    """Measure; the arguments are those of the command line unless given."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rate", type=float, default=200.0, help="requests a second")
    parser.add_argument("--seconds", type=float, default=20.0, help="of each kind in each repetition")
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--note", default="", help="what else is to be known of the machine just then")
    parser.add_argument("--out", type=Path, help="write the result here, too")
    arguments = parser.parse_args(given)
    result = _measure(arguments.rate, arguments.seconds, arguments.repetitions)
    if arguments.note:
        result["note"] = arguments.note
    text = json.dumps(result, indent=2)
    print(text)
    if arguments.out is not None:
        arguments.out.write_text(text + "\n")


def _measure(rate: float, seconds: float, repetitions: int) -> dict[str, Any]:
    facts = machine()
    count = round(rate * seconds)
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tidegate-bench-")))
        kafka = stack.enter_context(EmbeddedKafka(directory / "kafka"))
        redis = stack.enter_context(EmbeddedRedis(directory / "redis", appendonly=True))
        name = f"bench{secrets.token_hex(4)}"
        topics = make_topics(kafka.bootstrap, name, 1)
        file = renamed_pipeline(default_pipeline(), name, directory / "pipeline.yaml")
        environment = {
            "TIDEGATE_PIPELINE": str(file),
            "TIDEGATE_KAFKA_BOOTSTRAP": kafka.bootstrap,
            "TIDEGATE_REDIS_URL": redis.url,
            "TIDEGATE_WORKER_ID": "bench",
            "TIDEGATE_PRIVACY_KEY": "a key for benchmarks, 32 letters",
            "TIDEGATE_STATE_DIR": str(directory / "state"),
            "TIDEGATE_DATABASE_URL": f"sqlite:///{directory / 'tidegate.sqlite'}",
        }
        ours: dict[str, Any] = {"kafka": kafka, "redis": redis}
        for one in ("worker", "archiver", "api"):
            ours[one] = stack.enter_context(process_of(one, directory / one, environment))
        fill(kafka.bootstrap, topics.events, traffic(0, WARM_EVENTS))
        api = ours["api"]
        known = [json.loads(payload)["transaction_id"] for _, payload in traffic(0, WARM_EVENTS)]
        with httpx.Client(base_url=f"http://127.0.0.1:{api.port}", timeout=30.0) as client:
            _await(client, f"/v1/verdicts/{known[-1]}")
        rounds: list[dict[str, Any]] = []
        seed = random.Random(1)
        position = WARM_EVENTS
        for number in range(repetitions):
            events = traffic(position, WARM_REQUESTS + count)
            position += len(events)
            before = _cpu(ours)
            scoring = [post("/v1/score?deadline_ms=5000", payload) for _, payload in events]
            open_loop(api.port, scoring[:WARM_REQUESTS], rate)
            scored = open_loop(api.port, scoring[WARM_REQUESTS:], rate)
            middle = _cpu(ours)
            reading = [get(f"/v1/verdicts/{seed.choice(known)}") for _ in range(WARM_REQUESTS + count)]
            open_loop(api.port, reading[:WARM_REQUESTS], rate)
            read = open_loop(api.port, reading[WARM_REQUESTS:], rate)
            after = _cpu(ours)
            rounds.append({
                "score": {**_said(scored), "cpu_seconds": _between(before, middle)},
                "verdict": {**_said(read), "cpu_seconds": _between(middle, after)},
                "load_1min": machine()["load_1min"],
            })  # fmt: skip
            _say(f"repetition {number + 1}: {json.dumps(rounds[-1])}")
        # the first of them loads what refusals need
        send_endless_body(api.port, api.pid)
        body = send_endless_body(api.port, api.pid)
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": {**facts, "kafka": KAFKA_VERSION, "load_1min_after": machine()["load_1min"]},
        "rate": rate,
        "seconds": seconds,
        "pipeline": "examples/payments/pipeline.yaml",
        "loop": "open: latency counts from when a request was due",
        **{kind: _over(rounds, kind) for kind in TARGETS_MS},
        "gigabyte_body": {
            "offered_bytes": 1 << 30,
            "taken_bytes": body.sent,
            "status": body.status,
            "memory_grown_bytes": body.grown,
            "target_bytes": MEMORY_TARGET,
            "met": body.grown < MEMORY_TARGET,
        },
        "rounds": rounds,
    }


def _await(client: httpx.Client, path: str) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while client.get(path).status_code != 200:
        if time.monotonic() > deadline:
            raise SystemExit(f"{path} does not come; look at the logs")
        time.sleep(0.1)


def _said(answers: Answers) -> dict[str, Any]:
    cuts = statistics.quantiles([1e3 * s for s in answers.seconds], n=1000, method="inclusive")
    return {
        "requests": len(answers.seconds),
        "statuses": {str(status): n for status, n in sorted(answers.statuses.items())},
        "p50_ms": round(cuts[499], 2),
        "p90_ms": round(cuts[899], 2),
        "p99_ms": round(cuts[989], 2),
        "max_ms": round(1e3 * max(answers.seconds), 2),
        "latest_start_ms": round(1e3 * answers.latest_start, 2),
        "rate": round(answers.rate, 1),
    }


def _over(rounds: list[dict[str, Any]], kind: str) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for name in ("p50_ms", "p99_ms", "max_ms"):
        values = [one[kind][name] for one in rounds]
        out[name] = {"min": min(values), "median": statistics.median(values), "max": max(values)}
    out["target_p99_ms"] = TARGETS_MS[kind]
    out["met"] = out["p99_ms"]["median"] < TARGETS_MS[kind]
    out["met_in"] = sum(one[kind]["p99_ms"] < TARGETS_MS[kind] for one in rounds)
    return out


def _cpu(ours: dict[str, Any]) -> dict[str, float]:
    times = {name: psutil.Process(process.pid).cpu_times() for name, process in ours.items()}
    return {name: t.user + t.system for name, t in times.items()}


def _between(before: dict[str, float], after: dict[str, float]) -> dict[str, float]:
    return {name: round(after[name] - before[name], 2) for name in before}


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
