"""The command line: ``tidegate --help``."""

from __future__ import annotations

import sys
from typing import Annotated

import typer
from rich.console import Console

from domain.errors import TidegateError
from tidegate.commands.lazy import lazy_group
from tidegate.logs import set_up_logging
from tidegate.version import CODE_VERSION

__all__ = ["COMMANDS", "app", "main"]

COMMANDS = {
    "demo": ("demo:demo", "Watch payments with known fraud being scored, everything in one command."),
    "dev": ("demo:dev", "Run everything on this machine, with an embedded broker and Redis."),
    "worker": ("processes:worker", "Score events until SIGTERM."),
    "archiver": ("processes:archiver", "Keep recent verdicts findable for the API."),
    "archiver-offline": ("processes:archiver_offline", "Keep all verdicts and labels in the offline store."),
    "monitor": ("processes:monitor", "Watch verdicts and labels for drift."),
    "trainer": ("processes:trainer", "Train models, let them prove themselves, promote and guard them."),
    "joiner": ("processes:joiner", "Join labels to the events they are about."),
    "caser": ("processes:caser", "Turn alerts into review cases, and decisions into labels."),
    "dispatcher": ("processes:dispatcher", "Deliver alerts to webhooks."),
    "api": ("processes:api", "Answer questions over HTTP."),
    "doctor": ("operate:doctor", "Check settings, pipeline file, Kafka and Redis, and name remedies."),
    "backtest": (
        "backtest:backtest",
        "Score a file of events as live scoring would, and say how good it was.",
    ),
    "replay": ("replay:replay", "Score committed events again and compare."),
    "traffic": ("replay:traffic", "Send invented payments with known fraud."),
    "pipeline": ("pipeline:app", "Pipeline files: check, schema, init."),
    "topics": ("operate:topics_app", "The pipeline's Kafka topics."),
    "state": ("operate:state_app", "The online state in Redis."),
    "dlq": ("dlq:app", "Dead letters: input that could not be scored."),
    "features": ("features:app", "Features as live scoring had them."),
    "labels": ("labels:app", "Labels: what events turned out to be."),
    "audit": ("audit:app", "Who changed what, and whether anybody changed that afterwards."),
    "models": ("models:app", "Trained models: which there are, and which decide."),
    "keys": ("keys:app", "API keys: who may ask the API for what."),
    "cases": ("cases:app", "Review cases: alerts that people decide."),
    "webhooks": ("webhooks:app", "Webhooks: where alerts are delivered to."),
    "rules": ("rules:app", "Rules: what people decided in advance."),
    "lists": ("lists:app", "Lists, tags and snoozes of entities."),
    "offline": ("offline:app", "The offline store: all verdicts and labels."),
    "bench": ("bench:app", "Measure this machine (needs a checkout of the repository)."),
}
"""Name to where it is (module of tidegate.commands, attribute) and what it does: loaded when it is used, for the
whole of it takes seconds.
"""

app = typer.Typer(
    cls=lazy_group(COMMANDS),
    help="Real-time fraud and anomaly detection on Kafka: exactly one explained verdict for every event.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)


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
