"""The demo on the terminal: rates, latency, alerts with reasons, and precision so far."""

from __future__ import annotations

import numpy as np
from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from domain.verdict import DecisionName
from tidegate.demo import DemoState

__all__ = ["render"]

RECENT = 2_000
"""Latencies of so many latest events are shown: what it is like now, not on average."""


def _share(part: int, whole: int) -> str:
    return f"{part / whole:.1%}" if whole else "–"


def render(state: DemoState, *, broker: str, api_url: str, rate: float) -> RenderableType:
    """One frame. ``rate`` is answers a second lately."""
    with state.lock:
        recent = list(state.latencies)[-RECENT:]
        latest = list(state.latest)
        numbers = Table.grid(padding=(0, 3))
        for _ in range(4):
            numbers.add_column(justify="left")
        p50, p99 = np.percentile(np.array(recent) * 1e3, [50, 99]) if recent else (np.nan, np.nan)
        numbers.add_row(
            f"[bold]{state.events:,}[/] events",
            f"[bold]{state.verdicts:,}[/] verdicts",
            f"[bold]{rate:,.0f}[/] a second",
            f"latency p50 [bold]{p50:.0f}[/] ms, p99 [bold]{p99:.0f}[/] ms",
        )
        numbers.add_row(
            f"{state.dead_letters:,} dead letters",
            f"{state.repeats:,} repeats recognised",
            f"[{'red' if state.duplicates else 'green'}]{state.duplicates} doubled[/]",
            f"{state.warming_up:,} while warming up",
        )
        numbers.add_row(
            f"{state.alerts:,} alerts",
            f"precision [bold]{_share(state.alerts_fraud, state.alerts)}[/]",
            f"recall [bold]{_share(state.alerts_fraud, state.fraud_scored)}[/]",
            f"fraud in traffic {_share(state.fraud_scored, state.scored)}",
        )
    table = Table(expand=True, box=None, pad_edge=False)
    table.add_column("decision", width=8)
    table.add_column("score", width=7)
    table.add_column("event", width=14, no_wrap=True)
    table.add_column("truth", width=8)
    table.add_column("reasons", ratio=1)
    for alert in latest:
        colour = "red" if alert.decision is DecisionName.BLOCK else "yellow"
        table.add_row(
            f"[{colour}]{alert.decision.value}[/]",
            f"{alert.score:.4f}",
            alert.id,
            "[red]fraud[/]" if alert.fraud else "[dim]honest[/]",
            Text("; ".join(alert.reasons), overflow="fold"),
        )
    if not latest:
        table.add_row(
            "", "", "", "", "[dim]none yet: detectors warm up over the first events of each partition[/]"
        )
    foot = Text(f"{broker}   {api_url}/v1/verdicts   {api_url}/openapi.json   Ctrl-C ends", style="dim")
    return Group(
        Panel(numbers, title="Tidegate", title_align="left"),
        Panel(table, title="latest alerts", title_align="left"),
        foot,
    )
