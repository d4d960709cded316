"""The fairness report of a backtest as a table for people."""

from __future__ import annotations

import math

from rich.markup import escape
from rich.table import Table

from lifecycle.fairness import FairnessReport, Group, Share, fairness_gate

__all__ = ["fairness_table"]


def fairness_table(report: FairnessReport) -> Table:
    """Shares by group with their 95 % intervals, and what the gate would say."""
    table = Table(
        title=f"By {escape(report.field)}",
        caption=escape(fairness_gate(report).reason) + "\n95 % intervals; * rests on few events",
    )
    table.add_column("group")
    for column in ("events", "alert rate", "false positive rate", "to others", "precision", "recall"):
        table.add_column(column, justify="right")
    for group in report.groups:
        table.add_row(
            escape(group.name) + ("*" if group.small else ""),
            f"{group.events:,}",
            *map(_cell, (group.alert_rate, group.false_positive_rate)),
            _to_others(group),
            *map(_cell, (group.precision, group.recall)),
        )
    if report.ungrouped:
        table.add_row("(no value)", f"{report.ungrouped:,}", "", "", "", "", "")
    return table


def _cell(share: Share) -> str:
    if not share.n:
        return "none"
    return f"{share.value:.2%} ({share.low:.2%} to {share.high:.2%}){'*' if share.small else ''}"


def _to_others(group: Group) -> str:
    seen = group.false_positive_rate_to_others
    if math.isnan(seen.ratio):
        return ""
    return f"x{seen.ratio:.2f} ({seen.ratio_low:.2f} to {seen.ratio_high:.2f})"
