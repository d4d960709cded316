"""``tidegate webhooks``: where alerts are delivered to, and what became of them."""

from __future__ import annotations

import getpass
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any

import msgspec
import typer
from rich.console import Console

from domain.clock import SystemClock, to_micros
from domain.durations import parse_duration
from domain.errors import TidegateError
from domain.verdict import DecisionName
from lifecycle.database import Database
from lifecycle.webhook_store import WebhookStore
from lifecycle.webhooks import DeliveryState, EndpointSettings, NewSecret, Order, WebhookFilter
from tidegate.commands import webhooks_view as view
from tidegate.commands.models_context import JsonOption, PipelineOption, checked, print_json
from tidegate.loading import load
from tidegate.settings import Settings

__all__ = ["app"]

app = typer.Typer(help="Webhooks: where alerts are delivered to.", no_args_is_help=True)

EndpointArgument = Annotated[str, typer.Argument(metavar="ENDPOINT", help="As `webhooks list` shows it.")]
ReasonOption = Annotated[str, typer.Option("--reason", help="Why; kept in the audit.")]
UrlOption = Annotated[str | None, typer.Option("--url", help="Where to, instead of what it is.")]
DescriptionOption = Annotated[str | None, typer.Option(help="What it is for.")]
DecisionOption = Annotated[
    list[DecisionName] | None, typer.Option("--decision", help="Only such alerts (several times for both).")
]
ScoreOption = Annotated[float | None, typer.Option(help="Only alerts with at least this score.")]
CodesOption = Annotated[
    list[str] | None, typer.Option("--code", help="Only alerts with this reason code (or one of several).")
]
RateOption = Annotated[float | None, typer.Option(help="Deliveries a second at most; 0: no limit.")]
OrderOption = Annotated[
    Order | None,
    typer.Option(help="key: one after the other for each key entity; none: as soon as possible."),
]
_BY_HAND = "command line"


@dataclass(frozen=True, slots=True)
class _Context:
    store: WebhookStore
    by: str


@contextmanager
def _opened(pipeline: Any) -> Iterator[_Context]:
    settings = Settings()
    declared = load(settings.pipeline if pipeline is None else pipeline)
    box = settings.webhook_box()
    with closing(Database(settings.database())) as database:
        store = WebhookStore(database, declared.name, SystemClock(), box)
        yield _Context(store, f"{getpass.getuser()} (command line)")


@app.command("list")
def list_endpoints(as_json: JsonOption = False, pipeline: PipelineOption = None) -> None:
    """All endpoints, oldest first.

    Example: tidegate webhooks list
    """
    with _opened(pipeline) as context:
        found = context.store.endpoints()
    if as_json:
        print_json({"endpoints": msgspec.to_builtins(found)})
    elif found:
        Console().print(view.endpoints_table(found))
    else:
        typer.echo("no webhooks; `tidegate webhooks add URL` makes one")


@app.command()
def show(endpoint: EndpointArgument, as_json: JsonOption = False, pipeline: PipelineOption = None) -> None:
    """One endpoint, and when its secrets expire.

    Example: tidegate webhooks show we_3f2a9c01d4e5b6a7
    """
    with _opened(pipeline) as context:
        found, secrets = context.store.endpoint(endpoint), context.store.secrets(endpoint)
    print_json({"endpoint": msgspec.to_builtins(found), "secrets": msgspec.to_builtins(secrets)})


@app.command()
def add(
    url: Annotated[str, typer.Argument(help="https://host/path")],
    description: DescriptionOption = None,
    decision: DecisionOption = None,
    min_score: ScoreOption = None,
    code: CodesOption = None,
    rate: RateOption = None,
    order: OrderOption = None,
    reason: ReasonOption = _BY_HAND,
    as_json: JsonOption = False,
    pipeline: PipelineOption = None,
) -> None:
    """Deliver alerts to a URL from now on. Prints the secret, which is never shown again.

    Example: tidegate webhooks add https://hooks.example/fraud --decision block --order key
    """
    wanted = _changed(EndpointSettings(url=url), None, description, decision, min_score, code, rate, order)
    with _opened(pipeline) as context:
        made, secret = context.store.add(wanted, by=context.by, reason=checked(reason))
    if as_json:
        print_json({"endpoint": msgspec.to_builtins(made), "secret": msgspec.to_builtins(secret)})
        return
    typer.echo(f"made {made.id}")
    _show_secret(secret)


@app.command()
def change(
    endpoint: EndpointArgument,
    url: UrlOption = None,
    description: DescriptionOption = None,
    decision: DecisionOption = None,
    min_score: ScoreOption = None,
    code: CodesOption = None,
    rate: RateOption = None,
    order: OrderOption = None,
    enabled: Annotated[bool | None, typer.Option("--enable/--disable", help="Deliver, or stop.")] = None,
    reason: ReasonOption = _BY_HAND,
    pipeline: PipelineOption = None,
) -> None:
    """Change what is named; the rest stays.

    Example: tidegate webhooks change we_3f2a9c01d4e5b6a7 --disable --reason "receiver moves"
    """
    with _opened(pipeline) as context:
        before = context.store.endpoint(endpoint)
        wanted = _changed(before.settings, url, description, decision, min_score, code, rate, order)
        if enabled is not None:
            wanted = msgspec.structs.replace(wanted, enabled=enabled)
        after = context.store.change(
            endpoint, wanted, by=context.by, reason=checked(reason), revision=before.revision
        )
    Console().print(view.endpoints_table([after]))


