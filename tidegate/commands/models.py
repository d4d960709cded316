"""``tidegate models``: which trained models there are, what is in force, and changing that."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

import msgspec
import typer
from rich.console import Console

from lifecycle.registry import OWN, RegistryState, Stage
from tidegate.commands import models_view as view
from tidegate.commands.models_context import (
    Context,
    JsonOption,
    PipelineOption,
    ReasonOption,
    VersionArgument,
    checked,
    opened,
    print_json,
)
from tidegate.commands.models_files import export, key, register

__all__ = ["app"]

app = typer.Typer(help="Trained models: which there are, and which decide.", no_args_is_help=True)

YesOption = Annotated[bool, typer.Option("--yes", help="Do not ask.")]


@app.command("list")
def list_models(
    stage: Annotated[Stage | None, typer.Option(help="Only models in this stage.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="Show so many, the newest.")] = 50,
    as_json: JsonOption = False,
    pipeline: PipelineOption = None,
) -> None:
    """Which models there are, newest first, and which decide.

    Example: tidegate models list --stage champion
    """
    with opened(pipeline) as context:
        state, models = context.registry.state(), context.registry.models(stage=stage, limit=limit)
    if as_json:
        print_json(view.list_json(context.pipeline.name, state, models))
        return
    console = Console()
    if models:
        console.print(view.models_table(models))
    else:
        typer.echo("no models; the trainer registers what it trains, `tidegate models retrain` asks it to")
    console.print(view.in_force(state))


@app.command()
def show(
    version: VersionArgument,
    card: Annotated[bool, typer.Option("--card", help="Also the model card.")] = False,
    as_json: JsonOption = False,
    pipeline: PipelineOption = None,
) -> None:
    """One model: stage, lineage, metrics, and its card.

    Example: tidegate models show m-3f2a9c01d4e5 --card
    """
    with opened(pipeline) as context:
        model, documents = context.registry.model(version), context.registry.card(version)
        role = _role(context.registry.state(), version)
    if as_json:
        print_json(view.model_json(model, documents, role))
    else:
        Console().print(view.model_view(model, documents, role, with_card=card))


@app.command()
def diff(
    first: Annotated[str, typer.Argument(metavar="VERSION", help="A model.")],
    second: Annotated[
        str | None, typer.Argument(metavar="OTHER", help="Another one; default: the champion.")
    ] = None,
    as_json: JsonOption = False,
    pipeline: PipelineOption = None,
) -> None:
    """In what two models differ: metrics, lineage, columns.

    Example: tidegate models diff m-3f2a9c01d4e5 m-0b1c2d3e4f5a
    """
    with opened(pipeline) as context:
        other = second or context.registry.state().champion
        if other is None:
            raise typer.BadParameter(
                "the pipeline's own ensemble is in force; name another model", param_hint="OTHER"
            )
        models = context.registry.model(first), context.registry.model(other)
    if as_json:
        found = [
            {"name": name, "first": before, "second": after}
            for name, before, after in view.differences(*models)
        ]
        print_json({"first": first, "second": other, "differences": found})
    else:
        Console().print(view.differences_table(*models))


@app.command()
def promote(
    version: VersionArgument,
    reason: ReasonOption,
    force: Annotated[
        bool, typer.Option("--force", help="Also a model that has not proven itself beside the champion.")
    ] = False,
    yes: YesOption = False,
    as_json: JsonOption = False,
    pipeline: PipelineOption = None,
) -> None:
    """Make a model the champion, and let the workers know. Promoting the champion again changes nothing.

    Example: tidegate models promote m-3f2a9c01d4e5 --reason "two weeks in shadow, better on every day"
    """
    with opened(pipeline) as context:
        state = context.registry.state()
        context.registry.model(version)
        _ask(f"Let {version} decide instead of {state.champion or OWN}?", yes=yes)
        _change(
            context,
            lambda: context.registry.promote(
                version, epoch=state.epoch, reason=checked(reason), by=context.by, force=force
            ),
            as_json=as_json,
        )


@app.command()
def challenge(
    version: Annotated[str, typer.Argument(metavar="VERSION|none", help="Who challenges; none: nobody.")],
    reason: ReasonOption,
    split: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Let it decide for this share of key entities, by hash.")
    ] = 0.0,
    as_json: JsonOption = False,
    pipeline: PipelineOption = None,
) -> None:
    """Let a model score beside the champion without deciding (or decide for a share of entities).

    Example: tidegate models challenge m-3f2a9c01d4e5 --split 0.1 --reason "A/B test"
    """
    with opened(pipeline) as context:
        state = context.registry.state()
        chosen = None if version == "none" else version
        _change(
            context,
            lambda: context.registry.set_challenger(
                chosen, epoch=state.epoch, reason=checked(reason), by=context.by, split=split
            ),
            as_json=as_json,
        )


@app.command()
def rollback(
    reason: ReasonOption,
    yes: YesOption = False,
    as_json: JsonOption = False,
    pipeline: PipelineOption = None,
) -> None:
    """Put the champion before this one in force again, and let the workers know.

    Example: tidegate models rollback --reason "three times as many alerts since noon"
    """
    with opened(pipeline) as context:
        state = context.registry.state()
        former = (state.below[-1] if state.below else None) or OWN
        if state.champion is not None:
            _ask(f"Let {former} decide again instead of {state.champion}?", yes=yes)
        _change(
            context,
            lambda: context.registry.rollback(epoch=state.epoch, reason=checked(reason), by=context.by),
            as_json=as_json,
        )


@app.command()
def retrain(
    reason: Annotated[
        str, typer.Option("--reason", help="Why; kept in the audit.")
    ] = "asked for by a person",
    as_json: JsonOption = False,
    pipeline: PipelineOption = None,
) -> None:
    """Ask the trainer to train a model now. It goes through gate and shadow like any other.

    Example: tidegate models retrain --reason "new merchant category"
    """
    with opened(pipeline) as context:
        run = context.registry.start_run("person", by=context.by, data={"reason": checked(reason)})
    if as_json:
        print_json(msgspec.to_builtins(run))
    else:
        typer.echo(f"training run {run.id} is requested; a running `tidegate trainer` takes it up")


@app.command()
def runs(
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="Show so many, the newest.")] = 20,
    as_json: JsonOption = False,
    pipeline: PipelineOption = None,
) -> None:
    """Training runs, newest first: what asked for them, how far they are, how they ended.

    Example: tidegate models runs --limit 5
    """
    with opened(pipeline) as context:
        found = context.registry.runs(limit=limit)
    if as_json:
        print_json({"runs": msgspec.to_builtins(list(found))})
    else:
        Console().print(view.runs_table(found))


@app.command()
def audit(
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="Show so many, the newest.")] = 50,
    verify: Annotated[
        bool, typer.Option("--verify", help="Check the whole chain; exit code 1 when it is broken.")
    ] = False,
    as_json: JsonOption = False,
    pipeline: PipelineOption = None,
) -> None:
    """Who changed what, when and why, newest first.

    Example: tidegate models audit --verify
    """
    with opened(pipeline) as context:
        records = context.registry.newest_audit(limit=limit)
        broken = context.registry.verify_audit() if verify else None
    if as_json:
        shown: dict[str, Any] = {"records": msgspec.to_builtins(list(records))}
        if verify:
            shown |= {"whole": broken is None, "broken": msgspec.to_builtins(broken)}
        print_json(shown)
    else:
        Console().print(view.audit_table(records))
        if verify:
            typer.echo(
                "the chain is whole"
                if broken is None
                else f"the chain is broken at record {broken.number}: {broken.why}"
            )
    if broken is not None:
        raise typer.Exit(1)


@app.command()
def publish(pipeline: PipelineOption = None) -> None:
    """Tell the workers again what is in force; needed only when that failed before.

    Example: tidegate models publish
    """
    with opened(pipeline) as context:
        context.publish()
        Console().print(view.in_force(context.registry.state()))


app.command()(export)
app.command()(register)
app.command()(key)


def _change(context: Context, change: Callable[[], RegistryState], *, as_json: bool) -> None:
    state = change()
    context.publish()
    if as_json:
        print_json({"in_force": msgspec.to_builtins(state)})
    else:
        Console().print(view.in_force(state))


def _ask(question: str, *, yes: bool) -> None:
    if yes:
        return
    try:
        typer.confirm(question, abort=True, err=True)
    except typer.Abort:
        typer.echo("nothing was changed; --yes goes without asking", err=True)
        raise typer.Exit(1) from None


def _role(state: RegistryState, version: str) -> str | None:
    return {state.champion: "champion", state.challenger: "challenger"}.get(version)
