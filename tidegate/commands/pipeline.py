"""``tidegate pipeline check | schema | asyncapi | init``."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, NoReturn

import msgspec
import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from detectors.kinds import PARAMS
from domain.codec import EventCodec
from domain.durations import format_duration
from domain.errors import EventRejected, PipelineInvalid, RulesInvalid, TidegateError
from domain.pipeline import Aggregate, AggregateFeature, ExpressionFeature, Feature, Pipeline
from domain.pipeline_file import json_schema, parse_pipeline
from domain.privacy import Protector
from featurestore.expressions import compile_expression
from featurestore.kernels_sketch import ACCURACY
from featurestore.plan import SKETCH_ENTRIES, bytes_bound, plan_entities, tiles_kept
from featurestore.sizes import measured_bytes
from tidegate.loading import load
from tidegate.pipeline_draft import draft_pipeline
from tidegate.sample_file import Column, read_sample

__all__ = ["app", "describe", "entity_bytes"]

app = typer.Typer(no_args_is_help=True, help="Check, describe and draft pipeline files.")

Bytes = Callable[[Pipeline], Mapping[str, int]]
Measured = Mapping[str, Mapping[int, int]]
"""Bytes of one entity's state, per entity field and number of events."""


def entity_bytes(pipeline: Pipeline) -> dict[str, int]:
    """The most bytes of online state that one entity of each kind can take."""
    return {plan.entity: bytes_bound(plan) for plan in plan_entities(pipeline)}


def describe(
    pipeline: Pipeline, bytes_of: Bytes = entity_bytes, measured: Measured | None = None
) -> dict[str, Any]:
    """What a checked pipeline costs and how exact it is, as plain values for ``--json`` and the table.

    ``measured`` (see :func:`featurestore.sizes.measured_bytes`) is shown beside the bounds where it is given.
    """
    entities: dict[str, dict[str, Any]] = {
        name: {"bytes_at_most": size} for name, size in bytes_of(pipeline).items()
    }
    for name, sizes in (measured or {}).items():
        entities[name]["bytes_measured"] = {str(events): size for events, size in sizes.items()}
    return {
        "pipeline": pipeline.name,
        "version": pipeline.version,
        "digest": pipeline.digest,
        "features": [_describe_feature(f, pipeline.event.max_lateness) for f in pipeline.features],
        "entities": entities,
        "detectors": {spec.name: spec.kind for spec in pipeline.detectors},
        "decision": msgspec.to_builtins(pipeline.decision),
    }


def _describe_feature(feature: Feature, max_lateness: int) -> dict[str, Any]:
    if not isinstance(feature, AggregateFeature):
        if isinstance(feature, ExpressionFeature):
            return {"name": feature.name, "what": feature.expression, "error": "that of the features in it"}
        return {"name": feature.name, "what": f"value of {feature.field}", "error": "exact"}
    what = str(feature.aggregate) + (f" {feature.q:g}" if feature.q is not None else "")
    what += f" of {feature.of}" if feature.of else ""
    if feature.half_life is not None:
        return {
            "name": feature.name,
            "what": what,
            "entity": feature.entity,
            "half_life": format_duration(feature.half_life),
            "error": "that of floating point only",
        }
    if feature.window is None or feature.hop is None:
        window = None if feature.window is None else format_duration(feature.window)
        return {
            "name": feature.name, "what": what, "entity": feature.entity, "window": window, "error": "exact"
        }  # fmt: skip
    hop = format_duration(feature.hop)
    error = f"at most the events of {hop} before the window's start"
    if feature.delay:
        error = f"at most the events of {hop} at each end of the window"
    if feature.aggregate is Aggregate.DISTINCT:
        error += "; above 128 values an estimate (about 9 %)"
    if feature.aggregate is Aggregate.QUANTILE:
        error += f"; {ACCURACY:.0%} of the value, twice that each time an entity needs over {SKETCH_ENTRIES:,} buckets"
    if feature.aggregate is Aggregate.RATE:
        error += "; labels count from when they are known"
    return {
        "name": feature.name,
        "what": what,
        "entity": feature.entity,
        "window": format_duration(feature.window),
        "delay": format_duration(feature.delay) if feature.delay else None,
        "hop": hop,
        "tiles": tiles_kept(feature, max_lateness),
        "error": error,
    }


