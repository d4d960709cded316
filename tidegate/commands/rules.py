"""``tidegate rules``: the rules in force, changing them, and what they were."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from domain.clock import from_micros
from domain.rule_records import Rule, RuleSet, Typology
from lifecycle.rule_changes import read_rules_file
from lifecycle.rule_store import unknown_rule
from lifecycle.rule_trial import RulesTrial, TrialReport
from lifecycle.rule_trial_file import try_on_file
from scoring.verdicts import VerdictEncoder
from tidegate.commands.models_context import JsonOption, PipelineOption, ReasonOption, checked, print_json
from tidegate.commands.rules_context import Context, opened
from tidegate.loading import load
from tidegate.rules import try_rules
from tidegate.settings import Settings
from tidegate.version import CODE_VERSION

__all__ = ["app"]

app = typer.Typer(help="Rules: what people decided in advance.", no_args_is_help=True)

IdArgument = Annotated[str, typer.Argument(metavar="ID", help="As `rules list` shows it.")]
EpochOption = Annotated[
    int | None,
    typer.Option("--epoch", help="On which epoch this was decided; refused when it is another by now."),
]


@app.command("list")
def list_rules(as_json: JsonOption = False, pipeline: PipelineOption = None) -> None:
    """The rules in force.

    Example: tidegate rules list
    """
    with opened(pipeline) as context:
        current = context.rules.current()
    if as_json:
        print_json({"in_force": msgspec.to_builtins(current)})
    else:
        _print_set(current)


@app.command()
def show(rule_id: IdArgument, as_json: JsonOption = False, pipeline: PipelineOption = None) -> None:
    """One rule or typology, and what it was before.

    Example: tidegate rules show velocity
    """
    with opened(pipeline) as context:
        current, versions = context.rules.current(), context.rules.versions(rule_id)
        ones: tuple[Rule | Typology, ...] = (*current.rules, *current.typologies)
        mine = next((one for one in ones if one.id == rule_id), None)
        if mine is None:
            raise unknown_rule(rule_id, context.pipeline.name)
    found: dict[str, Any] = {
        "rule": msgspec.to_builtins(mine),
        "epoch": current.epoch,
        "versions": msgspec.to_builtins(versions),
    }
    if as_json:
        print_json(found)
        return
    for name, value in found["rule"].items():
        typer.echo(f"{name}: {value}")
    for version in versions[1:]:
        typer.echo(f"version {version.version}, since epoch {version.since_epoch}: {version.content}")


@app.command()
def apply(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="YAML: rules and typologies.")],
    reason: ReasonOption,
    epoch: EpochOption = None,
    as_json: JsonOption = False,
    pipeline: PipelineOption = None,
) -> None:
    """Put exactly the rules of a file in force, and let the workers know. Doing it again changes nothing.

    Example: tidegate rules apply rules.yaml --reason "ticket 4711"
    """
    with opened(pipeline) as context:
        rules, typologies = read_rules_file(file)
        after = context.rules.apply(rules, typologies, epoch=epoch, by=context.by, reason=checked(reason))
        _told(context, after, as_json=as_json)


@app.command()
def delete(
    rule_id: IdArgument,
    reason: ReasonOption,
    epoch: EpochOption = None,
    as_json: JsonOption = False,
    pipeline: PipelineOption = None,
) -> None:
    """Take a rule or typology away, and let the workers know.

    Example: tidegate rules delete velocity --reason "too many false alarms"
    """
    with opened(pipeline) as context:
        after = context.rules.delete(rule_id, epoch=epoch, by=context.by, reason=checked(reason))
        _told(context, after, as_json=as_json)


@app.command()
def history(
    limit: Annotated[int, typer.Option(min=1, max=1_000, help="Show so many, the newest.")] = 20,
    as_json: JsonOption = False,
    pipeline: PipelineOption = None,
) -> None:
    """Rule sets that were in force, newest first.

    Example: tidegate rules history --limit 5
    """
    with opened(pipeline) as context:
        found = context.rules.history(limit=limit)
    if as_json:
        print_json({"rule_sets": msgspec.to_builtins(found)})
        return
    for one in found:
        typer.echo(f"{_line(one)}: {one.reason}")


@app.command()
def restore(
    old: Annotated[int, typer.Argument(metavar="EPOCH", help="As `rules history` shows it.")],
    reason: ReasonOption,
    as_json: JsonOption = False,
    pipeline: PipelineOption = None,
) -> None:
    """Put the rules of a former epoch in force again, as a new epoch, and let the workers know.

    Example: tidegate rules restore 6 --reason "epoch 7 blocks too much"
    """
    with opened(pipeline) as context:
        former, current = context.rules.at(old), context.rules.current()
        after = context.rules.apply(
            former.rules, former.typologies, epoch=current.epoch, by=context.by, reason=checked(reason)
        )
        _told(context, after, as_json=as_json)


@app.command("test")
def try_file(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="YAML: rules and typologies.")],
    last: Annotated[
        int, typer.Option(min=1, max=20_000, help="Try them on so many verdicts, the newest.")
    ] = 1_000,
    events: Annotated[
        Path | None,
        typer.Option("--events", help="Try them on a file of events instead (.parquet, .csv, .jsonl)."),
    ] = None,
    label_column: Annotated[
        str | None, typer.Option("--label-column", help="The column of labels in that file.")
    ] = None,
    as_json: JsonOption = False,
    pipeline: PipelineOption = None,
) -> None:
    """What rules would have done; changes nothing. Each rule is tried by itself.

    Example: tidegate rules test rules.yaml --last 5000
    """
    settings = Settings()
    declared = load(settings.pipeline if pipeline is None else pipeline)
    rules, typologies = read_rules_file(file)
    wanted = RuleSet(epoch=0, rules=rules, typologies=typologies, changed_at=0, changed_by="", reason="")
    with Console(stderr=True).status("trying") as status:
        if events is None:
            report = try_rules(settings, declared, wanted, last)
        else:
            trial = RulesTrial(declared, wanted)
            encoder = VerdictEncoder(declared, code_version=CODE_VERSION)
            try_on_file(
                events,
                declared,
                settings.protector(),
                encoder,
                trial,
                label_column=label_column,
                progress=lambda rows: status.update(f"{rows:,} rows"),
            )
            report = trial.report()
    if as_json:
        print_json(msgspec.to_builtins(report))
    else:
        _print_report(report)


@app.command()
def publish(pipeline: PipelineOption = None) -> None:
    """Let the workers know of the rules in force, where that failed before.

    Example: tidegate rules publish
    """
    with opened(pipeline) as context:
        epoch, written = context.rules.current().epoch, context.tell_rules()
    typer.echo(f"the workers {'are told' if written else 'knew already'}: epoch {epoch}")


def _told(context: Context, after: RuleSet, *, as_json: bool) -> None:
    context.tell_rules()
    if as_json:
        print_json({"in_force": msgspec.to_builtins(after)})
    else:
        typer.echo(f"in force: {_line(after)}")


def _print_report(report: TrialReport) -> None:
    typer.echo(
        f"{report.events:,} events, {report.alerts:,} of them alerts; {report.labelled:,} labelled, "
        f"{report.frauds:,} of them positive"
    )
    if report.incomplete:
        typer.echo(f"{report.incomplete:,} events are gone, with them: {', '.join(report.missing)}")
    table = Table(
        "rule", "action", "hits", "share", "alerts", "new", "changed", "precision", "recall", "failed"
    )
    for rule in report.rules:
        precision = "" if rule.precision is None else f"{rule.precision:.0%} of {rule.labelled:,}"
        recall = "" if rule.recall is None else f"{rule.recall:.0%}"
        counts = (rule.hits, f"{rule.share:.2%}", rule.alerts, rule.new, rule.changed)
        table.add_row(rule.id, rule.action.value, *map(str, counts), precision, recall, str(rule.failed))
    Console().print(table)


def _line(rules: RuleSet) -> str:
    at = from_micros(rules.changed_at).isoformat(timespec="seconds")
    return f"epoch {rules.epoch}, {len(rules.rules)} rules, {at} by {rules.changed_by}"


def _print_set(current: RuleSet) -> None:
    if not current.epoch:
        typer.echo("no rules; `tidegate rules apply FILE` puts some in force")
        return
    table = Table("id", "version", "when", "action", "effect", "mode", "priority", "typology")
    for rule in current.rules:
        mode = rule.mode.value if rule.enabled else "off"
        cells = (rule.id, rule.version, rule.when, rule.action.value, f"{rule.score_effect:+g}", mode)
        table.add_row(*(Text(str(cell)) for cell in (*cells, rule.priority, rule.typology or "")))
    for kind in current.typologies:
        bands = "; ".join(f"from {band.low:g} {band.action.value}: {band.reason}" for band in kind.bands)
        table.add_row(kind.id, str(kind.version), Text(f"typology: {bands}"), "", "", kind.mode.value, "", "")
    Console().print(table)
    typer.echo(f"in force: {_line(current)}")
