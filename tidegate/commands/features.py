"""``tidegate features export``: training sets whose rows are what live scoring saw."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from domain.clock import SystemClock
from domain.codec import EventCodec
from domain.durations import parse_duration
from domain.pipeline import Pipeline
from featurestore.tables import FeatureTables
from lifecycle.event_files import read_events
from lifecycle.event_rows import count_rows
from lifecycle.features_export import FileExport, export_file
from lifecycle.label_files import find_labels
from scoring.engine import PartitionScorer
from stream.feature_log import TopicExport, export_topics, find_log, shared_features
from tidegate.commands.backtest import progress_bar
from tidegate.commands.dlq import moment
from tidegate.loading import load
from tidegate.settings import Settings

__all__ = ["app"]

app = typer.Typer(help="Features as live scoring had them.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    """Features as live scoring had them."""


@app.command(
    epilog="Example: tidegate features export -p payments.yaml --topics --as-of 2026-06-01 -o train.parquet"
)
def export(
    pipeline: Annotated[Path, typer.Option("--pipeline", "-p", help="The pipeline file.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Where the training set goes (.parquet).")],
    topics: Annotated[
        bool, typer.Option("--topics", help="From Kafka: the events, their verdicts and joined labels.")
    ] = False,
    events: Annotated[
        Path | None, typer.Option("--events", "-e", help="From a file of events: .parquet, .csv or .jsonl.")
    ] = None,
    labels: Annotated[
        Path | None,
        typer.Option(help="With --events: labels by event id, with a column known_at if it is known."),
    ] = None,
    label_column: Annotated[
        str | None, typer.Option(help="With --events: the column that holds the labels.")
    ] = None,
    label_delay: Annotated[
        str | None, typer.Option(help="With --events: how long after an event its label is known [7d].")
    ] = None,
    as_of: Annotated[
        str | None, typer.Option(help="Labels as they were known then: 2026-01-31T08:00Z (UTC), or 30d ago.")
    ] = None,
    since: Annotated[
        str | None, typer.Option(help="Only events from then on become rows; state is built from all.")
    ] = None,
    allow_truncated: Annotated[
        bool,
        typer.Option("--allow-truncated", help="Go on although the topics no longer hold their beginning."),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Write a training set: one row per event, with the vector that was scored and what is known of the event.

    Exit codes: 0 done, 1 refused or failed with a message, 2 wrong usage, 130 interrupted. Nothing is left at
    --out unless the export was complete. The page docs/training-sets.md explains the rows.
    """
    if topics == (events is not None):
        raise typer.BadParameter("give either --events FILE or --topics", param_hint="--events / --topics")
    given = {"--labels": labels, "--label-column": label_column, "--label-delay": label_delay}
    idle = [name for name, value in given.items() if value is not None] if topics else []
    if idle or (allow_truncated and not topics):
        raise typer.BadParameter(
            "topics carry their own labels" if topics else "a file is taken as it is",
            param_hint=" / ".join(idle) or "--allow-truncated",
        )
    now = SystemClock().now()
    as_of_time, since_time = _moment(as_of, "--as-of", now), _moment(since, "--since", now)
    delay = _delay(label_delay or "7d")
    declared = load(pipeline)
    console = Console(stderr=True)
    settings = Settings()
    result: FileExport | TopicExport
    if events is None:
        connection = settings.kafka()
        spans = find_log(connection, declared, allow_truncated=allow_truncated)
        with progress_bar(console, "exporting", spans.verdict_records) as advance:
            result = export_topics(
                connection,
                declared,
                EventCodec(declared, settings.protector()),
                spans,
                lambda partition, tables: PartitionScorer(declared, partition, tables=tables),
                out,
                SystemClock(),
                as_of=as_of_time,
                since=since_time,
                progress=advance,
            )
        warnings = _topic_warnings(result, declared, len(spans.events))
    else:
        protector = settings.protector()
        known = find_labels(events, declared, labels, label_column, protector)
        with progress_bar(console, "exporting", count_rows(events)) as advance:
            result = export_file(
                declared,
                read_events(events, declared, protector, label_column=known.column),
                PartitionScorer(declared, tables=FeatureTables(declared)),
                out,
                label_delay=delay,
                labels=known.by_id,
                histories=known.histories,
                as_of=as_of_time,
                since=since_time,
                progress=advance,
            )
        warnings = _file_warnings(result, declared, unlabelled=known.column is None and known.by_id is None)
    for warning in warnings:
        console.print(f"[yellow]warning:[/] {escape(warning)}", soft_wrap=True)
    _show(result, declared, out, warnings, as_json=as_json)


