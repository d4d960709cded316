"""``tidegate cases``: the queue of review cases, and deciding them."""

from __future__ import annotations

import getpass
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.console import Console

from domain.clock import SystemClock
from domain.pipeline import Pipeline
from lifecycle.case_changes import CaseChanges
from lifecycle.case_records import (
    MAX_NOTE,
    MAX_WHO,
    Case,
    CaseOrder,
    CaseQuery,
    CaseStatus,
    Outcome,
)
from lifecycle.case_stats import CaseStatsReader
from lifecycle.case_store import SqlCaseStore
from lifecycle.case_upkeep import CaseUpkeep
from lifecycle.database import Database
from tidegate.commands import cases_view as view
from tidegate.commands.models_context import JsonOption, PipelineOption, print_json
from tidegate.loading import load
from tidegate.settings import Settings

__all__ = ["app"]

app = typer.Typer(help="Review cases: alerts that people decide.", no_args_is_help=True)

_DAY = 86_400_000_000
CaseArgument = Annotated[
    int, typer.Argument(metavar="CASE", min=1, max=2**53, help="As `cases list` shows it.")
]
RevisionOption = Annotated[
    int | None,
    typer.Option(min=1, help="Only if the case is still at this revision, as `cases show` told it."),
]


@dataclass(frozen=True, slots=True)
class _Context:
    """What the commands need."""

    pipeline: Pipeline
    database: Database
    clock: SystemClock

    @property
    def store(self) -> SqlCaseStore:
        return SqlCaseStore(self.database, self.pipeline.name, self.pipeline.reviewing, self.clock)

    @property
    def changes(self) -> CaseChanges:
        return CaseChanges(self.database, self.pipeline.name, self.clock)

    @property
    def by(self) -> str:
        """Who sits here, for the audit."""
        return f"{getpass.getuser()} (command line)"


@app.command("list")
def list_cases(
    status: Annotated[CaseStatus, typer.Option(help="Which cases.")] = CaseStatus.OPEN,
    every: Annotated[bool, typer.Option("--all", help="Open and decided ones.")] = False,
    assignee: Annotated[str | None, typer.Option(help="Only those that this one has.")] = None,
    unassigned: Annotated[bool, typer.Option("--unassigned", help="Only those that nobody has.")] = False,
    order: Annotated[
        CaseOrder, typer.Option(help="Most at stake first, or newest first.")
    ] = CaseOrder.PRIORITY,
    limit: Annotated[int, typer.Option(min=1, max=1_000, help="Show so many.")] = 20,
    cursor: Annotated[str | None, typer.Option(help="`next` of the page before.")] = None,
    as_json: JsonOption = False,
    pipeline: PipelineOption = None,
) -> None:
    """The queue: what is most at stake (score times amount) first.

    Example: tidegate cases list --unassigned --limit 5
    """
    query = CaseQuery(
        status=None if every else status,
        assignee=assignee,
        unassigned=unassigned,
        order=order,
        limit=limit,
        cursor=cursor,
    )
    with _opened(pipeline) as context:
        page = context.store.page(query)
    if as_json:
        print_json({"cases": msgspec.to_builtins(page.cases), "next": page.next})
        return
    if not page.cases:
        typer.echo("no cases; `tidegate caser` makes them of alerts")
        return
    Console().print(view.cases_table(page.cases, context.clock.now()))
    if page.next is not None:
        typer.echo(f"more: --cursor {page.next}")


@app.command()
def show(case: CaseArgument, as_json: JsonOption = False, pipeline: PipelineOption = None) -> None:
    """One case: its alerts with their reasons, and what happened to it.

    Example: tidegate cases show 17
    """
    with _opened(pipeline) as context:
        found = context.store.case(case)
    if as_json:
        print_json(msgspec.json.decode(msgspec.json.encode(found)))
    else:
        Console().print(view.case_view(found, context.clock.now()))


