"""``tidegate offline``: what the offline store holds, and SQL over it."""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from domain.clock import SystemClock, to_micros
from domain.errors import Fatal
from featurestore.offline import OfflineStore, Pin
from featurestore.offline_query import queried
from featurestore.offline_upkeep import compact as compact_table
from featurestore.offline_upkeep import sort as sort_table
from featurestore.offline_upkeep import vacuum as vacuum_table
from tidegate.loading import load
from tidegate.offline import offline_store, upkeep_settings
from tidegate.settings import Settings

__all__ = ["app"]

app = typer.Typer(help="The offline store: all verdicts, labels and dead letters.", no_args_is_help=True)

PipelineOption = Annotated[
    Path | None,
    typer.Option(help="The pipeline file; default: TIDEGATE_PIPELINE.", show_default=False),
]
JsonOption = Annotated[bool, typer.Option("--json", help="For programs.")]


def _store(pipeline: Path | None) -> tuple[Settings, OfflineStore]:
    settings = Settings()
    return settings, offline_store(settings, load(pipeline or settings.pipeline))


@app.command()
def show(pipeline: PipelineOption = None, as_json: JsonOption = False) -> None:
    """What the tables hold, and the pin of the present versions.

    Example: tidegate offline show --json
    """
    _, store = _store(pipeline)
    tables: list[dict[str, Any]] = []
    for table in store.tables:
        snapshot = table.snapshot()
        files = None if snapshot is None else snapshot.files()
        tables.append(
            {
                "table": table.kind.name,
                "url": table.url,
                "version": -1 if snapshot is None else snapshot.version,
                "rows": 0 if files is None else sum(files["num_records"].to_pylist()),
                "files": 0 if files is None else files.num_rows,
                "bytes": 0 if files is None else sum(files["size_bytes"].to_pylist()),
            }
        )
    pin = str(store.pin())
    if as_json:
        typer.echo(json.dumps({"pin": pin, "tables": tables}))
        return
    view = Table("table", "version", "rows", "files", "MB", "where", caption=f"pin: {pin}")
    for row in tables:
        view.add_row(
            row["table"],
            str(row["version"]),
            f"{row['rows']:,}",
            str(row["files"]),
            f"{row['bytes'] / 1e6:,.1f}",
            row["url"],
        )
    Console().print(view)


@app.command()
def query(
    sql: Annotated[str, typer.Argument(help="SQL over verdicts, labels and dead_letters.")],
    pipeline: PipelineOption = None,
    begin: Annotated[
        str | None, typer.Option("--from", help="Events from then on (2026-11-01, UTC, or RFC 3339).")
    ] = None,
    end: Annotated[str | None, typer.Option("--to", help="Events before then.")] = None,
    pin: Annotated[str | None, typer.Option(help="As of these versions (`offline show`).")] = None,
    as_json: JsonOption = False,
) -> None:
    """Ask in DuckDB's SQL; times are microseconds (make_timestamp(event_time) is readable).

    Example: tidegate offline query "SELECT day, decision, count(*) FROM verdicts GROUP BY ALL ORDER BY ALL"
    """
    _, store = _store(pipeline)
    try:
        pinned = None if pin is None else Pin.parse(pin)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--pin") from error
    start, stop = _moment(begin, "--from"), _moment(end, "--to")
    with queried(store, sql, pin=pinned, start=start or 0, stop=2**62 if stop is None else stop) as rows:
        if rows is None:
            return
        names, found = rows.columns, rows.fetchall()
    if as_json:
        for row in found:
            sys.stdout.write(json.dumps(dict(zip(names, row, strict=True)), default=_text) + "\n")
        return
    view = Table(*names)
    for row in found:
        view.add_row(*(_text(value) for value in row))
    Console().print(view)


@app.command()
def find(
    event_id: Annotated[str, typer.Argument(help="The event's id.")], pipeline: PipelineOption = None
) -> None:
    """Print the verdict on one event, as it was written. Exit code 1: there is none.

    Example: tidegate offline find t-1042
    """
    found = _store(pipeline)[1].get(event_id)
    if found is None:
        raise Fatal("the offline store has no verdict with this id", remedy="see `tidegate offline show`")
    typer.echo(found.decode())


@app.command()
def tidy(
    pipeline: PipelineOption = None,
    keep: Annotated[
        list[str] | None, typer.Option(help="A pin whose files stay, whatever their age; may be repeated.")
    ] = None,
) -> None:
    """Join small files, sort quiet days, delete files that no version needs any more; the archiver does so by itself.

    Example: tidegate offline tidy --keep verdicts@1042+labels@7
    """
    settings, store = _store(pipeline)
    rules, now = upkeep_settings(settings), SystemClock().now()
    try:
        pins = [Pin.parse(text) for text in keep or ()]
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--keep") from error
    for table in store.tables:
        name = table.kind.name
        ordered, joined = sort_table(table, rules, now, set()), compact_table(table, rules)
        gone = vacuum_table(table, rules.keep_versions, [getattr(pin, name, -1) for pin in pins])
        typer.echo(f"{name}: {ordered} sorted, {joined} compacted, {gone} files deleted")


def _moment(text: str | None, option: str) -> int | None:
    if text is None:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise typer.BadParameter(f"{text!r} is no date", param_hint=option) from error
    return to_micros(moment if moment.tzinfo else moment.replace(tzinfo=UTC))


def _text(value: Any) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)
