"""``tidegate audit``: who changed what; whether anybody changed that afterwards; keeping its head elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer
from rich.console import Console

from domain.clock import SystemClock
from domain.errors import Fatal
from lifecycle.audit import AuditHead
from lifecycle.audit_trail import AuditTrail
from lifecycle.database import Database
from stream.audit_topic import HeadExporter, exported_heads
from tidegate.commands import models_view as view
from tidegate.commands.models_context import JsonOption, PipelineOption, print_json
from tidegate.loading import load
from tidegate.settings import Settings

__all__ = ["app"]

app = typer.Typer(help="The audit: who changed what, when and why.", no_args_is_help=True)

_MAX_HEADS_BYTES = 64 * 1024 * 1024
"""Of a file of heads: some 400,000."""


@app.command()
def show(
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="Show so many, the newest.")] = 50,
    before: Annotated[int | None, typer.Option(min=1, help="Only records below this number.")] = None,
    as_json: JsonOption = False,
    pipeline: PipelineOption = None,
) -> None:
    """Records of the audit, newest first.

    Example: tidegate audit show --limit 10
    """
    with _opened(pipeline) as (_, _name, trail, database), database.reading() as connection:
        records = trail.newest(connection, before, limit)
    if as_json:
        print_json({"records": msgspec.to_builtins(records)})
    else:
        Console().print(view.audit_table(records))


@app.command()
def verify(
    head: Annotated[
        Path | None,
        typer.Option("--head", help="A file of heads that `audit export --head` wrote.", show_default=False),
    ] = None,
    topic: Annotated[
        bool, typer.Option("--topic/--no-topic", help="Compare with the heads in the topic `audit`.")
    ] = True,
    as_json: JsonOption = False,
    pipeline: PipelineOption = None,
) -> None:
    """Check the chain of all records, and that it fits the heads that were exported. Exit code 1: it does not.

    Without any exported head (--no-topic and no --head), a chain that was made anew as a whole is not found.

    Example: tidegate audit verify --head heads.jsonl
    """
    with _opened(pipeline) as (settings, name, trail, database):
        heads = [] if head is None else _heads_of(head, name)
        unreadable = 0
        if topic:
            found = exported_heads(settings.kafka(), name)
            heads, unreadable = heads + found.heads, found.unreadable
        with database.reading() as connection:
            broken = trail.verify(connection, heads)
            last = trail.head(connection, now=0).number
    if as_json:
        print_json(
            {
                "whole": broken is None,
                "broken": msgspec.to_builtins(broken),
                "records": last,
                "heads": len(heads),
                "unreadable_heads": unreadable,
            }
        )
    elif broken is None:
        typer.echo(f"the chain of {last} records is whole and fits {len(heads)} exported heads")
    else:
        typer.echo(f"the chain is broken at record {broken.number}: {broken.why}")
    if unreadable and not as_json:
        typer.echo(f"{unreadable} records of the topic are no heads; somebody else writes there", err=True)
    if broken is not None:
        raise typer.Exit(1)


@app.command()
def export(
    head: Annotated[
        Path | None,
        typer.Option("--head", help="Append the head to this file instead; - prints it.", show_default=False),
    ] = None,
    records: Annotated[
        Path | None,
        typer.Option(
            "--records", help="Write all records there, one JSON object a line.", show_default=False
        ),
    ] = None,
    pipeline: PipelineOption = None,
) -> None:
    """Keep number and hash of the newest record outside of the database: in the topic `audit`, or in a file.

    The API does the former by itself; this is for deployments without it, and for copies on other machines.

    Example: tidegate audit export --head heads.jsonl
    """
    with _opened(pipeline) as (settings, name, trail, database):
        with database.reading() as connection:
            newest = trail.head(connection, now=SystemClock().now())
            if records is not None:
                with _written(records, "w") as file:
                    for record in trail.records(connection):
                        file.write(msgspec.json.encode(record).decode() + "\n")
        if head is None and records is None:
            written = HeadExporter(settings.kafka(), name, f"tidegate-{name}-audit").export(newest)
            typer.echo(f"head {newest.number} {'is written' if written else 'was there'}")
    line = msgspec.json.encode(newest).decode()
    if head is not None and str(head) == "-":
        typer.echo(line)
    elif head is not None:
        with _written(head, "a") as file:
            file.write(line + "\n")
    if records is not None:
        typer.echo(f"{newest.number} records are in {records}", err=True)


@contextmanager
def _opened(pipeline: Path | None) -> Iterator[tuple[Settings, str, AuditTrail, Database]]:
    settings = Settings()
    name = load(settings.pipeline if pipeline is None else pipeline).name
    with closing(Database(settings.database())) as database:
        yield settings, name, AuditTrail(name), database


@contextmanager
def _written(path: Path, mode: str) -> Iterator[Any]:
    try:
        with path.open(mode, encoding="utf-8") as file:
            yield file
    except OSError as error:
        raise Fatal(
            f"{path} can not be written: {error.strerror}", remedy="name a file in a folder of yours"
        ) from error


def _heads_of(path: Path, pipeline: str) -> list[AuditHead]:
    """Heads of ``pipeline`` in a file of one JSON object a line; - is the standard input."""
    try:
        if str(path) == "-":
            text = sys.stdin.buffer.read(_MAX_HEADS_BYTES + 1)
        else:
            with path.open("rb") as file:
                text = file.read(_MAX_HEADS_BYTES + 1)
    except OSError as error:
        raise Fatal(f"{path} can not be read: {error.strerror}", remedy="name a file of heads") from error
    if len(text) > _MAX_HEADS_BYTES:
        raise Fatal(f"{path} is larger than 64 MB", remedy="keep its newest lines")
    heads = []
    for number, line in enumerate(text.splitlines(), 1):
        try:
            head = msgspec.json.decode(line, type=AuditHead)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise Fatal(
                f"{path}, line {number} is no head of an audit: {error}",
                remedy="`tidegate audit export --head FILE` writes such files",
            ) from error
        if head.pipeline == pipeline:
            heads.append(head)
    if not heads:
        raise Fatal(
            f"{path} has no head of the pipeline {pipeline}", remedy="name another file, or --pipeline"
        )
    return heads