@app.command()
def assign(
    case: CaseArgument,
    to: Annotated[str | None, typer.Option(help="Who gets it; default: who sits here.")] = None,
    nobody: Annotated[bool, typer.Option("--nobody", help="Give it back to the queue.")] = False,
    revision: RevisionOption = None,
    as_json: JsonOption = False,
    pipeline: PipelineOption = None,
) -> None:
    """Give a case to somebody.

    Example: tidegate cases assign 17 --to anna
    """
    if nobody and to is not None:
        raise typer.BadParameter("say --to or --nobody", param_hint="--nobody")
    if to is not None:
        _check(to, "--to", MAX_WHO)
    with _opened(pipeline) as context:
        who = None if nobody else to or getpass.getuser()
        changed = context.changes.assign(case, who, by=context.by, revision=revision)
    _shown(changed, f"case {case}: {changed.assignee or 'nobody'} has it", as_json=as_json)


@app.command()
def comment(
    case: CaseArgument,
    text: Annotated[str, typer.Argument(help="What to say.")],
    as_json: JsonOption = False,
    pipeline: PipelineOption = None,
) -> None:
    """Say something about a case.

    Example: tidegate cases comment 17 "called the holder, no answer"
    """
    _check(text, "TEXT", MAX_NOTE)
    with _opened(pipeline) as context:
        changed = context.changes.comment(case, text, by=context.by)
    _shown(changed, f"case {case}: noted", as_json=as_json)


@app.command()
def decide(
    case: CaseArgument,
    decision: Annotated[Outcome, typer.Argument(help="What its events turned out to be.")],
    note: Annotated[str | None, typer.Option(help="Why; kept in the case and in the audit.")] = None,
    revision: RevisionOption = None,
    as_json: JsonOption = False,
    pipeline: PipelineOption = None,
) -> None:
    """Decide a case: all its events are labelled so (fraud 1, legitimate 0, unsure not at all).

    The caser writes the labels; the joiner joins them. An alert that comes between looking and deciding is decided with
    the others, unless --revision says what was seen.

    Example: tidegate cases decide 17 fraud --note "card was stolen" --revision 4
    """
    if note is not None:
        _check(note, "--note", MAX_NOTE)
    with _opened(pipeline) as context:
        changed = context.changes.decide(case, decision, by=context.by, note=note, revision=revision)
    _shown(changed, f"case {case}: {decision.value}, {changed.alerts} event(s)", as_json=as_json)


@app.command()
def stats(
    days: Annotated[int, typer.Option(min=1, max=3650, help="Decisions of so many days.")] = 30,
    as_json: JsonOption = False,
    pipeline: PipelineOption = None,
) -> None:
    """How the review goes: what waits, how long decisions took, who decided what.

    Example: tidegate cases stats --days 7
    """
    with _opened(pipeline) as context:
        now = context.clock.now()
        reader = CaseStatsReader(context.database, context.pipeline.name)
        found = reader.stats(now=now, since=now - days * _DAY)
    if as_json:
        print_json(msgspec.to_builtins(found))
    else:
        Console().print(view.stats_view(found))


@app.command()
def tidy(
    days: Annotated[int, typer.Option(min=1, max=36_500, help="Keep cases decided in so many days.")],
    as_json: JsonOption = False,
    pipeline: PipelineOption = None,
) -> None:
    """Delete cases that were decided long ago and whose labels are written; the audit keeps the decisions.

    Example: tidegate cases tidy --days 365
    """
    with _opened(pipeline) as context:
        upkeep = CaseUpkeep(context.database, context.pipeline.name, context.clock)
        gone = upkeep.tidy(context.clock.now() - days * _DAY, by=context.by)
    if as_json:
        print_json({"deleted": gone})
    else:
        typer.echo(f"{gone:,} cases deleted")


@contextmanager
def _opened(pipeline: Path | None) -> Iterator[_Context]:
    settings = Settings()
    declared = load(settings.pipeline if pipeline is None else pipeline)
    database = Database(settings.database())
    try:
        yield _Context(declared, database, SystemClock())
    finally:
        database.close()


def _check(text: str, name: str, most: int) -> None:
    if not text.strip() or len(text) > most or not text.replace("\n", " ").isprintable():
        raise typer.BadParameter(f"write 1 to {most:,} printable characters", param_hint=name)


def _shown(case: Case, line: str, *, as_json: bool) -> None:
    if as_json:
        print_json(msgspec.to_builtins(case))
    else:
        typer.echo(f"{line} (revision {case.revision})")
