"""Commands about a deployment: ``tidegate doctor``, ``tidegate topics`` and ``tidegate state``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from featurestore.online import RedisStateStore
from featurestore.redis_client import connect
from stream.topics import create_topics
from tidegate.commands.processes import PipelineOption
from tidegate.doctor import examine
from tidegate.loading import load
from tidegate.settings import Settings

__all__ = ["doctor", "state_app", "topics_app"]

topics_app = typer.Typer(help="The pipeline's Kafka topics.", no_args_is_help=True)
state_app = typer.Typer(help="The online state in Redis.", no_args_is_help=True)


def _settings(pipeline: Path | None) -> Settings:
    settings = Settings()
    return settings if pipeline is None else settings.model_copy(update={"pipeline": pipeline})


def doctor(as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False) -> None:
    """Check settings, pipeline file, Kafka and Redis, and say what to do about what is wrong.

    Example: tidegate doctor
    """
    findings = examine(Settings())
    if as_json:
        typer.echo(
            json.dumps(
                [{"check": f.check, "ok": f.ok, "detail": f.detail, "remedy": f.remedy} for f in findings]
            )
        )
    else:
        table = Table("check", "", "detail", "remedy")
        for finding in findings:
            table.add_row(
                finding.check, "[green]ok[/]" if finding.ok else "[red]no[/]", finding.detail, finding.remedy
            )
        Console().print(table)
    if not all(finding.ok for finding in findings):
        raise typer.Exit(1)


@topics_app.command("create")
def topics_create(
    pipeline: PipelineOption = None,
    partitions: Annotated[int, typer.Option(min=1, help="Partitions of events and verdicts.")] = 4,
    replication: Annotated[int, typer.Option(min=1, help="Copies of each partition.")] = 1,
) -> None:
    """Create the topics that are not there yet.

    Example: tidegate topics create --partitions 12 --replication 3
    """
    settings = _settings(pipeline)
    name = load(settings.pipeline).name
    found = create_topics(settings.kafka().client("tidegate-topics"), name, partitions, replication)
    typer.echo(f"{name}.events has {found} partition(s)")


@state_app.command("reset")
def state_reset(
    partition: Annotated[list[int], typer.Option(help="Which partitions; repeat the option for several.")],
    pipeline: PipelineOption = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Delete a partition's online state; the next worker rebuilds it from the log. Stop workers first.

    Example: tidegate state reset --partition 0 --partition 1
    """
    settings = _settings(pipeline)
    name = load(settings.pipeline).name
    if not yes:
        typer.confirm(f"Delete the online state of {name}, partition(s) {partition}?", abort=True)
    store = RedisStateStore(connect(settings.redis_url.get_secret_value()), name)
    for number in partition:
        store.reset(number)
        typer.echo(f"partition {number}: deleted")
