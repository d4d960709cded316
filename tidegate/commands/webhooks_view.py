"""How ``tidegate webhooks`` shows what it shows."""

from __future__ import annotations

from collections.abc import Sequence

from rich.markup import escape
from rich.table import Table

from domain.clock import from_micros
from lifecycle.webhook_rules import shown_url
from lifecycle.webhooks import Delivery, Endpoint

__all__ = ["deliveries_table", "endpoints_table", "host"]


def host(endpoint: Endpoint) -> str:
    """Where it is, without what may be a token in its path."""
    return shown_url(endpoint.settings.url)


def endpoints_table(endpoints: Sequence[Endpoint]) -> Table:
    """One line for each."""
    table = Table("endpoint", "where", "alerts", "rate", "order", "state", "description", box=None)
    for endpoint in endpoints:
        settings = endpoint.settings
        wanted = "/".join(settings.filter.decisions)
        if settings.filter.min_score is not None:
            wanted += f" from {settings.filter.min_score:g}"
        if settings.filter.reasons:
            wanted += f" with {', '.join(settings.filter.reasons)}"
        state = "enabled" if settings.enabled else endpoint.disabled_reason or "disabled"
        cells = (
            endpoint.id,
            host(endpoint),
            wanted,
            "-" if settings.rate is None else f"{settings.rate:g}/s",
            settings.order.value,
            state,
            settings.description,
        )
        table.add_row(*map(escape, cells))
    return table


def deliveries_table(deliveries: Sequence[Delivery]) -> Table:
    """One line for each."""
    table = Table("message", "state", "attempts", "last", "queued", "due", box=None)
    for one in deliveries:
        last = one.error or ("" if one.status is None else str(one.status))
        due = _time(one.due_at) if one.state == "pending" else ""
        table.add_row(
            one.message, one.state.value, str(one.attempts), escape(last), _time(one.queued_at), due
        )
    return table


def _time(micros: int) -> str:
    return from_micros(micros).strftime("%Y-%m-%d %H:%M:%S")
