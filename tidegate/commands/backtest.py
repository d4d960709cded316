"""``tidegate backtest``: what would the pipeline have said to these events, and how good is it?"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
)
from rich.table import Table

from domain.clock import from_micros, to_micros
from domain.durations import format_duration, parse_duration
from domain.errors import Fatal, TidegateError
from domain.pipeline import Pipeline
from domain.privacy import Protector
from featurestore.tables import FeatureTables
from lifecycle.backtest import BacktestPlan, BacktestRun, run_backtest
from lifecycle.backtest_output import read_feature, read_row_numbers, read_sample
from lifecycle.backtest_report import Contestant, Report, ReportOptions, evaluate
from lifecycle.evaluation import Interval
from lifecycle.event_files import read_events
from lifecycle.event_rows import count_rows
from lifecycle.fairness import fairness_gate
from lifecycle.groups import by_group, read_groups
from lifecycle.label_files import find_labels
from lifecycle.leakage import find_leaks, undelayed_rates
from scoring.engine import PartitionScorer
from stream.topics import partition_of
from tidegate.commands.backtest_card import check_card, write_card
from tidegate.commands.fairness_view import fairness_table
from tidegate.loading import load
from tidegate.settings import Settings

__all__ = ["backtest", "progress_bar", "run", "tables"]

_LEAK_ROWS = 200_000
"""Verdicts in which features that know the label are looked for."""


def backtest(
    pipeline: Annotated[Path, typer.Option("--pipeline", "-p", help="The pipeline file.")],
    events: Annotated[Path, typer.Option("--events", "-e", help="Past events: .parquet, .csv or .jsonl.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Where the verdicts go (.parquet).")],
    labels: Annotated[
        Path | None, typer.Option(help="Labels by event id; may be the file of events itself.")
    ] = None,
    label_column: Annotated[str | None, typer.Option(help="The column that holds the labels.")] = None,
    train_until: Annotated[
        str | None,
        typer.Option(help="Train on the events before this time (2018-08-08, RFC 3339); measure the rest."),
    ] = None,
    label_delay: Annotated[str, typer.Option(help="How long after an event its label is known.")] = "7d",
    retrain_every: Annotated[
        str | None, typer.Option(help="Train again whenever so much event time has passed (7d).")
    ] = None,
    partitions: Annotated[int, typer.Option(min=1, help="Process as a topic of so many partitions.")] = 1,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first so many rows.")] = None,
    group_by: Annotated[
        str | None,
        typer.Option(help="Compare alerts and false alarms between groups: a field or column of the events."),
    ] = None,
    card: Annotated[
        Path | None, typer.Option(help="Write a model card there (.md), with plots beside it.")
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON object on stdout instead of tables.")
    ] = False,
) -> None:
    """Score a file of past events with the worker's engine, without Kafka, and measure the result."""
    console = Console(stderr=True)
    try:
        declared = load(pipeline)
        check_card(card)
        groups = None if group_by is None else read_groups(events, declared, group_by, limit=limit)
        with progress_bar(console, "scoring", count_rows(events), limit) as advance:
            result, report = run(
                declared,
                events,
                out,
                plan=BacktestPlan(
                    train_until=_time(train_until, "--train-until"),
                    retrain_every=_duration(retrain_every, "--retrain-every"),
                    label_delay=_duration(label_delay, "--label-delay") or 0,
                ),
                labels=labels,
                label_column=label_column,
                partitions=partitions,
                limit=limit,
                protector=Settings().protector(),
                progress=advance,
            )
    except TidegateError as error:
        console.print(f"[red]error:[/] {escape(str(error))}", soft_wrap=True)
        raise typer.Exit(2) from None
    except KeyboardInterrupt:
        console.print("interrupted; no verdicts were written")
        raise typer.Exit(130) from None
    fair = None
    if groups is not None and group_by is not None:
        fair = by_group(
            result, read_row_numbers(out), groups, group_by, since=_time(train_until, "--train-until")
        )
    unfed = declared.follows_labels and labels is None and label_column is None
    leaks = () if report is None else _leaks(declared, result, out)
    warnings = (*_warnings(result, declared, unfed=unfed), *leaks)
    for warning in warnings:
        console.print(f"[yellow]warning:[/] {escape(warning)}", soft_wrap=True)
    written: list[Path] = []
    if card is not None:
        since = _time(train_until, "--train-until")
        try:
            written = write_card(
                card, declared, result, report, since=since, fairness=fair, warnings=warnings
            )
        except TidegateError as error:
            console.print(f"[red]error:[/] {escape(str(error))}", soft_wrap=True)
            raise typer.Exit(2) from None
    if as_json:
        summary = _summary(declared, result, report, out)
        if fair is not None:
            summary["fairness"] = fair.to_json() | {"gate": asdict(fairness_gate(fair))}
        if written:
            summary["card"] = [str(path) for path in written]
        typer.echo(json.dumps(summary))
        return
    stdout = Console()
    for table in [*tables(result, report), *([] if fair is None else [fairness_table(fair)])]:
        stdout.print(table)
    stdout.print(f"verdicts: {out}", soft_wrap=True, highlight=False)
    if written:
        stdout.print(f"card: {written[0]}", soft_wrap=True, highlight=False)


