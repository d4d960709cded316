"""A group of commands that are imported when one of them is used, not before."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command, get_group

__all__ = ["lazy_group"]


def lazy_group(commands: Mapping[str, tuple[str, str]]) -> type[TyperGroup]:
    """A class of groups whose ``commands`` map names to ("module:attribute", what the list of commands says).

    Modules are those of tidegate.commands; the attribute is a function with typer's annotations, or a Typer.
    """

    class LazyGroup(TyperGroup):
        def __init__(self, **given: Any) -> None:
            super().__init__(**given)
            # for the list of commands and for suggestions: a name and a line
            self.commands = {name: TyperCommand(name, help=line) for name, (_, line) in commands.items()}

        # typer carries its own copy of click, and names none of its types
        def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
            name, found, rest = super().resolve_command(ctx, args)
            return name, found and _load(commands[found.name or ""][0], found.name or ""), rest

    return LazyGroup


def _load(place: str, name: str) -> Any:
    module, _, attribute = place.partition(":")
    target: Any = getattr(import_module(f"tidegate.commands.{module}"), attribute)
    if isinstance(target, typer.Typer):
        # a group even where it has one command only
        command: Any = get_group(target)
    else:
        alone = typer.Typer(pretty_exceptions_enable=False, rich_markup_mode="rich", add_completion=False)
        alone.command(name)(target)
        command = get_command(alone)
    command.name = name
    return command
