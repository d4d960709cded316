"""The model card: what people should read before they trust a model, as Markdown with two plots.

After Mitchell et al., "Model Cards for Model Reporting", FAT* 2019: what it is, what it was made from, how good it is
and how sure that is, for whom it is worse, and what it can not do. Cards of trained models and of backtests share the
layout, so that both can be laid side by side.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from domain.batch import Floats
from domain.clock import from_micros
from lifecycle.evaluation import Bools, Calibration, Interval
from lifecycle.fairness import FairnessReport, Group, Share, fairness_gate
from lifecycle.gate import GateReport
from lifecycle.plots import Curve, precision_recall_svg, reliability_svg

__all__ = ["Card", "Facts", "Metric", "card", "gate_sections", "moment"]

PRECISION_RECALL, RELIABILITY = "precision-recall.svg", "reliability.svg"


@dataclass(frozen=True, slots=True)
class Metric:
    """A line of the table of metrics: the model, and beside it what it is compared with (NaN: not known)."""

    name: str
    value: float
    interval: Interval | None = None
    others: Mapping[str, float] | None = None


@dataclass(frozen=True, slots=True)
class Facts:
    """What a card is made from. ``data`` and ``lineage`` are lines of (what, text); ``sections`` are (title, text)."""

    title: str
    summary: str
    data: Sequence[tuple[str, str]]
    lineage: Sequence[tuple[str, str]]
    metrics: Sequence[Metric]
    labels: Bools
    curves: Sequence[Curve]
    probability: Floats | None = None
    calibration: Calibration | None = None
    fairness: FairnessReport | None = None
    sections: Sequence[tuple[str, str]] = ()
    limits: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Card:
    """Markdown, and the plots that it shows, by the name under which it looks for them."""

    markdown: str
    plots: dict[str, str]


def card(facts: Facts, *, prefix: str = "") -> Card:
    """The card; ``prefix`` begins the names of its plots. The same facts give the same text."""
    share = float(facts.labels.mean()) if len(facts.labels) else 0.0
    plots = {}
    parts = [f"# {_cell(facts.title)}", facts.summary]
    parts += ["## Data", _lines(facts.data), "## Lineage", _lines(facts.lineage)]
    parts += ["## How good it is", _metrics(facts.metrics)]
    if facts.labels.any():
        plots[prefix + PRECISION_RECALL] = precision_recall_svg(facts.curves, share)
        parts.append(f"![Precision over recall]({prefix}{PRECISION_RECALL})")
    if facts.calibration is not None:
        parts += ["## Calibration", _calibration(facts.calibration)]
        if facts.probability is not None and facts.calibration.rows:
            plots[prefix + RELIABILITY] = reliability_svg(facts.probability, facts.labels)
            parts.append(f"![How far probabilities can be believed]({prefix}{RELIABILITY})")
    parts.append("## Groups")
    parts.append(
        "No group was declared, so nothing is known of whom the model is worse for."
        if facts.fairness is None
        else _fairness(facts.fairness)
    )
    for title, text in facts.sections:
        parts += [f"## {title}", text]
    parts += ["## Limits", "\n".join(f"- {limit}" for limit in facts.limits)]
    return Card("\n\n".join(part for part in parts if part) + "\n", plots)


def gate_sections(report: GateReport) -> list[tuple[str, str]]:
    """What the gate looked at, for :class:`Facts`."""
    lines = ["| check | | found |", "| --- | --- | --- |"]
    lines += [
        f"| {check.name} | {'passed' if check.passed else '**refused**'} | {_cell(check.text)} |"
        for check in report.checks
    ]
    return [("Gate", "\n".join(lines))]


def moment(micros: int) -> str:
    """A time for people."""
    return from_micros(micros).isoformat(timespec="seconds").replace("+00:00", "Z")


def _lines(lines: Sequence[tuple[str, str]]) -> str:
    return "\n".join(f"- {name}: {_cell(text)}" for name, text in lines)


def _metrics(metrics: Sequence[Metric]) -> str:
    others = list(dict.fromkeys(name for metric in metrics for name in metric.others or ()))
    rows = [["", "model", *others], ["---", *["---:"] * (len(others) + 1)]]
    for metric in metrics:
        shown = [_number((metric.others or {}).get(name, math.nan)) for name in others]
        rows.append([metric.name, _number(metric.value) + _span(metric.interval), *shown])
    levels = {metric.interval.level for metric in metrics if metric.interval is not None}
    note = f"\n\nIn brackets: bootstrap intervals, {min(levels):.0%}." if levels else ""
    return "\n".join("| " + " | ".join(map(_cell, row)) + " |" for row in rows) + note


def _calibration(found: Calibration) -> str:
    if not found.rows:
        return "No probability was given: too few labels were known."
    return (
        f"Brier score {_number(found.brier, 5)} (always saying the share of positives: "
        f"{_number(found.brier_of_prevalence, 5)}), expected calibration error "
        f"{_number(found.expected_calibration_error, 5)}, of {found.rows:,} events."
    )


def _fairness(report: FairnessReport) -> str:
    rows = [
        ["group", "events", "alert rate", "false positive rate", "to others", "precision", "recall"],
        ["---", *["---:"] * 6],
    ]
    for group in report.groups:
        rows.append(
            [
                group.name + ("*" if group.small else ""),
                f"{group.events:,}",
                *map(_share, (group.alert_rate, group.false_positive_rate)),
                _ratio(group),
                *map(_share, (group.precision, group.recall)),
            ]
        )
    table = "\n".join("| " + " | ".join(map(_cell, row)) + " |" for row in rows)
    missing = f" {report.ungrouped:,} events lack it." if report.ungrouped else ""
    verdict = fairness_gate(report).reason
    return f"By `{report.field}`.{missing}\n\n{table}\n\n95 % intervals; * rests on few events. {_cell(verdict)}."


def _share(share: Share) -> str:
    return f"{share.value:.2%} ({share.low:.2%} to {share.high:.2%})" if share.n else "none"


def _ratio(group: Group) -> str:
    seen = group.false_positive_rate_to_others
    if math.isnan(seen.ratio):
        return ""
    return f"x{seen.ratio:.2f} ({seen.ratio_low:.2f} to {seen.ratio_high:.2f})"


def _number(value: float, digits: int = 3) -> str:
    return f"{value:.{digits}f}" if math.isfinite(value) else ""


def _span(interval: Interval | None) -> str:
    return "" if interval is None else f" ({interval.low:.3f} to {interval.high:.3f})"


def _cell(text: Any) -> str:
    """Names of groups and fields come from events: they must not end a cell, a line, or begin a tag."""
    plain = str(text).replace("&", "&amp;").replace("<", "&lt;").replace("|", "\\|")
    return " ".join(plain.split()) if "\n" in plain or "\r" in plain else plain