def run(
    pipeline: Pipeline,
    events: Path,
    out: Path,
    *,
    plan: BacktestPlan,
    labels: Path | None = None,
    label_column: str | None = None,
    partitions: int = 1,
    limit: int | None = None,
    protector: Protector,
    progress: Callable[[int], None] = lambda rows: None,
) -> tuple[BacktestRun, Report | None]:
    """The whole backtest; the report is None without labels. Raises TidegateError."""
    known = find_labels(events, pipeline, labels, label_column, protector)
    held = FeatureTables(pipeline, partitions=partitions)
    result = run_backtest(
        pipeline,
        read_events(events, pipeline, protector, label_column=known.column, limit=limit),
        lambda partition: PartitionScorer(pipeline, partition, tables=held),
        out,
        plan,
        labels=known.by_id,
        histories=known.histories,
        partitions=partitions,
        place=(lambda key: partition_of(key, partitions)) if partitions > 1 else None,
        progress=progress,
    )
    options = ReportOptions(
        since=plan.train_until,
        label_delay=plan.label_delay,
        k=_capacity(pipeline),
        seed=pipeline.seed,
    )
    return result, evaluate(result, pipeline, lambda name: read_feature(out, name), options)


def _capacity(pipeline: Pipeline) -> int:
    """The alerts a day that the pipeline's reviewers can take; 100, as in the Handbook, where it does not say."""
    for _, threshold in pipeline.decision.thresholds:
        per_day = threshold.per_day if threshold.cost is None else threshold.cost.per_day
        if per_day is not None:
            return max(1, round(per_day))
    return 100


class progress_bar:  # noqa: N801 - used like a function
    """A progress bar on ``console``; entering gives the function that moves it on."""

    def __init__(self, console: Console, text: str, total: int | None, limit: int | None = None) -> None:
        self._total = limit if total is None else min(total, limit or total)
        self._text = text
        self._bar = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeElapsedColumn(),
            console=console,
            transient=True,
        )

    def __enter__(self) -> Callable[[int], None]:
        self._bar.start()
        task = self._bar.add_task(self._text, total=self._total, rate="")

        def advance(rows: int) -> None:
            self._bar.update(task, advance=rows)
            speed = self._bar.tasks[0].speed
            if speed:
                self._bar.update(task, rate=f"{speed:,.0f}/s")

        return advance

    def __exit__(self, *_: object) -> None:
        self._bar.stop()


def _time(text: str | None, option: str) -> int | None:
    if text is None:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise Fatal(
            f"{option}: {text!r} is no time.", remedy="write 2018-08-08 or 2018-08-08T12:00:00Z."
        ) from None
    return to_micros(moment if moment.tzinfo else moment.replace(tzinfo=UTC))


def _duration(text: str | None, option: str) -> int | None:
    if text is None:
        return None
    try:
        return parse_duration(text)
    except ValueError as error:
        raise Fatal(f"{option}: {error}.", remedy="write for example 7d.") from None


def _leaks(pipeline: Pipeline, result: BacktestRun, out: Path) -> tuple[str, ...]:
    """What looks as if it knew the label; detectors that learn from labels would learn just that."""
    x = read_sample(out, pipeline.feature_names, _LEAK_ROWS)
    found = (*undelayed_rates(pipeline), *find_leaks(x, result.labels[: len(x)], pipeline.feature_names))
    return tuple(leak.text for leak in found)


def _warnings(result: BacktestRun, pipeline: Pipeline, *, unfed: bool) -> list[str]:
    found = []
    if unfed:
        found.append(
            "features count labels (`aggregate: rate`), and there are none: they say that nothing was ever "
            "positive. Name a file with --labels, or a column of the events with --label-column."
        )
    if result.out_of_order:
        found.append(
            f"{result.out_of_order:,} rows are older than a row before them. They were processed in file order, as "
            f"from a topic; sort the file by {pipeline.event.time} unless that is what you want."
        )
    if result.rejected:
        examples = "; ".join(f"row {r.row}: {r.detail}" for r in result.rejected_examples[:3])
        found.append(f"{sum(result.rejected.values()):,} rows were refused ({examples})")
    if not len(result.times):
        found.append("no event was scored; is --train-until after the last one?")
    return found


