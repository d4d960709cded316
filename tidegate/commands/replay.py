"""``tidegate replay`` and ``tidegate traffic``: a file of past events, or invented ones, into the topic."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from domain.clock import SystemClock
from domain.errors import Fatal, TidegateError
from lifecycle.event_rows import count_rows
from stream.generator import Traffic, TrafficEvent, TrafficSettings
from stream.replay import Pace, Sendable, file_records, replay_producer, traffic_records
from stream.replay import replay as send
from stream.topics import Topics, partitions_of
from tidegate.commands.backtest import progress_bar
from tidegate.loading import load
from tidegate.settings import Settings

__all__ = ["replay", "traffic"]

PipelineOption = Annotated[Path, typer.Option("--pipeline", "-p", help="The pipeline file.")]
RateOption = Annotated[float | None, typer.Option(help="Records a second.")]


def replay(
    pipeline: PipelineOption,
    events: Annotated[Path, typer.Option("--events", "-e", help="Past events: .parquet, .csv or .jsonl.")],
    rate: RateOption = None,
    speed: Annotated[
        float | None,
        typer.Option(help="So many times as fast as it happened (needs a file in order of time)."),
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first so many rows.")] = None,
) -> None:
    """Send a file of past events to the pipeline's topic, keyed, in file order."""
    with _reporting() as console:
        declared = load(pipeline)
        total = count_rows(events)
        total = limit if total is None else min(total, limit or total)
        records = file_records(events, declared, limit=limit)
        _send(console, declared.name, Pace(rate, speed), records, total)


def traffic(
    pipeline: PipelineOption = Path("examples/payments/pipeline.yaml"),
    events: Annotated[int, typer.Option(min=1, help="How many records to send.")] = 10_000,
    seed: Annotated[int, typer.Option(help="The same seed makes the same payments.")] = 1,
    rate: RateOption = None,
    fraud_share: Annotated[float, typer.Option(help="Share of fraudulent payments.")] = 0.01,
    bad_share: Annotated[float, typer.Option(help="Share of malformed records.")] = 0.0,
    duplicate_share: Annotated[float, typer.Option(help="Share of records sent twice.")] = 0.0,
    labels_out: Annotated[
        Path | None, typer.Option(help="Write id, label and scenario of each payment here (.csv).")
    ] = None,
) -> None:
    """Send invented payments with known fraud, dated now, to the topic of a payments pipeline."""
    with _reporting() as console, ExitStack() as stack:
        declared = load(pipeline)
        try:
            settings = TrafficSettings(
                seed=seed, fraud_share=fraud_share, bad_share=bad_share, duplicate_share=duplicate_share
            )
        except ValueError as error:
            raise Fatal(f"{error}.", remedy="lower the shares.") from None
        made: Iterable[TrafficEvent] = Traffic(settings, clock=SystemClock()).take(events)
        if labels_out is not None:
            made = _with_labels(made, labels_out, stack)
        _send(console, declared.name, Pace(rate), traffic_records(made), events)


def _with_labels(events: Iterable[TrafficEvent], path: Path, stack: ExitStack) -> Iterator[TrafficEvent]:
    try:
        file = stack.enter_context(path.open("w", encoding="utf-8", newline=""))
    except OSError as error:
        raise Fatal(f"{path} cannot be written: {error}.", remedy="choose another --labels-out.") from error
    writer = csv.writer(file)
    writer.writerow(["id", "label", "scenario"])

    def written() -> Iterator[TrafficEvent]:
        for event in events:
            if event.label is not None and not event.repeated:
                writer.writerow([event.id, int(event.label), event.scenario])
            yield event

    return written()


@contextmanager
def _reporting() -> Iterator[Console]:
    """Our errors as a message and exit code 2, an interrupt as 130."""
    console = Console(stderr=True)
    try:
        yield console
    except TidegateError as error:
        console.print(f"[red]error:[/] {escape(str(error))}", soft_wrap=True)
        raise typer.Exit(2) from None
    except KeyboardInterrupt:
        console.print("interrupted; what was sent so far stays in the topic")
        raise typer.Exit(130) from None


def _send(
    console: Console, pipeline: str, pace: Pace, records: Iterable[Sendable], total: int | None
) -> None:
    topic = Topics(pipeline).events
    producer = replay_producer(Settings().kafka())
    partitions_of(producer, topic)
    with progress_bar(console, f"into {topic}", total) as advance:
        result = send(records, producer, topic, pace=pace, progress=advance)
    per_second = result.delivered / result.seconds if result.seconds > 0 else 0.0
    typer.echo(
        f"{result.delivered:,} records into {topic} in {result.seconds:,.1f} s ({per_second:,.0f} a second)"
    )