@app.command()
def check(
    file: Annotated[Path, typer.Argument(help="The pipeline file.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    measure: Annotated[
        bool,
        typer.Option(
            help="Measure bytes of state for each entity; takes a second, the first time half a minute."
        ),
    ] = True,
) -> None:
    """Explain every mistake of a pipeline file with line and remedy; or what it declares, when there is none."""
    console = Console()
    try:
        pipeline = load(file)
    except PipelineInvalid as error:
        if as_json:
            problems = [msgspec.to_builtins(problem) for problem in error.problems]
            typer.echo(json.dumps({"ok": False, "problems": problems}, indent=2))
        else:
            _print_problems(console, error)
        raise typer.Exit(1) from None
    except TidegateError as error:
        _fail(error)
    if pipeline.rules:
        _check_rules(pipeline, file, as_json=as_json)
    described = describe(pipeline, measured=measured_bytes(pipeline) if measure else None)
    if as_json:
        typer.echo(json.dumps({"ok": True, **described}, indent=2))
    else:
        _print_described(console, described)


def _check_rules(pipeline: Pipeline, file: Path, *, as_json: bool) -> None:
    """End the command where a file with rules has mistakes."""
    from tidegate.rules import first_rules

    try:
        first_rules(pipeline, file)
    except RulesInvalid as error:
        if not as_json:
            _fail(error)
        problems = [asdict(problem) for problem in error.problems]
        typer.echo(json.dumps({"ok": False, "problems": problems}, indent=2))
        raise typer.Exit(1) from None


@app.command()
def schema() -> None:
    """Print the JSON Schema of the pipeline file, for editors."""
    typer.echo(json.dumps(json_schema(PARAMS), indent=2))


@app.command()
def asyncapi(file: Annotated[Path, typer.Argument(help="The pipeline file.")]) -> None:
    """Print the AsyncAPI 3 document of the pipeline's topics: every kind of record, its key and headers."""
    # only here: the other commands of this file need no Kafka
    from stream.asyncapi import asyncapi_document
    from tidegate.version import CODE_VERSION

    try:
        pipeline = load(file)
    except TidegateError as error:
        _fail(error)
    typer.echo(json.dumps(asyncapi_document(pipeline, CODE_VERSION), indent=2))


@app.command()
def init(
    sample: Annotated[Path, typer.Argument(help="A .csv, .jsonl or .parquet file with some events.")],
    out: Annotated[Path | None, typer.Option("--out", help="Write here instead of to the terminal.")] = None,
) -> None:
    """Draft a pipeline file from a sample of events; the guesses are marked for you to look through."""
    try:
        columns = read_sample(sample)
        text = draft_pipeline(columns, sample.stem)
        pipeline = parse_pipeline(text, "the draft", kinds=PARAMS, check_expression=compile_expression)
    except TidegateError as error:
        _fail(error)
    accepted, rows, refusal = _try_out(pipeline, columns)
    typer.echo(f"{accepted:,} of {rows:,} sample rows fit the draft.", err=True)
    if refusal is not None:
        typer.echo(f"the first that does not: {refusal}", err=True)
    if out is None:
        typer.echo(text, nl=False)
        return
    try:
        with out.open("x", encoding="utf-8") as stream:
            stream.write(text)
    except OSError as error:
        typer.echo(f"{out} cannot be written: {error.strerror}. Remedy: give another --out.", err=True)
        raise typer.Exit(1) from None
    typer.echo(f"wrote {out}; next: tidegate pipeline check {out}", err=True)


def _try_out(pipeline: Pipeline, columns: list[Column]) -> tuple[int, int, EventRejected | None]:
    """How many sample rows the draft takes, of how many, and why it refuses the first that it does not."""
    codec = EventCodec(pipeline, Protector(bytes(16)))
    names = [column.name for column in columns]
    rows = list(zip(*(column.values for column in columns), strict=True))
    raws = [codec.encode(dict(zip(names, row, strict=True))) for row in rows]
    # a sample has no times of receipt: nothing counts as ahead of them
    events, rejected = codec.decode_many(raws, [1 << 62] * len(raws))
    return len(events), len(raws), rejected[0][1] if rejected else None


def _fail(error: TidegateError) -> NoReturn:
    typer.echo(str(error), err=True)
    raise typer.Exit(1)


def _print_problems(console: Console, error: PipelineInvalid) -> None:
    table = Table(title=Text(f"{error.source}: {len(error.problems)} mistake(s)"), title_justify="left")
    for heading in ("Line", "Where", "What is wrong", "Remedy"):
        table.add_column(heading, overflow="fold")
    for problem in error.problems:
        cells = (str(problem.line), problem.path, problem.reason, problem.remedy)
        table.add_row(*(Text(cell) for cell in cells))
    console.print(table)


def _print_described(console: Console, described: dict[str, Any]) -> None:
    title = (
        f"{described['pipeline']} version {described['version']}: no mistakes ({described['digest'][:12]})"
    )
    table = Table(title=Text(title), title_justify="left")
    for heading in ("Feature", "What", "Entity", "Window", "Hop", "Tiles", "Error"):
        table.add_column(heading, overflow="fold")
    for feature in described["features"]:
        window = feature.get("window") or ("no limit" if "entity" in feature else "")
        if feature.get("half_life"):
            window = f"half-life {feature['half_life']}"
        if feature.get("delay"):
            window += f", {feature['delay']} ago"
        cells = (
            feature["name"],
            feature["what"],
            feature.get("entity", ""),
            window,
            feature.get("hop", ""),
            str(feature.get("tiles", "")),
            feature["error"],
        )
        table.add_row(*(Text(cell) for cell in cells))
    console.print(table)
    _print_sizes(console, described["entities"])


def _print_sizes(console: Console, entities: Mapping[str, Any]) -> None:
    """Bytes of state as measured, where they were, beside the bound."""
    counts = next(iter(entities.values())).get("bytes_measured", {})
    title = "Bytes of online state of one entity"
    table = Table(title=Text(f"{title} with so many events in its longest window" if counts else title))
    table.title_justify = "left"
    table.add_column("Entity", overflow="fold")
    for heading in (*(f"{int(count):,}" for count in counts), "at most"):
        table.add_column(heading, justify="right")
    for name, entity in entities.items():
        sizes = [*entity.get("bytes_measured", {}).values(), entity["bytes_at_most"]]
        table.add_row(Text(name), *(f"{size:,}" for size in sizes))
    console.print(table)
