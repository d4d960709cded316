"""What all commands about models need: options, the registry, who asks, and telling the workers."""

from __future__ import annotations

import getpass
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer
from rich.console import Console

from domain.clock import SystemClock
from domain.errors import Fatal, TidegateError
from domain.pipeline import Pipeline
from lifecycle.registry import ModelRegistry
from stream.models_topic import publish
from tidegate.loading import load
from tidegate.model_registry import open_registry
from tidegate.settings import Settings

__all__ = [
    "Context",
    "JsonOption",
    "PipelineOption",
    "ReasonOption",
    "VersionArgument",
    "checked",
    "opened",
    "print_json",
]

PipelineOption = Annotated[
    Path | None,
    typer.Option(
        "--pipeline", "-p", help="The pipeline file; default: TIDEGATE_PIPELINE.", show_default=False
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
ReasonOption = Annotated[str, typer.Option("--reason", help="Why; kept in the audit.")]
VersionArgument = Annotated[str, typer.Argument(metavar="VERSION", help="As `models list` shows it.")]

_MAX_REASON = 500


@dataclass(frozen=True, slots=True)
class Context:
    """What the commands need."""

    settings: Settings
    pipeline: Pipeline
    registry: ModelRegistry

    @property
    def by(self) -> str:
        """Who sits here, for the audit."""
        return f"{getpass.getuser()} (command line)"

    def publish(self) -> None:
        """Let the workers know of what is in force. Raises TidegateError that says that the registry has it already."""
        with Console(stderr=True).status("telling the workers"):
            try:
                publish(self.settings.kafka(), self.pipeline.name, self.registry)
            except TidegateError as error:
                raise Fatal(
                    f"the registry has changed, but the workers were not told: {error.message}",
                    remedy=f"{error.remedy}; then `tidegate models publish`",
                ) from error


@contextmanager
def opened(pipeline: Path | None) -> Iterator[Context]:
    """The registry of the pipeline in the file ``pipeline``, or in the settings."""
    settings = Settings()
    declared = load(settings.pipeline if pipeline is None else pipeline)
    with closing(open_registry(settings.database(), declared.name, SystemClock())) as registry:
        yield Context(settings, declared, registry)


def checked(reason: str) -> str:
    """``reason``, if it says anything. Raises BadParameter."""
    if not reason.strip() or len(reason) > _MAX_REASON or not reason.isprintable():
        raise typer.BadParameter(f"write 1 to {_MAX_REASON} printable characters", param_hint="--reason")
    return reason


def print_json(value: dict[str, Any]) -> None:
    """``value`` as indented JSON."""
    typer.echo(msgspec.json.format(msgspec.json.encode(value), indent=2).decode())
