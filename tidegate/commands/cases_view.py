"""How review cases are shown to people."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
from rich.console import Group
from rich.table import Table
from rich.text import Text

from domain.clock import from_micros
from domain.verdict import Reason
from lifecycle.case_records import Case, CaseAlert, CaseView
from lifecycle.case_stats import CaseStats
from tidegate.commands.dlq_view import safe_text

__all__ = ["case_view", "cases_table", "stats_view"]

_REASONS = 2
"""Of each alert, shown in a line of a table."""


class _Told(msgspec.Struct):
    reasons: list[Reason] = []


def cases_table(cases: Sequence[Case], now: int) -> Table:
    """``cases`` as a table; ages as of ``now``."""
    table = _table("case", "at stake", "score", "alerts", "gravest", "entity", "waits", "has it", "status")
    for case in cases:
        table.add_row(
            *_cells(
                str(case.id),
                f"{case.priority:,.2f}",
                _number(case.score),
                str(case.alerts),
                case.action.value,
                f"{case.entity} {case.value}",
                "" if case.decision is not None else _span((now - case.queued_at) / 1e6),
                case.assignee or "",
                case.status.value if case.decision is None else case.decision.value,
            )
        )
    return table


def case_view(view: CaseView, now: int) -> Group:
    """Everything about a case."""
    case = view.case
    grid = Table.grid(padding=(0, 2))

    def line(name: str, value: str) -> None:
        grid.add_row(Text(name, style="bold"), Text(safe_text(value, 2_000)))

    line("case", f"{case.id}, revision {case.revision}")
    line("entity", f"{case.entity} {case.value}")
    line(
        "at stake",
        f"{case.priority:,.2f} (score times amount over {case.alerts} alerts of {case.amount:,.2f})",
    )
    line("queue", f"since {_moment(case.queued_at)} ({_span((now - case.queued_at) / 1e6)})")
    line("has it", case.assignee or "nobody")
    if case.decision is None:
        line("status", case.status.value)
    else:
        line("decided", f"{case.decision.value} by {case.decided_by} at {_moment(case.decided_at or 0)}")
        if case.note:
            line("note", case.note)
    return Group(grid, Text(), _alerts_table(view.alerts), Text(), _history_table(view))


def stats_view(stats: CaseStats) -> Group:
    """How the review goes."""
    grid = Table.grid(padding=(0, 2))

    def line(name: str, value: str) -> None:
        grid.add_row(Text(name, style="bold"), Text(value))

    ages = ", ".join(f"{name} {count}" for name, count in stats.open_by_age.items())
    oldest = "" if stats.oldest is None else f", the oldest waits {_span(stats.oldest)}"
    line("open", f"{stats.open:,} ({ages}){oldest}")
    line("unassigned", f"{stats.unassigned:,}")
    line("at stake", f"{stats.at_stake:,.2f}")
    made = ", ".join(f"{name} {count:,}" for name, count in stats.decisions.items())
    line(f"decided since {_moment(stats.since)}", made)
    if stats.seconds_median is not None and stats.seconds_p90 is not None:
        spans = f"half within {_span(stats.seconds_median)}, nine of ten within {_span(stats.seconds_p90)}"
        line("time to decide", spans)
    line("labels to be written", f"{stats.labels_pending:,}")
    table = _table("who", "fraud", "legitimate", "unsure", "mean time")
    for one in stats.reviewers:
        counts = [str(one.decisions.get(name, 0)) for name in ("fraud", "legitimate", "unsure")]
        table.add_row(*_cells(one.by, *counts, "" if one.mean_seconds is None else _span(one.mean_seconds)))
    return Group(grid, table) if stats.reviewers else Group(grid)


def _alerts_table(alerts: Sequence[CaseAlert]) -> Table:
    table = _table("event", "time", "score", "amount", "decision", "why", "label")
    for alert in alerts:
        reasons = msgspec.json.decode(alert.alert, type=_Told).reasons[:_REASONS]
        table.add_row(
            *_cells(
                alert.event_id,
                _moment(alert.event_time),
                _number(alert.score),
                "-" if alert.amount is None else f"{alert.amount:,.2f}",
                alert.decision.value,
                "; ".join(reason.text for reason in reasons),
                _label(alert),
            )
        )
    return table


def _history_table(view: CaseView) -> Table:
    table = _table("when", "who", "what", "before", "after", "text")
    for entry in view.history:
        cells = [_moment(entry.at), entry.by, entry.kind.value]
        table.add_row(*_cells(*cells, entry.before or "", entry.after or "", entry.text or ""))
    return table


def _label(alert: CaseAlert) -> str:
    if alert.label_refused is not None:
        return f"refused: {alert.label_refused}"
    if alert.label is None:
        return ""
    return f"{alert.label}" if alert.label_written else f"{alert.label}, to be written"


def _table(*names: str) -> Table:
    table = Table()
    for name in names:
        table.add_column(name, overflow="fold", no_wrap=name == "case")
    return table


def _cells(*values: Any) -> list[Text]:
    # Text: what stands in a note is never read as markup
    return [Text(safe_text(value, 200)) for value in values]


def _moment(micros: int) -> str:
    return from_micros(micros).isoformat(timespec="seconds").replace("+00:00", "Z")


def _span(seconds: float) -> str:
    """Seconds in the largest unit that fits.

    >>> _span(42.4), _span(5400.0), _span(200_000.0)
    ('42 s', '1.5 h', '2.3 d')
    """
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{max(0.0, seconds):.0f} s"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
