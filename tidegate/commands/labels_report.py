"""``tidegate labels report``: how good decisions were, from labels that have had their time."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from domain.clock import SystemClock, from_micros
from domain.durations import format_duration, parse_duration
from domain.pipeline import Pipeline
from lifecycle.evaluation import DAY
from lifecycle.maturity import MaturityReport, Quality, maturity_report
from stream.label_report import read_scored_events
from tidegate.commands.dlq import moment
from tidegate.loading import load
from tidegate.settings import Settings

__all__ = ["report"]

AGES = "1d,3d,7d,14d,30d"
MATURITY = "7d"
_SHOWN = 31
"""Days in the table; --json has all."""


def report(
    pipeline: Annotated[
        Path | None,
        typer.Option(
            "--pipeline", "-p", help="The pipeline file; default: TIDEGATE_PIPELINE.", show_default=False
        ),
    ] = None,
    maturity: Annotated[
        str | None,
        typer.Option(
            help="How long labels take: a day counts when its last event is that old; default: "
            f"retraining.label_maturity of the pipeline file, else {MATURITY}.",
            show_default=False,
        ),
    ] = None,
    ages: Annotated[str, typer.Option(help="Ages at which to compare, joined by commas.")] = AGES,
    since: Annotated[
        str | None, typer.Option(help="Only events from then on (event time): 2026-01-31, or 30d ago.")
    ] = None,
    as_of: Annotated[
        str | None, typer.Option(help="As it was known then: 2026-01-31T08:00Z, or 2d ago; default: now.")
    ] = None,
    unlabelled_negative: Annotated[
        bool, typer.Option("--unlabelled-negative", help="Mature events without a label count as 0.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Precision, recall and average precision by day of event time, of days whose labels are mature.

    Reads the topics of verdicts and joined labels once.

    Example: tidegate labels report --maturity 14d --since 60d
    """
    clock = SystemClock()
    now = _moment(as_of, clock.now(), "--as-of")
    first = 0 if since is None else _moment(since, now, "--since")
    settings = Settings()
    declared = load(settings.pipeline if pipeline is None else pipeline)
    mature, compared = _maturity(declared, maturity), _ages(ages)
    console = Console(stderr=True)
    read = 0
    with console.status("reading labels") as status:

        def progress(count: int) -> None:
            nonlocal read
            read += count
            status.update(f"{read:,} verdicts")

        events = read_scored_events(settings.kafka(), declared, now=now, since=first, progress=progress)
    made = maturity_report(
        events, now=now, maturity=mature, ages=compared, unlabelled_negative=unlabelled_negative
    )
    if as_json:
        typer.echo(json.dumps(_json(declared.name, made, unlabelled_negative), indent=2))
        return
    out = Console()
    out.print(_days(made))
    out.print(_by_age(made))
    young = len(made.days) - made.mature_days
    if young:
        console.print(f"{young} day(s) are younger than {format_duration(mature)} and count nowhere")


def _moment(text: str | None, now: int, option: str) -> int:
    try:
        return now if text is None else moment(text, now)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint=option) from None


def _maturity(pipeline: Pipeline, given: str | None) -> int:
    if given is None and pipeline.retraining is not None:
        return pipeline.retraining.label_maturity
    return _duration(given or MATURITY, "--maturity")


def _duration(text: str, option: str) -> int:
    try:
        return parse_duration(text)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint=option) from None


def _ages(text: str) -> list[int]:
    return sorted({_duration(one, "--ages") for one in text.split(",") if one.strip()})


def _date(day: int) -> str:
    return from_micros(day * DAY).date().isoformat()


def _share(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.3f}"


def _cells(quality: Quality) -> list[str]:
    return [
        f"{quality.alerts:,}",
        f"{quality.positive:,}",
        _share(quality.precision),
        _share(quality.recall),
        _share(quality.average_precision),
    ]


def _days(made: MaturityReport) -> Table:
    table = Table(title=f"Days, as known {from_micros(made.now):%Y-%m-%d %H:%M} UTC")
    for name in (
        "day",
        "events",
        "labelled",
        "alerts",
        "positive",
        "precision",
        "recall",
        "average precision",
    ):
        table.add_column(name, justify="left" if name == "day" else "right")
    for one in made.days[-_SHOWN:]:
        cells = (
            _cells(one.quality)
            if one.quality is not None
            else [f"mature {from_micros(one.mature_at):%Y-%m-%d}", "", "", "", ""]
        )
        table.add_row(_date(one.day), f"{one.events:,}", f"{one.labelled:,}", *cells)
    table.add_section()
    total = made.total
    table.add_row(
        f"{made.mature_days} mature day(s)", f"{total.events:,}", f"{total.labelled:,}", *_cells(total)
    )
    return table


def _by_age(made: MaturityReport) -> Table:
    table = Table(title="By age: labels known by then, of all days that are as old")
    for name in (
        "age",
        "days",
        "events",
        "labelled",
        "alerts",
        "positive",
        "precision",
        "recall",
        "average precision",
    ):
        table.add_column(name, justify="right")
    for age, days, quality in made.by_age:
        table.add_row(
            format_duration(age), str(days), f"{quality.events:,}", f"{quality.labelled:,}", *_cells(quality)
        )
    return table


def _json(name: str, made: MaturityReport, unlabelled_negative: bool) -> dict[str, Any]:
    return {
        "pipeline": name,
        "as_of": made.now,
        "maturity_seconds": made.maturity // 1_000_000,
        "unlabelled_negative": unlabelled_negative,
        "mature_days": made.mature_days,
        "total": _quality(made.total),
        "days": [
            {
                "day": _date(one.day),
                "mature_at": one.mature_at,
                "events": one.events,
                "labelled": one.labelled,
                "quality": None if one.quality is None else _quality(one.quality),
            }
            for one in made.days
        ],
        "by_age": [
            {"age_seconds": age // 1_000_000, "days": days, **_quality(quality)}
            for age, days, quality in made.by_age
        ],
    }


def _quality(quality: Quality) -> dict[str, Any]:
    return {
        "events": quality.events,
        "labelled": quality.labelled,
        "positive": quality.positive,
        "alerts": quality.alerts,
        "alerts_labelled": quality.alerts_labelled,
        "alerts_positive": quality.alerts_positive,
        "precision": _plain(quality.precision),
        "recall": _plain(quality.recall),
        "average_precision": _plain(quality.average_precision),
    }


def _plain(value: float) -> float | None:
    return None if math.isnan(value) else value
