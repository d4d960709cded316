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
from tests.chaos.selftest import SABOTAGES, try_out
from tests.chaos.services import Services

__all__ = ["main"]


def main(
    only: Annotated[list[str] | None, typer.Option(help="Only these scenarios.")] = None,
    short: Annotated[bool, typer.Option(help="The short form of the most telling ones.")] = False,
    json: Annotated[Path | None, typer.Option(help="Where to write the report.")] = None,
    selftest: Annotated[bool, typer.Option(help="Break the product on purpose: is it noticed?")] = False,
    keep: Annotated[bool, typer.Option(help="Keep logs and data of servers and workers.")] = False,
) -> None:
    """Break things on a real Kafka and a real Redis; exit code 1 unless nothing was lost, doubled or wrong."""
    console = Console(width=None if Console().is_terminal else 180)
    directory = Path(tempfile.mkdtemp(prefix="tidegate-chaos-"))
    with closing(Services.start(directory)) as services:
        good = _selftest(console, services) if selftest else _play(console, services, only, short, json)
    if good and not keep:
        shutil.rmtree(directory)
    else:
        console.print(f"logs and data: {directory}")
    if not good:
        raise typer.Exit(1)


def _play(
    console: Console, services: Services, only: list[str] | None, short: bool, json: Path | None
) -> bool:
    chosen = [named(name) for name in only] if only else [s for s in SCENARIOS if s.telling or not short]
    results = []
    for scenario in chosen:
        console.print(f"{scenario.name}: {scenario.tells} ...", highlight=False)
        result = play(scenario, services, short=short)
        results.append(result)
        console.print(f"  {'good' if result.good else 'BAD'} after {result.seconds:.0f} s", highlight=False)
        for problem in result.problems:
            console.print(f"    {problem}", highlight=False)
    show(console, results)
    if json is not None:
        write_json(json, results)
    return all(result.good for result in results)


def _selftest(console: Console, services: Services) -> bool:
    sightings = []
    for sabotage in SABOTAGES:
        console.print(f"{sabotage.what}: {', '.join(sabotage.scenarios)} must notice ...", highlight=False)
        sighting = try_out(sabotage, services)
        sightings.append(sighting)
        told = ", ".join(f"{name} {count}" for name, count in sighting.signs.items())
        answer = f"noticed by {sighting.scenario}: {told}" if sighting.noticed else "NOBODY NOTICED"
        console.print(f"  {answer} ({sighting.result.seconds:.0f} s)", highlight=False)
        if not sighting.noticed:
            show(console, [sighting.result])
    return all(sighting.noticed for sighting in sightings)


if __name__ == "__main__":
    typer.run(main)
