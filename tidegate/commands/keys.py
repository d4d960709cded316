"""``tidegate keys``: API keys are made, listed, rotated and revoked."""

from __future__ import annotations

import getpass
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from api.access import ROLES, Scope
from domain.clock import SystemClock, from_micros
from domain.durations import parse_duration
from lifecycle.database import Database
from lifecycle.key_store import MAX_LIVE, KeyStore
from lifecycle.keys import ApiKey, new_key
from tidegate.commands.models_context import (
    JsonOption,
    PipelineOption,
    ReasonOption,
    checked,
    print_json,
)
from tidegate.loading import load
from tidegate.settings import Settings

__all__ = ["app"]

app = typer.Typer(help="API keys: who may ask the API for what.", no_args_is_help=True)

KeyArgument = Annotated[str, typer.Argument(metavar="ID", help="As `keys list` shows it.")]
ExpiresOption = Annotated[
    str | None, typer.Option("--expires", help="How long it is valid, such as 90d; default: for ever.")
]


@app.command()
def create(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The program or person that uses it.")],
    reason: ReasonOption,
    scopes: Annotated[
        list[str] | None,
        typer.Option("--scope", "-s", help=f"May be given several times: {', '.join(sorted(Scope))}."),
    ] = None,
    role: Annotated[str | None, typer.Option(help=f"All that a role may: {', '.join(ROLES)}.")] = None,
    expires: ExpiresOption = None,
    rate: Annotated[float | None, typer.Option(help="Requests a second; default: TIDEGATE_API_RATE.")] = None,
    burst: Annotated[int | None, typer.Option(help="Requests at once; default: two seconds' worth.")] = None,
    as_json: JsonOption = False,
    pipeline: PipelineOption = None,
) -> None:
    """Make a key. It is shown this once, on standard output, and kept nowhere.

    Example: tidegate keys create shop --scope score --expires 90d --reason "the new shop"
    """
    chosen = _scopes(scopes or [], role)
    with _opened(pipeline) as store:
        key, text = store.create(
            name, chosen, by=_by(), reason=checked(reason), expires_at=_end(expires), rate=rate, burst=burst
        )
    _show_new(key, text, as_json=as_json)


@app.command("list")
def list_keys(
    dead: Annotated[bool, typer.Option("--all", help="Also those that expired or were revoked.")] = False,
    limit: Annotated[int, typer.Option(min=1, max=MAX_LIVE, help="Show so many, the newest.")] = 100,
    as_json: JsonOption = False,
    pipeline: PipelineOption = None,
) -> None:
    """Which keys there are, newest first; never the keys themselves.

    Example: tidegate keys list --all
    """
    with _opened(pipeline) as store:
        found = store.newest(limit, dead=dead)
    if as_json:
        print_json({"keys": msgspec.to_builtins(found)})
    elif not found:
        typer.echo("no keys; `tidegate keys create` makes one")
    else:
        Console().print(_table(found))


@app.command()
def rotate(
    key: KeyArgument,
    reason: ReasonOption,
    overlap: Annotated[str, typer.Option(help="How long the old key goes on.")] = "24h",
    expires: ExpiresOption = None,
    as_json: JsonOption = False,
    pipeline: PipelineOption = None,
) -> None:
    """Make a key's successor with the same scopes; the old one goes on for a while.

    Example: tidegate keys rotate 3f2a9c01d4e5 --overlap 2h --reason monthly
    """
    with _opened(pipeline) as store:
        made, text = store.rotate(
            key,
            by=_by(),
            reason=checked(reason),
            overlap_s=_seconds(overlap, "--overlap"),
            expires_at=_end(expires),
        )
    _show_new(made, text, as_json=as_json)


@app.command()
def revoke(
    key: KeyArgument, reason: ReasonOption, as_json: JsonOption = False, pipeline: PipelineOption = None
) -> None:
    """End a key now (a running API knows within a second).

    Example: tidegate keys revoke 3f2a9c01d4e5 --reason "seen in a public repository"
    """
    with _opened(pipeline) as store:
        gone = store.revoke(key, by=_by(), reason=checked(reason))
    if as_json:
        print_json({"key": msgspec.to_builtins(gone)})
    else:
        typer.echo(f"the key {gone.id} ({gone.name}) opens nothing any more")


@app.command()
def root() -> None:
    """Print a new key for TIDEGATE_API_KEY, which may do everything. It is stored nowhere.

    Example: TIDEGATE_API_KEY=$(tidegate keys root) tidegate api
    """
    typer.echo(new_key())


@contextmanager
def _opened(pipeline: Path | None) -> Iterator[KeyStore]:
    settings = Settings()
    declared = load(settings.pipeline if pipeline is None else pipeline)
    with closing(Database(settings.database())) as database:
        yield KeyStore(database, declared.name, SystemClock())


def _by() -> str:
    return f"{getpass.getuser()} (command line)"


def _scopes(names: list[str], role: str | None) -> list[str]:
    for name in names:
        if name not in set(Scope):
            raise typer.BadParameter(f"choose of {', '.join(sorted(Scope))}", param_hint="--scope")
    if role is not None and role not in ROLES:
        raise typer.BadParameter(f"choose of {', '.join(ROLES)}", param_hint="--role")
    chosen = {*names, *(ROLES[role] if role else ())}
    if not chosen:
        raise typer.BadParameter("say what the key may do: --scope or --role", param_hint="--scope")
    return sorted(chosen)


def _seconds(text: str, option: str) -> float:
    try:
        return parse_duration(text) / 1e6
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint=option) from None


def _end(expires: str | None) -> int | None:
    return None if expires is None else SystemClock().now() + round(_seconds(expires, "--expires") * 1e6)


def _show_new(key: ApiKey, text: str, *, as_json: bool) -> None:
    if as_json:
        print_json({"key": msgspec.to_builtins(key), "secret": text})
        return
    # so that KEY=$(tidegate keys create ...) holds the key alone
    typer.echo(f"key {key.id} ({key.name}) for {', '.join(key.scopes)}; it is shown only now:", err=True)
    typer.echo(text)


def _table(keys: list[ApiKey]) -> Table:
    table = Table("id", "name", "scopes", "rate", "made", "by", "ends")
    now = SystemClock().now()
    for key in keys:
        ends = key.revoked_at or key.expires_at
        end = "-" if ends is None else f"{from_micros(ends):%Y-%m-%d %H:%M}"
        state = "" if key.live(now) else " (revoked)" if key.revoked_at else " (expired)"
        table.add_row(
            key.id,
            escape(key.name),
            " ".join(key.scopes),
            "-" if key.rate is None else f"{key.rate:g}/s",
            f"{from_micros(key.created_at):%Y-%m-%d %H:%M}",
            escape(key.created_by),
            end + state,
        )
    return table