def _moment(text: str | None, option: str, now: int) -> int | None:
    try:
        return None if text is None else moment(text, now)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint=option) from None


def _delay(text: str) -> int:
    try:
        return parse_duration(text)
    except ValueError as error:
        raise typer.BadParameter(f"{error}; write for example 7d", param_hint="--label-delay") from None


def _file_warnings(result: FileExport, pipeline: Pipeline, *, unlabelled: bool) -> list[str]:
    found = []
    if unlabelled and pipeline.label_fed:
        found.append(
            "features count labels (`aggregate: rate`), and there are none: they say that nothing was ever "
            "positive. Name a file with --labels, or a column of the events with --label-column."
        )
    if result.out_of_order:
        found.append(
            f"{result.out_of_order:,} rows are older than a row before them. They were processed in file order; "
            f"sort the file by {pipeline.event.time} unless that is what you want."
        )
    if result.rejected:
        examples = "; ".join(f"row {row.row}: {row.detail}" for row in result.rejected_examples[:3])
        found.append(f"{sum(result.rejected.values()):,} rows were refused ({examples})")
    return found


def _topic_warnings(result: TopicExport, pipeline: Pipeline, partitions: int) -> list[str]:
    found = []
    if result.truncated:
        found.append(
            f"the log no longer holds its beginning: {'; '.join(result.truncated)}. Windows begin empty there."
        )
    expected = shared_features(pipeline) if partitions > 1 else frozenset()
    wrong = _listed({n: count for n, count in result.differing.items() if n not in expected})
    if wrong and not result.truncated:
        found.append(
            f"not what was scored: {wrong} of {result.compared:,} vectors. State was lost while they were scored, or "
            "the log was changed since; look for `partition recovered` and `no longer holds` in the workers' logs."
        )
    shared = _listed({n: count for n, count in result.differing.items() if n in expected})
    if shared:
        found.append(
            f"features of entities that several partitions feed differ from what was scored: {shared} of "
            f"{result.compared:,} vectors. Live, other partitions are known a little late."
        )
    scored = result.verdicts - result.duplicates - result.without_event
    if result.compared < scored:
        found.append(
            f"{scored - result.compared:,} vectors could not be compared: they were scored with another pipeline "
            "file, or flagged degraded."
        )
    if result.without_verdict or result.without_event:
        found.append(
            f"{result.without_verdict:,} valid events have no verdict, {result.without_event:,} verdicts have no "
            "valid event; they are left out. Is this the pipeline file that scored them?"
        )
    if result.by_known_at:
        found.append(
            f"{result.by_known_at:,} verdicts do not say which labels they counted, since their pipeline file counted "
            "none; labels count there from when they were known."
        )
    return found


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} in {count:,}" for name, count in counts.items())


def _show(
    result: FileExport | TopicExport, pipeline: Pipeline, out: Path, warnings: list[str], *, as_json: bool
) -> None:
    if as_json:
        facts: dict[str, Any] = asdict(result)
        facts.pop("rejected_examples", None)
        head = {"pipeline": pipeline.name, "pipeline_digest": pipeline.digest, "out": str(out)}
        typer.echo(json.dumps({**head, **facts, "warnings": warnings}))
        return
    table = Table(title="Training set", show_header=False)
    rows = {
        "rows": f"{result.rows:,}",
        "labelled": f"{result.labelled:,}",
        "positive": f"{result.positives:,}",
    }
    rows["duplicates left out"] = f"{result.duplicates:,}"
    if isinstance(result, TopicExport):
        same = "none differs" if not result.differing else f"differing: {_listed(result.differing)}"
        rows["compared with verdicts"] = f"{result.compared:,} vectors, {same}"
    else:
        rows["refused"] = ", ".join(f"{n:,} {reason}" for reason, n in result.rejected.items()) or "0"
    for name, value in rows.items():
        table.add_row(name, value)
    stdout = Console()
    stdout.print(table)
    stdout.print(f"training set: {out}", soft_wrap=True, highlight=False)
