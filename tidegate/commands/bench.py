"""``tidegate bench``: what this machine can do. The measuring itself lives in benchmarks/ of a checkout."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from domain.errors import ServiceMissing

__all__ = ["app"]

app = typer.Typer(help="Measure this machine (needs a checkout of the repository).", no_args_is_help=True)

JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of tables.")]


@app.command()
def throughput(
    events: Annotated[int, typer.Option(min=1_000, help="Events of each pass.")] = 200_000,
    rounds: Annotated[int, typer.Option(min=1, help="Turns of passthrough and worker.")] = 3,
    partitions: Annotated[int, typer.Option(min=1, help="Partitions of the topics.")] = 1,
    max_batch: Annotated[
        int | None, typer.Option(min=1, help="Most events in a transaction of the worker.")
    ] = None,
    latency_seconds: Annotated[
        float, typer.Option(min=0.0, help="Length of the latency run at half capacity; 0: none.")
    ] = 10.0,
    out: Annotated[
        Path | None, typer.Option(help="Where the JSON goes; benchmarks/results by default.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """The worker's rate beside that of a bare transactional copy of the same events, on one Kafka and Redis."""
    try:
        from benchmarks.throughput import Plan, run
    except ModuleNotFoundError as error:
        raise _no_checkout(error) from error
    console = Console(stderr=True)
    plan = Plan(events, rounds, partitions, max_batch, latency_seconds)
    result = run(plan, now=datetime.now(UTC), say=lambda text: console.print(text, highlight=False))
    target = _results() / "throughput.json" if out is None else out
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(result, indent=2) + "\n")
    if as_json:
        typer.echo(json.dumps(result))
    else:
        _show(result)


@app.command()
def kernels(as_json: JsonOption = False, repetitions: Annotated[int, typer.Option(min=1)] = 7) -> None:
    """The detectors' kernels beside River and scikit-learn."""
    try:
        from benchmarks.kernels import main
    except ModuleNotFoundError as error:
        raise _no_checkout(error) from error
    main(["--repetitions", str(repetitions), *(["--json"] if as_json else [])])


@app.command()
def quality(
    suite: Annotated[str, typer.Option(help="handbook, adbench or all.")] = "all",
    seeds: Annotated[int, typer.Option(min=1, help="Runs of each contestant.")] = 5,
    as_json: JsonOption = False,
) -> None:
    """How well fraud is ranked, beside published numbers; `all` writes docs/quality.md and its results.

    Example: tidegate bench quality --suite adbench --seeds 1 --json
    """
    try:
        from benchmarks.quality import SUITES, main
    except ModuleNotFoundError as error:
        raise _no_checkout(error) from error
    if suite not in (*SUITES, "all"):
        raise typer.BadParameter(f"choose one of {', '.join(SUITES)} and all", param_hint="--suite")
    main(["--suite", suite, "--seeds", str(seeds), *(["--json"] if as_json else [])])


def _no_checkout(error: ModuleNotFoundError) -> ServiceMissing:
    return ServiceMissing(
        f"the benchmarks are not part of this installation: {error}",
        remedy="run it in a checkout of the repository after `make setup`",
    )


def _results() -> Path:
    return Path(__file__).resolve().parents[2] / "benchmarks" / "results"


def _show(result: dict[str, Any]) -> None:
    console = Console()
    passthrough, worker = result["passthrough"], result["worker"]
    rates = Table(title=f"Events a second, {len(result['rounds'])} turns of {result['events']:,} events")
    for column in ("", "min", "median", "max"):
        rates.add_column(column, justify="right" if column else "left")
    for batch, spread in passthrough["by_batch"].items():
        rates.add_row(f"passthrough, {batch} a transaction", *_numbers(spread, ",.0f"))
    rates.add_row("passthrough, best of a turn", *_numbers(passthrough["limit"], ",.0f"))
    rates.add_row("worker", *_numbers(worker["rate"], ",.0f"))
    rates.add_row("worker, warm-up included", *_numbers(worker["overall"], ",.0f"))
    rates.add_row("ratio", *_numbers(result["ratio"], ".3f"))
    console.print(rates)
    costs = Table(title="Microseconds per event, median of the turns")
    for column in ("", "CPU worker", "CPU Kafka", "CPU Redis"):
        costs.add_column(column, justify="right" if column else "left")
    cpu = passthrough["cpu_us"]
    costs.add_row("passthrough", f"{cpu['process']:.1f}", f"{cpu['kafka']:.1f}", "")
    cpu = worker["cpu_us"]
    costs.add_row("worker", f"{cpu['worker']:.1f}", f"{cpu['kafka']:.1f}", f"{cpu['redis']:.1f}")
    console.print(costs)
    stages = "  ".join(f"{name} {us:.1f}" for name, us in worker["stage_us"].items())
    console.print(f"Stages (wall): {stages}", highlight=False)
    if "latency" in result:
        found = result["latency"]
        commit, append = found["to_commit_ms"], found["to_append_ms"]
        console.print(
            f"At {found['events_per_second']:,.0f} events/s, from the event's append to its verdict's commit "
            f"(histogram): p50 {commit['p50']:.1f} ms, p99 {commit['p99']:.1f} ms; to its append (exact): p50 "
            f"{append['p50']:.0f} ms, p99 {append['p99']:.0f} ms",
            highlight=False,
        )


def _numbers(spread: dict[str, float], form: str) -> list[str]:
    return [format(spread[key], form) for key in ("min", "median", "max")]
