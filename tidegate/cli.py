"""The command line: ``tidegate --help``."""

from __future__ import annotations

import sys
from typing import Annotated

import typer
from rich.console import Console

from domain.errors import TidegateError
from tidegate.commands import bench, demo, operate
from tidegate.commands.backtest import backtest
from tidegate.commands.dlq import app as dlq_app
from tidegate.commands.features import app as features_app
from tidegate.commands.labels import app as labels_app
from tidegate.commands.models import app as models_app
from tidegate.commands.pipeline import app as pipeline_app
from tidegate.commands.replay import replay, traffic
from tidegate.logs import set_up_logging
from tidegate.version import CODE_VERSION

__all__ = ["app", "main"]

app = typer.Typer(
    help="Real-time fraud and anomaly detection on Kafka: exactly one explained verdict for every event.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
app.add_typer(pipeline_app, name="pipeline")
app.add_typer(operate.topics_app, name="topics")
app.add_typer(operate.state_app, name="state")
app.add_typer(dlq_app, name="dlq")
app.add_typer(features_app, name="features")
app.add_typer(labels_app, name="labels")
app.add_typer(models_app, name="models")
app.add_typer(bench.app, name="bench")
app.command()(demo.demo)
app.command()(demo.dev)
app.command()(operate.worker)
app.command()(operate.archiver)
app.command()(operate.joiner)
app.command()(operate.api)
app.command()(operate.doctor)
app.command()(backtest)
app.command()(replay)
app.command()(traffic)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(CODE_VERSION)
        raise typer.Exit


@app.callback()
def _common(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    set_up_logging()


def main() -> None:
    """Entry point. Exit codes: 0 done, 1 refused or failed with a message, 2 wrong usage, 130 Ctrl-C."""
    try:
        app()
    except TidegateError as error:
        console = Console(stderr=True)
        console.print(f"[red]{type(error).__name__}[/]: ", end="")
        console.print(error.message, markup=False, highlight=False)
        if error.remedy:
            console.print("[green]Remedy[/]: ", end="")
            console.print(error.remedy, markup=False, highlight=False)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
