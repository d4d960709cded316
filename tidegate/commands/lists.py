"""``tidegate lists``: lists of values of events' fields, tags and snoozes among them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, NoReturn

import msgspec
import typer
from rich.console import Console

from domain.clock import SystemClock, from_micros
from domain.durations import parse_duration
from domain.list_records import SNOOZED, ListEntry
from lifecycle.list_import import Columns, Imported, import_file, moment_of
from lifecycle.list_store import ListsChanged, NewEntry
from tidegate.commands.models_context import JsonOption, PipelineOption, ReasonOption, checked, print_json
from tidegate.commands.rules_context import Context, opened

__all__ = ["app"]

app = typer.Typer(help="Lists, tags and snoozes of entities.", no_args_is_help=True)

NameArgument = Annotated[str, typer.Argument(metavar="LIST", help="Its name; tag:NAME for a tag.")]
FieldArgument = Annotated[
    str, typer.Argument(metavar="FIELD", help="The event's field, for example account_id.")
]
ValueArgument = Annotated[str, typer.Argument(metavar="VALUE", help="As events have it.")]
ExpiresOption = Annotated[
    str | None,
    typer.Option("--expires", help="When it ends: 2026-01-31T12:00:00Z, or from now on: 30d, 12h."),
]
SourceOption = Annotated[str, typer.Option("--source", help="Where it comes from.")]
NoteOption = Annotated[str, typer.Option("--note", help="What others should know.")]


@app.command("list")
def list_lists(as_json: JsonOption = False, pipeline: PipelineOption = None) -> None:
    """Which lists there are.

    Example: tidegate lists list
    """
    with opened(pipeline) as context:
        version, found = context.lists.version(), context.lists.lists()
    if as_json:
        print_json({"version": version, "lists": msgspec.to_builtins(found)})
        return
    for one in found:
        typer.echo(f"{one.list}: {one.entries:,} entries of {one.field}, changed {_moment(one.changed_at)}")
    if not found:
        typer.echo("no lists; `tidegate lists add LIST FIELD VALUE` begins one")


@app.command()
def show(
    name: NameArgument,
    field: Annotated[str | None, typer.Option("--field", help="Only values of this field.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=100_000, help="Show so many, the newest.")] = 50,
    as_json: JsonOption = False,
    pipeline: PipelineOption = None,
) -> None:
    """Entries of a list, newest first; values of sensitive fields as keyed hashes.

    Example: tidegate lists show trusted --limit 10
    """
    with opened(pipeline) as context:
        found = context.lists.entries(context.values.name(name), field=field, limit=limit)
    if as_json:
        print_json({"entries": [_shown(entry) for entry in found]})
        return
    for entry in found:
        ends = "" if entry.expires_at is None else f", until {_moment(entry.expires_at)}"
        said = "; ".join(text for text in (entry.source, entry.note) if text)
        typer.echo(f"{entry.field} {entry.value}{ends} ({said}, {entry.added_by}, {_moment(entry.added_at)})")


@app.command()
def add(
    name: NameArgument,
    field: FieldArgument,
    value: ValueArgument,
    reason: ReasonOption,
    expires: ExpiresOption = None,
    source: SourceOption = "person",
    note: NoteOption = "",
    as_json: JsonOption = False,
    pipeline: PipelineOption = None,
) -> None:
    """Put one value into a list, and let the workers know.

    Example: tidegate lists add trusted account_id A-17 --expires 30d --reason "called back"
    """
    with opened(pipeline) as context:
        new = NewEntry(
            field=field,
            value=context.values.value(field, value),
            expires_at=_expiry(expires),
            source=source,
            note=note,
        )
        changed = context.lists.put(context.values.name(name), [new], by=context.by, reason=checked(reason))
        _told(context, changed, as_json=as_json)


@app.command()
def remove(
    name: NameArgument,
    field: FieldArgument,
    value: ValueArgument,
    reason: ReasonOption,
    hashed: Annotated[bool, typer.Option("--hashed", help="VALUE is as `lists show` shows it.")] = False,
    as_json: JsonOption = False,
    pipeline: PipelineOption = None,
) -> None:
    """Take one value out of a list, and let the workers know.

    Example: tidegate lists remove trusted account_id A-17 --reason "sold"
    """
    with opened(pipeline) as context:
        one = value if hashed else context.values.value(field, value)
        name = context.values.name(name)
        changed = context.lists.remove(name, [(field, one)], by=context.by, reason=checked(reason))
        _told(context, changed, as_json=as_json)


@app.command()
def snooze(
    field: FieldArgument,
    value: ValueArgument,
    expires: Annotated[str, typer.Option("--expires", help="When it ends; as for `lists add`.")],
    reason: ReasonOption,
    as_json: JsonOption = False,
    pipeline: PipelineOption = None,
) -> None:
    """Deliver no alerts of an entity for a time.

    Example: tidegate lists snooze account_id A-17 --expires 7d --reason "known customer"
    """
    with opened(pipeline) as context:
        new = NewEntry(
            field=field,
            value=context.values.value(field, value),
            expires_at=_expiry(expires),
            source="snooze",
        )
        changed = context.lists.put(SNOOZED, [new], by=context.by, reason=checked(reason))
        _told(context, changed, as_json=as_json)


@app.command("import")
def import_entries(
    name: NameArgument,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="CSV in UTF-8 with a line of column names.")],
    field: Annotated[str, typer.Option("--field", help="The event's field that the values are of.")],
    reason: ReasonOption,
    column: Annotated[str, typer.Option("--column", help="The column of the values.")] = "value",
    expires: ExpiresOption = None,
    source: SourceOption = "import",
    note: NoteOption = "",
    take_out: Annotated[bool, typer.Option("--remove", help="Take the values out instead.")] = False,
    as_json: JsonOption = False,
    pipeline: PipelineOption = None,
) -> None:
    """Put all values of a CSV file into a list, and let the workers know. Doing it again changes nothing.

    Columns expires_at, source and note are taken where they are there.

    Example: tidegate lists import bad stolen.csv --field account_id --column card --reason "feed of today"
    """
    with opened(pipeline) as context, Console(stderr=True).status("reading") as status:

        def progress(done: Imported) -> None:
            status.update(f"{done.rows:,} rows")

        done = import_file(
            file,
            context.lists,
            context.values,
            name,
            field,
            by=context.by,
            reason=checked(reason),
            columns=Columns(value=column),
            expires_at=_expiry(expires),
            source=source,
            note=note,
            remove=take_out,
            progress=progress,
        )
        status.stop()
        if done.mistakes:
            _refuse(file, done.mistakes)
        context.tell_lists()
    if as_json:
        print_json(
            {name: getattr(done, name) for name in ("rows", "added", "renewed", "removed", "same", "version")}
        )
    else:
        typer.echo(
            f"{done.rows:,} rows: {done.added:,} added, {done.renewed:,} renewed, {done.removed:,} removed, "
            f"{done.same:,} as before; lists at {done.version}"
        )


@app.command()
def prune(
    name: NameArgument,
    reason: ReasonOption,
    older: Annotated[str, typer.Option("--expired-for", help="Only what expired so long ago.")] = "30d",
    as_json: JsonOption = False,
    pipeline: PipelineOption = None,
) -> None:
    """Remove entries that expired long ago, and let the workers know.

    Example: tidegate lists prune bad --expired-for 90d --reason "tidying"
    """
    with opened(pipeline) as context:
        before = SystemClock().now() - _duration(older)
        removed, name = 0, context.values.name(name)
        while (changed := context.lists.prune(name, before, by=context.by, reason=checked(reason))).removed:
            removed += changed.removed
        _told(context, msgspec.structs.replace(changed, removed=removed), as_json=as_json)


@app.command()
def publish(pipeline: PipelineOption = None) -> None:
    """Let the workers know of the lists, where that failed before.

    Example: tidegate lists publish
    """
    with opened(pipeline) as context:
        version, written = context.lists.version(), context.tell_lists()
    typer.echo(f"the workers {'are told' if written else 'knew already'}: version {version}")


def _told(context: Context, changed: ListsChanged, *, as_json: bool) -> None:
    context.tell_lists()
    if as_json:
        print_json(msgspec.to_builtins(changed))
    else:
        typer.echo(
            f"{changed.added} added, {changed.renewed} renewed, {changed.removed} removed, {changed.same} as "
            f"before; lists at {changed.version}"
        )


def _refuse(file: Path, mistakes: tuple[str, ...]) -> NoReturn:
    for mistake in mistakes:
        typer.echo(f"{file.name}: {mistake}", err=True)
    typer.echo("nothing was stored; correct the file and import it again", err=True)
    raise typer.Exit(1)


def _expiry(text: str | None) -> int | None:
    if text is None:
        return None
    if "T" in text or ":" in text:
        try:
            return moment_of(text)
        except ValueError as error:
            raise typer.BadParameter(f"{text} {error}", param_hint="--expires") from None
    return SystemClock().now() + _duration(text)


def _duration(text: str) -> int:
    try:
        return parse_duration(text)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


def _moment(micros: int) -> str:
    return from_micros(micros).isoformat(timespec="seconds").replace("+00:00", "Z")


def _shown(entry: ListEntry) -> dict[str, Any]:
    ends = None if entry.expires_at is None else _moment(entry.expires_at)
    return {**msgspec.structs.asdict(entry), "expires_at": ends, "added_at": _moment(entry.added_at)}