@app.command()
def delete(
    endpoint: EndpointArgument,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    reason: ReasonOption = _BY_HAND,
    pipeline: PipelineOption = None,
) -> None:
    """Forget an endpoint, what waits for it, and its log.

    Example: tidegate webhooks delete we_3f2a9c01d4e5b6a7
    """
    with _opened(pipeline) as context:
        found = context.store.endpoint(endpoint)
        if not yes:
            typer.confirm(f"Forget {endpoint} ({view.host(found)}) and all that waits for it?", abort=True)
        context.store.delete(endpoint, by=context.by, reason=checked(reason))
    typer.echo(f"deleted {endpoint}")


@app.command()
def rotate(
    endpoint: EndpointArgument,
    overlap: Annotated[
        str, typer.Option(help="How long those before it live on: 24h; 0s: not at all.")
    ] = "24h",
    reason: ReasonOption = _BY_HAND,
    pipeline: PipelineOption = None,
) -> None:
    """Make a new secret. Prints it; it is never shown again.

    Example: tidegate webhooks rotate we_3f2a9c01d4e5b6a7 --overlap 48h
    """
    seconds = _micros(overlap, "--overlap") / 1e6
    with _opened(pipeline) as context:
        made = context.store.rotate(endpoint, overlap=seconds, by=context.by, reason=checked(reason))
    _show_secret(made)


@app.command("test")
def send_test(
    endpoint: EndpointArgument, reason: ReasonOption = _BY_HAND, pipeline: PipelineOption = None
) -> None:
    """Send a test event; the dispatcher delivers it.

    Example: tidegate webhooks test we_3f2a9c01d4e5b6a7
    """
    with _opened(pipeline) as context:
        message = context.store.send_test(endpoint, by=context.by, reason=checked(reason))
    typer.echo(
        f"queued {message}; `tidegate webhooks log {endpoint} --message {message}` says what became of it"
    )


@app.command("log")
def delivery_log(
    endpoint: EndpointArgument,
    message: Annotated[str | None, typer.Option(help="One message, with every attempt.")] = None,
    state: Annotated[DeliveryState | None, typer.Option(help="Only those in this state.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="Show so many, the newest.")] = 50,
    as_json: JsonOption = False,
    pipeline: PipelineOption = None,
) -> None:
    """What was delivered, what waits, what failed.

    Example: tidegate webhooks log we_3f2a9c01d4e5b6a7 --state failed
    """
    with _opened(pipeline) as context:
        if message is not None:
            found, tried = context.store.delivery(endpoint, message)
            print_json({"delivery": msgspec.to_builtins(found), "attempts": msgspec.to_builtins(tried)})
            return
        log = context.store.log(endpoint, state=state, limit=limit)
    if as_json:
        print_json({"deliveries": msgspec.to_builtins(log)})
    elif log:
        Console().print(view.deliveries_table(log))
    else:
        typer.echo("nothing was queued for it")


@app.command()
def replay(
    endpoint: EndpointArgument,
    since: Annotated[
        str | None,
        typer.Option(help="Alerts taken in since then: 2025-01-31T10:00:00Z, or an age such as 6h."),
    ] = None,
    until: Annotated[str | None, typer.Option(help="And before then.")] = None,
    message: Annotated[list[str] | None, typer.Option("--message", help="Or these messages.")] = None,
    reason: ReasonOption = _BY_HAND,
    pipeline: PipelineOption = None,
) -> None:
    """Deliver kept alerts again, under the ids that they had.

    Example: tidegate webhooks replay we_3f2a9c01d4e5b6a7 --since 6h
    """
    if since is None and not message:
        raise typer.BadParameter("say since when, or which messages", param_hint="--since")
    begin = None if since is None else _moment(since, "--since")
    end = None if until is None else _moment(until, "--until")
    queued, after, more = 0, 0, True
    with _opened(pipeline) as context:
        while more:
            done = context.store.replay(
                endpoint,
                since=begin,
                until=end,
                after=after,
                only=message or None,
                by=context.by,
                reason=checked(reason),
            )
            queued, after, more = queued + done.queued, done.last or after, done.more
    typer.echo(f"{queued:,} messages queued")


def _changed(
    settings: EndpointSettings,
    url: str | None,
    description: str | None,
    decisions: list[DecisionName] | None,
    min_score: float | None,
    codes: list[str] | None,
    rate: float | None,
    order: Order | None,
) -> EndpointSettings:
    """``settings`` with what is not None put in its place."""
    chosen = {
        "decisions": tuple(decisions) if decisions else None,
        "min_score": min_score,
        "reasons": tuple(codes) if codes else None,
    }
    wanted: WebhookFilter = msgspec.structs.replace(
        settings.filter, **{name: value for name, value in chosen.items() if value is not None}
    )
    said = {"url": url, "description": description, "order": order, "filter": wanted}
    changed: EndpointSettings = msgspec.structs.replace(
        settings, **{name: value for name, value in said.items() if value is not None}
    )
    return changed if rate is None else msgspec.structs.replace(changed, rate=rate or None)


def _show_secret(secret: NewSecret) -> None:
    typer.echo(f"{secret.id}: {secret.secret}")
    typer.echo("Give it to the receiver now; it is not shown again.", err=True)


def _micros(text: str, option: str) -> int:
    try:
        return parse_duration(text)
    except (ValueError, TidegateError) as error:
        raise typer.BadParameter(str(error), param_hint=option) from None


def _moment(text: str, option: str) -> int:
    """UTC microseconds of a time, or of an age before now."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return SystemClock().now() - _micros(text, option)
    return to_micros(moment if moment.tzinfo else moment.replace(tzinfo=UTC))