def _summary(pipeline: Pipeline, result: BacktestRun, report: Report | None, out: Path) -> dict[str, Any]:
    return {
        "pipeline": pipeline.name,
        "pipeline_digest": pipeline.digest,
        "out": str(out),
        "rows": result.rows,
        "verdicts": len(result.times),
        "trained_only": result.trained_only,
        "duplicates": int(result.duplicates.sum()),
        "rejected": dict(result.rejected),
        "out_of_order": result.out_of_order,
        "fits": [{"time": from_micros(now).isoformat(), "rows": rows} for now, rows in result.fits],
        "metrics": report.to_json() if report is not None else None,
    }


def tables(result: BacktestRun, report: Report | None) -> list[Table]:
    """What happened, and how good it was, for people."""
    counts = Table(title="Backtest", show_header=False)
    for name, value in {
        "rows": f"{result.rows:,}",
        "verdicts": f"{len(result.times):,}",
        "used for training only": f"{result.trained_only:,}",
        "refused": ", ".join(f"{n:,} {reason}" for reason, n in result.rejected.items()) or "0",
        "trainings": str(len(result.fits)),
    }.items():
        counts.add_row(name, value)
    if report is None:
        counts.add_row("metrics", "none: no labels (--labels)")
        return [counts]
    counts.add_row("measured", f"{report.rows:,} events, {report.first_time} to {report.last_time}")
    counts.add_row("fraud", f"{report.frauds:,} ({report.prevalence:.3%})")
    counts.add_row("label delay", format_duration(report.label_delay))
    if (said := report.probability) is not None:
        text = "none yet: too few labels were known"
        if said.rows:
            text = (
                f"Brier {said.brier:.5f} (always the share: {said.brier_of_prevalence:.5f}), "
                f"calibration error {said.expected_calibration_error:.5f}, of {said.rows:,} events"
            )
        counts.add_row("probability", text)
    return [counts, _contest_table(report), _decided_table(report)]


def _contest_table(report: Report) -> Table:
    budget = f"{report.score.budget.budget:.2%}"
    table = Table(
        title="How well fraud is ranked", caption=f"95 % intervals resample {report.interval_blocks}s"
    )
    table.add_column("")
    for column in ("score", "random", "best single feature"):
        table.add_column(column, justify="right")
    ranked: list[tuple[Contestant | None, bool]] = [(report.score, True), (report.dummy, False)]
    ranked.append((report.best_feature, False))
    lines: list[tuple[str, Callable[[Contestant], float], Callable[[Contestant], Interval | None]]] = [
        ("ROC AUC", lambda c: c.auc, lambda c: c.auc_interval),
        ("average precision", lambda c: c.average_precision, lambda c: c.average_precision_interval),
        (
            f"card precision at {report.k} a day",
            lambda c: c.card_precision,
            lambda c: c.card_precision_interval,
        ),
        ("  nothing removed", lambda c: c.card_precision_nothing_removed, lambda c: None),
        (f"precision, {report.k} events a day", lambda c: c.top.precision, lambda c: None),
        (f"recall, {report.k} events a day", lambda c: c.top.recall, lambda c: None),
        (f"precision, {budget} alerts", lambda c: c.budget.precision, lambda c: None),
        (f"recall, {budget} alerts", lambda c: c.budget.recall, lambda c: None),
        (f"precision, {budget} each day", lambda c: c.daily.precision, lambda c: None),
        (f"recall, {budget} each day", lambda c: c.daily.recall, lambda c: None),
    ]
    for name, value, interval in lines:
        cells = ["" if c is None else _cell(value(c), interval(c)) for c, _ in ranked]
        table.add_row(name, *cells)
    table.add_row("abstained", *("" if c is None else f"{c.abstained:,}" for c, _ in ranked))
    table.add_row("", "", "", escape(report.best_feature.name) if report.best_feature else "")
    return table


def _cell(value: float, interval: Interval | None) -> str:
    return f"{value:.3f}" if interval is None else f"{value:.3f} ({interval.low:.3f} to {interval.high:.3f})"


def _decided_table(report: Report) -> Table:
    table = Table(title="What the pipeline decided")
    for column in ("decision", "alerts", "share", "precision", "recall"):
        table.add_column(column, justify="left" if column == "decision" else "right")
    for one in report.decided:
        table.add_row(
            f"{one.decision} or above",
            f"{one.alerts:,}",
            f"{one.share:.3%}",
            _cell(one.precision, None),
            _cell(one.recall, None),
        )
    return table
