"""``tidegate labels import | report``: a file that says what events turned out to be; and what comes of labels."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from domain.clock import SystemClock
from domain.errors import Fatal, TidegateError
from domain.pipeline import Pipeline
from domain.pipeline_labels import IMPORT_SOURCE, MAX_SOURCE
from lifecycle.label_import import ImportPlan
from lifecycle.label_rows import LabelFile, find_columns, read_label_file
from stream.label_import import LabelImporter, LabelLogs, preview
from stream.label_sender import joiner_runs, send_labels
from stream.topics import Topics
from tidegate.commands.dlq import moment
from tidegate.commands.dlq_view import safe_text
from tidegate.commands.labels_report import report
from tidegate.loading import load
from tidegate.settings import Settings

__all__ = ["app"]

app = typer.Typer(help="Labels: what events turned out to be.", no_args_is_help=True)

app.command("report")(report)

NAMED = 20
"""Events without a verdict that are shown by name; all go to --orphans."""
_MAX_ORIGIN = 200


@app.callback()
def _group() -> None:
    """Labels: what events turned out to be."""


@app.command("import")
def import_labels(
    file: Annotated[Path, typer.Argument(help="Labels by event id: .parquet, .csv or .jsonl.")],
    pipeline: Annotated[
        Path | None,
        typer.Option(
            "--pipeline", "-p", help="The pipeline file; default: TIDEGATE_PIPELINE.", show_default=False
        ),
    ] = None,
    id_column: Annotated[
        str | None, typer.Option(help="The column of event ids; default: named like the id field, or id.")
    ] = None,
    label_column: Annotated[
        str | None, typer.Option(help="The column of labels: 1, 0, or empty for unknown (again).")
    ] = None,
    known_at_column: Annotated[
        str | None, typer.Option(help="The column that says since when; default: known_at if there is one.")
    ] = None,
    known_at: Annotated[
        str | None,
        typer.Option(help="Since when all are known: 2026-01-31T08:00Z (UTC), or 2h ago; default: now."),
    ] = None,
    origin: Annotated[str | None, typer.Option(help="Who says so; kept with each label.")] = None,
    orphans: Annotated[
        Path | None, typer.Option(help="Write row and id of what has no verdict to this file (.csv).")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be written.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Find the events that labels are about, and let the features that count labels know of each change once.

    Importing a file again, also after it was killed, writes only what is not there yet. Reads the whole verdicts
    topic once: meant for batches. Exit codes: 0 done, 1 Kafka failed, 2 bad input, 130 interrupted.

    Example: tidegate labels import chargebacks.csv --known-at 2h --dry-run
    """
    if origin is not None and len(origin) > _MAX_ORIGIN:
        raise typer.BadParameter(f"longer than {_MAX_ORIGIN} characters", param_hint="--origin")
    if known_at is not None and known_at_column is not None:
        raise typer.BadParameter("they contradict each other", param_hint="--known-at / --known-at-column")
    if orphans is not None and not orphans.parent.is_dir():
        raise typer.BadParameter(f"there is no folder {orphans.parent}", param_hint="--orphans")
    now = SystemClock().now()
    try:
        since = None if known_at is None else moment(known_at, now)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--known-at") from None
    console = Console(stderr=True)
    settings = Settings()
    try:
        declared = load(settings.pipeline if pipeline is None else pipeline)
        columns = find_columns(
            file,
            declared,
            id_column=id_column,
            label_column=label_column,
            known_at_column=known_at_column,
        )
        if since is not None and columns.known_at is not None:
            raise Fatal(
                f"{file.name} has a column {columns.known_at}, and --known-at says otherwise.",
                remedy="leave --known-at out, or rename that column.",
            )
    except TidegateError as error:
        _refuse(console, error)
    runs = not dry_run and joiner_runs(settings.kafka(), declared.name)
    try:
        with console.status(f"reading {escape(file.name)}"):
            # the joiner is told ids as they are in events; it hashes sensitive ones by itself
            protector = None if runs else settings.protector()
            labels = read_label_file(file, declared, protector, columns, now=now, known_at=since)
        if runs:
            _send(console, settings, declared, labels, origin, orphans, as_json=as_json, now=now)
            return
    except Fatal as error:
        _refuse(console, error)
    plan = _import(console, settings, declared, labels, origin, dry_run=dry_run)
    if orphans is not None:
        _write_orphans(orphans, plan.orphans)
    if as_json:
        typer.echo(json.dumps(_summary(declared, labels, plan, dry_run=dry_run), indent=2))
    else:
        Console().print(_table(labels, plan, dry_run=dry_run))
    for warning in _warnings(declared, plan, orphans):
        console.print(f"[yellow]warning:[/] {escape(warning)}", soft_wrap=True, highlight=False)


def _refuse(console: Console, error: TidegateError) -> NoReturn:
    console.print(f"[red]error:[/] {escape(str(error))}", soft_wrap=True)
    raise typer.Exit(2) from None


