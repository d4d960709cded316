"""``tidegate demo`` and ``tidegate dev``: everything on one machine."""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.live import Live

from domain.clock import SystemClock
from domain.errors import ServiceMissing
from stream.generator import Traffic, TrafficEvent, TrafficSettings
from tidegate.defaults import default_pipeline, renamed_pipeline
from tidegate.demo import DemoRun, demo_json
from tidegate.demo_view import render
from tidegate.embedded.choose import BROKERS
from tidegate.loading import load
from tidegate.signals import stop_on_signals
from tidegate.stack import Stack, StackConfig

__all__ = ["demo", "dev"]

BAD_SHARE = 0.002
REPEAT_SHARE = 0.002
FRAMES_PER_SECOND = 4

BrokerOption = Annotated[
    str | None,
    typer.Option(help=f"Which broker: {', '.join(BROKERS)}. Default: the best there is.", show_default=False),
]


def _traffic(seed: int, events: int | None) -> Iterator[TrafficEvent]:
    traffic = Traffic(TrafficSettings(seed=seed, bad_share=BAD_SHARE, duplicate_share=REPEAT_SHARE))
    return iter(traffic) if events is None else traffic.take(events)


def demo(
    events: Annotated[int | None, typer.Option(min=1, help="How many events; default: until Ctrl-C.")] = None,
    rate: Annotated[
        float, typer.Option(min=0, help="Events a second; 0: as fast as possible.", show_default="400")
    ] = 400.0,
    seed: Annotated[int, typer.Option(help="Same seed, same traffic.")] = 1,
    exit_: Annotated[bool, typer.Option("--exit", help="End when all events are answered.")] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="No view; print one JSON object at the end.")
    ] = False,
    broker: BrokerOption = None,
) -> None:
    """Watch payments with known fraud being scored: broker, Redis and all processes, in one command.

    Example: tidegate demo --events 20000 --exit --json
    """
    if exit_ and events is None:
        raise typer.BadParameter("--exit needs --events", param_hint="--exit")
    console = Console(stderr=True)
    stop = stop_on_signals()
    directory = Path(tempfile.mkdtemp(prefix="tidegate-demo-"))
    name = f"demo-{directory.name.rsplit('-', 1)[-1].lower().replace('_', '0')}"
    pipeline_file = renamed_pipeline(default_pipeline(), name, directory / "pipeline.yaml")
    config = StackConfig(directory, pipeline_file, name, broker=broker)
    console.print(
        "Starting a broker, Redis, worker, archivers, joiner, monitor, dispatcher and API; the first time compiles ..."
    )
    kept = False
    try:
        with Stack(config) as stack:
            console.print(f"Broker: [bold]{stack.broker.name}[/] ({stack.broker.reason})")
            console.print(f"API: {stack.api_url}   logs: {directory}")
            run = DemoRun(
                stack.broker.bootstrap, name, _traffic(seed, events), rate=rate, clock=SystemClock()
            )
            run.start()
            seen, at, speed = 0, time.monotonic(), 0.0
            ended = False
            with Live(console=console, refresh_per_second=FRAMES_PER_SECOND, transient=as_json) as live:
                while not stop.is_set() and run.failure is None and not (ended and exit_):
                    stop.wait(1 / FRAMES_PER_SECOND)
                    stack.check()
                    ended = run.finished
                    now, done = time.monotonic(), run.state.verdicts + run.state.dead_letters
                    if now - at > 1:
                        speed, seen, at = (done - seen) / (now - at), done, now
                    if not as_json:
                        live.update(
                            render(run.state, broker=stack.broker.name, api_url=stack.api_url, rate=speed)
                        )
            run.stop()
            if run.failure is not None:
                kept = True
                raise ServiceMissing(
                    f"the demo's traffic stopped: {run.failure}", remedy=f"look at the logs in {directory}"
                ) from run.failure
            result = demo_json(stack.broker.name, run.state)
        if as_json:
            typer.echo(json.dumps(result))
        if exit_ and (
            result["duplicates"] or result["verdicts"] + result["dead_letters"] != result["events"]
        ):
            raise typer.Exit(1)
    finally:
        if not kept:
            shutil.rmtree(directory, ignore_errors=True)


def dev(
    pipeline: Annotated[Path | None, typer.Option(help="The pipeline file; default: payments.")] = None,
    directory: Annotated[Path, typer.Option(help="Where data and logs are kept.")] = Path(".tidegate/dev"),
    port: Annotated[int, typer.Option(help="Port of the API on 127.0.0.1.")] = 8080,
    partitions: Annotated[int, typer.Option(min=1, help="Partitions of a new events topic.")] = 1,
    broker: BrokerOption = None,
) -> None:
    """Run everything on this machine and keep its data: for trying a pipeline of your own.

    Example: tidegate dev --pipeline my.yaml
    """
    console = Console(stderr=True)
    stop = stop_on_signals()
    path = default_pipeline() if pipeline is None else pipeline
    name = load(path).name
    config = StackConfig(
        directory.resolve() / name, path, name, partitions=partitions, broker=broker, api_port=port, keep=True
    )
    with Stack(config) as stack:
        console.print(f"Broker: [bold]{stack.broker.name}[/] ({stack.broker.reason})")
        console.print(f"Kafka [bold]{stack.broker.bootstrap}[/]   events topic [bold]{name}.events[/]")
        console.print(
            f"For `tidegate models`: TIDEGATE_KAFKA_BOOTSTRAP={stack.broker.bootstrap} "
            f"TIDEGATE_DATABASE_URL={stack.database_url} TIDEGATE_PIPELINE={path}",
            soft_wrap=True,
            highlight=False,
        )
        console.print(f"API   [bold]{stack.api_url}[/]   try {stack.api_url}/openapi.json   Ctrl-C ends")
        while not stop.wait(1.0):
            stack.check()
