"""``tidegate dlq list | show | redrive``: input that could not be scored, and a second chance for it."""

from __future__ import annotations

import heapq
import json
import sys
from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from domain.clock import Clock, SystemClock, to_micros
from domain.durations import parse_duration
from domain.errors import Reject, TidegateError
from domain.privacy import Protector
from stream.dlq import MAX_REDRIVES, Place, Refusal, Selection
from stream.dlq_reader import DeadLetterReader
from stream.dlq_redrive import Plan, Redriver, plan_redrive
from stream.kafka import KafkaConnection
from stream.topics import Topics
from tidegate.commands.dlq_view import Row, letter_details, letter_table, letters_table, row_of
from tidegate.loading import load
from tidegate.settings import Settings

__all__ = ["app", "moment"]

app = typer.Typer(help="Dead letters: input that could not be scored.", no_args_is_help=True)

PipelineOption = Annotated[
    Path | None,
    typer.Option(help="The pipeline file; default: TIDEGATE_PIPELINE.", show_default=False),
]
ReasonOption = Annotated[
    list[Reject] | None, typer.Option("--reason", help="Only this reason; repeat it for several.")
]
PartitionOption = Annotated[
    list[int] | None, typer.Option("--partition", min=0, help="Only this partition; repeat it for several.")
]
SinceOption = Annotated[
    str | None, typer.Option(help="Only letters written since then: 2026-01-31T08:00Z (UTC), or 2h ago.")
]
UntilOption = Annotated[str | None, typer.Option(help="Only letters written before then, as --since.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]

_WHY = {
    Refusal.ALREADY: "redriven before",
    Refusal.FOREIGN: "not written by a worker of this pipeline",
    Refusal.CUT: "too large to have been kept whole",
    Refusal.TOO_LARGE: "no room for our headers in a record so large",
    Refusal.NO_PARTITION: "the events have no such partition any more",
    Refusal.TOO_OFTEN: f"came back {MAX_REDRIVES} times or more (--force redrives it nevertheless)",
}


def moment(text: str, now: int) -> int:
    """UTC microseconds meant by ISO 8601 (UTC where it names no zone) or by a duration before ``now``.

    Raises ValueError that names both spellings.
    """
    try:
        return now - parse_duration(text)
    except ValueError:
        pass
    try:
        parsed = datetime.fromisoformat(text)
        return to_micros(parsed if parsed.tzinfo is not None else parsed.replace(tzinfo=UTC))
    except (ValueError, OverflowError):
        raise ValueError(
            f"{text!r} is no time; write 2026-01-31T08:00Z, or how long ago, such as 90m, 2h, 3d"
        ) from None


@dataclass(frozen=True, slots=True)
class _Context:
    """What all three commands need."""

    pipeline: str
    kafka: KafkaConnection
    protector: Protector | None
    clock: Clock

    @property
    def topic(self) -> str:
        return Topics(self.pipeline).dead_letters

    def reader(self) -> DeadLetterReader:
        return DeadLetterReader(self.kafka, self.pipeline)


def _context(pipeline: Path | None) -> _Context:
    settings = Settings()
    declared = load(settings.pipeline if pipeline is None else pipeline)
    sensitive = any(field.sensitive for field in declared.event.fields)
    return _Context(
        declared.name, settings.kafka(), settings.protector() if sensitive else None, SystemClock()
    )


def _selection(
    clock: Clock,
    reason: list[Reject] | None,
    partition: list[int] | None,
    since: str | None,
    until: str | None,
    places: list[str] | None = None,
) -> Selection:
    now = clock.now()
    bounds: list[int | None] = []
    for name, text in (("--since", since), ("--until", until)):
        try:
            bounds.append(None if text is None else moment(text, now))
        except ValueError as error:
            raise typer.BadParameter(str(error), param_hint=name) from None
    return Selection(
        reasons=frozenset(r.value for r in reason or []),
        partitions=frozenset(partition or []),
        places=frozenset(map(_place, places or [])),
        since=bounds[0],
        until=bounds[1],
    )


def _place(text: str) -> Place:
    try:
        return Place.parse(text)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


@app.command("list")
def list_letters(
    reason: ReasonOption = None,
    partition: PartitionOption = None,
    since: SinceOption = None,
    until: UntilOption = None,
    limit: Annotated[int, typer.Option(min=1, max=100_000, help="Show so many, the newest.")] = 50,
    with_redriven: Annotated[bool, typer.Option("--all", help="Those already redriven too.")] = False,
    as_json: JsonOption = False,
    pipeline: PipelineOption = None,
) -> None:
    """Which input could not be scored, and why. Shows no payload; keys are hashed if anything is sensitive.

    Example: tidegate dlq list --reason in_future --since 2h
    """
    context = _context(pipeline)
    selection = _selection(context.clock, reason, partition, since, until)
    reader = context.reader()
    reasons: Counter[str] = Counter()
    hidden = 0
    newest: list[Row] = []
    with Console(stderr=True).status(f"reading {context.topic}"):
        done = reader.redriven()
        for letter in reader.letters(reader.spans(selection), selection):
            redriven_at = done.when(letter)
            if redriven_at is not None and not with_redriven:
                hidden += 1
                continue
            reasons[letter.reason] += 1
            row = row_of(letter, redriven_at, context.protector)
            (heapq.heappush if len(newest) < limit else heapq.heappushpop)(newest, row)
    newest.sort(reverse=True)
    total = sum(reasons.values())
    if as_json:
        _print_json(
            {
                "topic": context.topic,
                "total": total,
                "redriven_not_shown": hidden,
                "reasons": dict(reasons.most_common()),
                "letters": [dict(row.values) for row in newest],
            }
        )
        return
    console = Console()
    if newest:
        console.print(letters_table(newest, with_redriven=with_redriven))
    if total > len(newest):
        typer.echo(f"{total - len(newest):,} more, older; --limit shows more of them")
    typer.echo(f"{total:,} dead letter(s) in {context.topic}{_by_reason(reasons)}")
    if hidden:
        typer.echo(f"{hidden:,} already redriven; --all shows them")


@app.command()
def show(
    place: Annotated[str, typer.Argument(metavar="PARTITION:OFFSET", help="As `dlq list` shows it.")],
    payload: Annotated[
        bool,
        typer.Option("--payload", help="Also payload, key and header values, which may hold card numbers."),
    ] = False,
    raw: Annotated[
        bool, typer.Option("--raw", help="Only the payload, byte by byte; it may hold card numbers.")
    ] = False,
    as_json: JsonOption = False,
    pipeline: PipelineOption = None,
) -> None:
    """One dead letter: reason, remedy, where it was, its headers. The payload only when asked for.

    Example: tidegate dlq show 0:17 --payload
    """
    if raw and (payload or as_json):
        raise typer.BadParameter(
            "it writes nothing but the bytes; leave --payload and --json out", param_hint="--raw"
        )
    wanted = _place(place)
    context = _context(pipeline)
    reader = context.reader()
    letter = reader.letter(wanted)
    if raw:
        sys.stdout.buffer.write(letter.value or b"")
        sys.stdout.buffer.flush()
        return
    details = letter_details(letter, reader.redriven().when(letter), context.protector, payload=payload)
    if as_json:
        _print_json(details)
    else:
        Console().print(letter_table(letter, details, payload=payload))


@app.command()
def redrive(
    places: Annotated[
        list[str] | None,
        typer.Argument(metavar="PARTITION:OFFSET", help="Only these; default: all that the options take."),
    ] = None,
    reason: ReasonOption = None,
    partition: PartitionOption = None,
    since: SinceOption = None,
    until: UntilOption = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    force: Annotated[
        bool, typer.Option("--force", help=f"Also what was refused again after {MAX_REDRIVES} redrives.")
    ] = False,
    as_json: JsonOption = False,
    pipeline: PipelineOption = None,
) -> None:
    """Put dead letters back into the events, each exactly once however often this runs or is killed.

    They keep key, headers, bytes and partition, and get the time at which they are written. Whoever is
    refused again becomes a new dead letter.

    Example: tidegate dlq redrive --reason in_future --since 2h --dry-run
    """
    context = _context(pipeline)
    selection = _selection(context.clock, reason, partition, since, until, places)
    reader = context.reader()
    with Console(stderr=True).status(f"reading {context.topic}"):
        spans = reader.spans(selection)
        plan = plan_redrive(reader, context.pipeline, spans, selection, force=force)
    going = sum(plan.going.values())
    if going and not dry_run:
        if not yes:
            _ask(
                f"Put {going:,} dead letter(s) back into {Topics(context.pipeline).events}{_by_reason(plan.going)}?"
            )
        redriver = Redriver(context.kafka, context.pipeline, context.clock)
        try:
            plan = _run(redriver, spans, selection, force=force)
        finally:
            redriver.close()
    _report(plan, selection, dry_run=dry_run, as_json=as_json, topic=context.topic)


def _ask(question: str) -> None:
    try:
        typer.confirm(question, abort=True, err=True)
    except typer.Abort:
        typer.echo("nothing was redriven; --yes goes without asking", err=True)
        raise typer.Exit(1) from None


def _run(redriver: Redriver, spans: dict[int, tuple[int, int]], selection: Selection, *, force: bool) -> Plan:
    gone = 0

    def progress(count: int) -> None:
        nonlocal gone
        gone += count

    try:
        return redriver.run(spans, selection, force=force, progress=progress)
    except KeyboardInterrupt:
        typer.echo(
            f"interrupted; {gone:,} were redriven and will not go again. Run it again for the rest", err=True
        )
        raise typer.Exit(130) from None
    except TidegateError:
        typer.echo(f"{gone:,} were redriven for certain; none goes twice when you run it again", err=True)
        raise


def _report(plan: Plan, selection: Selection, *, dry_run: bool, as_json: bool, topic: str) -> None:
    missing = sorted(selection.places - plan.seen)
    if as_json:
        _print_json(
            {
                "topic": topic,
                "dry_run": dry_run,
                "redriven": sum(plan.going.values()),
                "reasons": dict(plan.going.most_common()),
                "not_redriven": {why.value: count for why, count in plan.refused.most_common()},
                "refused": [{"place": str(place), "why": why.value} for place, why in plan.places],
                "not_found": list(map(str, missing)),
            }
        )
    else:
        verb = "would be redriven" if dry_run else "redriven"
        typer.echo(f"{sum(plan.going.values()):,} dead letter(s) {verb}{_by_reason(plan.going)}")
        for why, count in plan.refused.most_common():
            named = [str(place) for place, refusal in plan.places if refusal is why][:10]
            typer.echo(f"{count:,} not: {_WHY[why]}" + (f": {', '.join(named)}" if named else ""))
        for place in missing:
            typer.echo(f"{place}: no such dead letter, or the options leave it out")
    # of letters that were named, the caller expects every single one to have gone
    if selection.places and (missing or plan.places):
        raise typer.Exit(1)


def _by_reason(counts: Counter[str]) -> str:
    """``: 3 in_future, 1 empty``, or nothing."""
    return ": " + ", ".join(f"{n:,} {reason}" for reason, n in counts.most_common()) if counts else ""


def _print_json(value: dict[str, Any]) -> None:
    typer.echo(json.dumps(value, indent=2))
