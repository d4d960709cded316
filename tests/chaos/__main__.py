"""``python -m tests.chaos``: play scenarios, print a line for each, write the report."""

from __future__ import annotations

import shutil
import tempfile
from contextlib import closing
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from tests.chaos.catalogue import SCENARIOS, named
from tests.chaos.report import show, write_json
from tests.chaos.scenario import play
from tests.chaos.services import Services

__all__ = ["main"]


def main(
    only: Annotated[list[str] | None, typer.Option(help="Only these scenarios.")] = None,
    short: Annotated[bool, typer.Option(help="The short form of the most telling ones.")] = False,
    json: Annotated[Path | None, typer.Option(help="Where to write the report.")] = None,
    keep: Annotated[bool, typer.Option(help="Keep logs and data of servers and workers.")] = False,
) -> None:
    """Break things on a real Kafka and a real Redis; exit code 1 unless nothing was lost, doubled or wrong."""
    console = Console(width=None if Console().is_terminal else 180)
    chosen = [named(name) for name in only] if only else [s for s in SCENARIOS if s.short_events or not short]
    directory = Path(tempfile.mkdtemp(prefix="tidegate-chaos-"))
    results = []
    with closing(Services.start(directory)) as services:
        for scenario in chosen:
            console.print(f"{scenario.name}: {scenario.tells} ...", highlight=False)
            result = play(scenario, services, short=short)
            results.append(result)
            console.print(f"  {'good' if result.good else 'BAD'} after {result.seconds:.0f} s")
    show(console, results)
    if json is not None:
        write_json(json, results)
    if all(result.good for result in results) and not keep:
        shutil.rmtree(directory)
    else:
        console.print(f"logs and data: {directory}")
    if not all(result.good for result in results):
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