def _send(
    console: Console,
    settings: Settings,
    pipeline: Pipeline,
    labels: LabelFile,
    origin: str | None,
    orphans: Path | None,
    *,
    as_json: bool,
    now: int,
) -> None:
    """Hand the labels to the joiner that runs: two writers of ``labels.joined`` would contradict each other."""
    if origin is not None and len(origin) > MAX_SOURCE:
        raise Fatal(
            f"--origin has more than {MAX_SOURCE} characters.",
            remedy="a joiner runs; give it a shorter name.",
        )
    gone = 0
    with console.status("writing") as status:

        def written(count: int) -> None:
            nonlocal gone
            gone += count
            status.update(f"{gone:,} labels written")

        sent = send_labels(
            settings.kafka(),
            pipeline,
            settings.protector(),
            labels.told,
            origin or IMPORT_SOURCE,
            now=now,
            written=written,
        )
    topics = Topics(pipeline.name)
    if as_json:
        typer.echo(
            json.dumps(
                {"topic": topics.labels, "dry_run": False, "rows": labels.rows, "sent": sent}, indent=2
            )
        )
    else:
        console.print(f"{sent:,} labels sent to {topics.labels}; the joiner that runs finds their events")
    if orphans is not None:
        console.print(
            f"[yellow]warning:[/] --orphans writes nothing here: labels without a verdict wait, then go to "
            f"{topics.raw_label_dead_letters}",
            soft_wrap=True,
            highlight=False,
        )


def _import(
    console: Console,
    settings: Settings,
    pipeline: Pipeline,
    labels: LabelFile,
    origin: str | None,
    *,
    dry_run: bool,
) -> ImportPlan:
    read = gone = 0
    with console.status("reading what is known already") as status:

        def progress(count: int) -> None:
            nonlocal read
            read += count
            status.update(f"looking for the events: {read:,} verdicts")

        def written(count: int) -> None:
            nonlocal gone
            gone += count
            status.update(f"{gone:,} changes written")

        kafka = settings.kafka()
        if dry_run:
            return preview(LabelLogs(kafka, pipeline), labels.told, progress=progress)
        importer = LabelImporter(kafka, pipeline)
        try:
            return importer.run(labels.told, origin=origin, progress=progress, written=written)
        except KeyboardInterrupt:
            console.print(f"interrupted; {gone:,} changes were written. Run it again for the rest")
            raise typer.Exit(130) from None
        except TidegateError:
            console.print(f"{gone:,} changes were written for certain; none goes twice when you run it again")
            raise
        finally:
            importer.close()


def _write_orphans(path: Path, orphans: Sequence[tuple[int, str]]) -> None:
    try:
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(("row", "id"))
            writer.writerows(sorted(orphans))
    except OSError as error:
        raise Fatal(
            f"the labels are written, but {path} is not: {error.strerror}",
            remedy="run it again with another --orphans; no label goes twice",
        ) from error


def _by_label(plan: ImportPlan) -> dict[str, int]:
    counts = plan.by_label
    return {"1": counts[1], "0": counts[0], "unknown": counts[None]}


def _summary(pipeline: Pipeline, labels: LabelFile, plan: ImportPlan, *, dry_run: bool) -> dict[str, Any]:
    return {
        "topic": Topics(pipeline.name).labels_joined,
        "dry_run": dry_run,
        "rows": labels.rows,
        "written": plan.count,
        "by_label": _by_label(plan),
        "unchanged": plan.unchanged,
        "superseded": plan.superseded,
        "orphans": len(plan.orphans),
        "first_orphans": [{"row": row, "id": id_} for row, id_ in sorted(plan.orphans)[:NAMED]],
        "incomplete": len(plan.incomplete),
    }


def _table(labels: LabelFile, plan: ImportPlan, *, dry_run: bool) -> Table:
    table = Table(title="Labels", show_header=False)
    by_label = ", ".join(f"{count:,} to {name}" for name, count in _by_label(plan).items() if count)
    for name, value in {
        "rows": f"{labels.rows:,}",
        "changes that would be written" if dry_run else "changes written": f"{plan.count:,}"
        + (f": {by_label}" if by_label else ""),
        "rows that change nothing": f"{plan.unchanged:,}",
        "rows older than what is known": f"{plan.superseded:,}",
        "events without a verdict": f"{len(plan.orphans):,}",
    }.items():
        table.add_row(name, value)
    if plan.incomplete:
        table.add_row("events scored without an entity of today", f"{len(plan.incomplete):,}")
    return table


def _warnings(pipeline: Pipeline, plan: ImportPlan, path: Path | None) -> list[str]:
    found = []
    topic = Topics(pipeline.name).verdicts
    if plan.orphans:
        first = ", ".join(f"{safe_text(id_, 80)} (row {row})" for row, id_ in sorted(plan.orphans)[:NAMED])
        more = len(plan.orphans) - NAMED
        found.append(
            f"{len(plan.orphans):,} event(s) have no verdict in {topic}: {first}"
            + (f" and {more:,} more" if more > 0 else "")
            + ". They are not scored yet, older than what the topic keeps, or their ids are wrong; importing the file "
            "again takes up what is there by then."
            + ("" if path is not None or more <= 0 else " --orphans FILE writes all.")
        )
    if plan.incomplete:
        row, id_ = plan.incomplete[0]
        found.append(
            f"{len(plan.incomplete):,} event(s) were scored before the pipeline had all its entities, such as "
            f"{safe_text(id_, 80)} (row {row}); no feature can count their labels."
        )
    if plan.count and not pipeline.follows_labels:
        found.append(f"no feature of {pipeline.name} counts labels; they are kept in the topic.")
    return found
