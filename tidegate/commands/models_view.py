"""How models are shown: tables for people, plain values for programs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec
from rich.console import Group
from rich.markdown import Markdown
from rich.table import Table
from rich.text import Text

from domain.clock import from_micros
from lifecycle.audit import AuditRecord
from lifecycle.registry import OWN, ModelCard, ModelRecord, RegistryState, TrainingRun
from tidegate.commands.dlq_view import safe_text

__all__ = [
    "audit_table",
    "differences",
    "differences_table",
    "flattened",
    "in_force",
    "list_json",
    "model_json",
    "model_view",
    "models_table",
    "moment_text",
    "runs_table",
]

_HEADLINE = ("average_precision", "precision", "recall", "roc_auc")
"""Metrics that are worth a place in the list, the first that a model has."""

_VERSION_WIDTH = 14
"""Characters of a version."""


def moment_text(micros: int) -> str:
    """UTC microseconds as ISO 8601 to the second."""
    return from_micros(micros).isoformat(timespec="seconds").replace("+00:00", "Z")


def in_force(state: RegistryState) -> Group:
    """One line about what decides, one about who challenges."""
    own = "the pipeline's own ensemble"
    if not state.epoch:
        return Group(Text(f"in force: {own}; nothing was ever promoted"))
    lines = [
        f"in force: {state.champion or own} (epoch {state.epoch}, since "
        f"{moment_text(state.changed_at)} by {state.changed_by}: {state.reason})"
    ]
    if state.challenger is not None:
        share = f", decides for {state.split:.1%} of the entities" if state.split else ""
        lines.append(f"challenger: {state.challenger}{share}")
    return Group(*(Text(safe_text(line)) for line in lines))


def models_table(models: Sequence[ModelRecord]) -> Table:
    """``models`` as a table."""
    table = _table("version", "stage", "registered", "rows", "labels", "metric", "trigger", "reason")
    for model in models:
        lineage = model.manifest.lineage
        cells = [
            model.version,
            model.stage.value,
            moment_text(model.registered_at),
            f"{lineage.rows:,}",
            f"{lineage.labelled:,} ({lineage.positives:,} positive)",
            _headline(model),
            lineage.trigger,
            model.reason,
        ]
        # Text: what stands in a reason is never read as markup
        table.add_row(*(Text(safe_text(cell, 60)) for cell in cells))
    return table


def list_json(pipeline: str, state: RegistryState, models: Sequence[ModelRecord]) -> dict[str, Any]:
    """What ``models list --json`` prints."""
    return {
        "pipeline": pipeline,
        "in_force": msgspec.to_builtins(state),
        "models": msgspec.to_builtins(list(models)),
    }


def model_json(model: ModelRecord, card: ModelCard, role: str | None) -> dict[str, Any]:
    """What ``models show --json`` prints."""
    shown: dict[str, Any] = msgspec.to_builtins(model)
    return {**shown, "role": role, "card": card.markdown, "plots": card.plots}


def model_view(model: ModelRecord, card: ModelCard, role: str | None, *, with_card: bool) -> Group:
    """Everything about ``model`` for people; plots by name only."""
    grid = Table.grid(padding=(0, 2))

    def line(name: str, value: object) -> None:
        grid.add_row(Text(name, style="bold"), Text(safe_text(str(value))))

    manifest, lineage = model.manifest, model.manifest.lineage
    line("version", model.version)
    line("stage", f"{model.stage.value}: {model.reason}")
    if role is not None:
        line("in force as", role)
    line("registered", f"{moment_text(model.registered_at)} by {model.registered_by}")
    line("sealed", f"{model.size:,} bytes, SHA-256 {model.sha256}")
    line("reads", f"{', '.join(manifest.features)}; {', '.join(manifest.detectors)}")
    line(
        "trained on",
        f"{lineage.rows:,} rows, {lineage.labelled:,} labelled, {lineage.positives:,} positive",
    )
    line("events", f"{moment_text(lineage.start)} to {moment_text(lineage.stop)}")
    line("labels as of", moment_text(lineage.as_of))
    line("asked for by", f"{lineage.trigger}{'' if lineage.run is None else f' (run {lineage.run})'}")
    line("champion then", lineage.parent or OWN)
    line("offline store", ", ".join(f"{name} {number}" for name, number in lineage.data.items()))
    line("pipeline", f"version {lineage.pipeline_version}, {lineage.pipeline_digest}")
    line("code, seed", f"{lineage.code}, {lineage.seed}")
    for name, value in flattened({"training": manifest.metrics, **model.metrics}):
        line(name, _number(value))
    if card.plots:
        line("plots", ", ".join(sorted(card.plots)))
    if not with_card:
        return Group(grid)
    return Group(grid, Text(), Markdown(_printable(card.markdown) or "*no card*"))


def differences(first: ModelRecord, second: ModelRecord) -> list[tuple[str, Any, Any]]:
    """What is not the same in two models: metrics, lineage and columns, by name."""
    return [
        (name, before, after)
        for name, before, after in _paired(_comparable(first), _comparable(second))
        if before != after
    ]


def differences_table(first: ModelRecord, second: ModelRecord) -> Table:
    """:func:`differences` as a table; numbers with their difference."""
    table = _table("", first.version, second.version, "difference")
    for name, before, after in differences(first, second):
        gap = ""
        if all(isinstance(v, int | float) and not isinstance(v, bool) for v in (before, after)):
            gap = f"{after - before:+.6g}"
        cells = (name, _number(before), _number(after), gap)
        table.add_row(*(Text(safe_text(cell, 60)) for cell in cells))
    return table


def runs_table(runs: Sequence[TrainingRun]) -> Table:
    """Training runs as a table."""
    table = _table("run", "requested", "trigger", "by", "step", "held by", "ended", "error")
    for run in runs:
        ended = "" if run.finished_at is None else f"{run.outcome} at {moment_text(run.finished_at)}"
        cells = [run.id, moment_text(run.requested_at), run.trigger, run.requested_by, run.step]
        cells += [run.owner or "", ended, run.error or ""]
        table.add_row(*(Text(safe_text(cell, 80)) for cell in cells))
    return table


def audit_table(records: Sequence[AuditRecord]) -> Table:
    """Audit records as a table."""
    table = _table("number", "when", "who", "what", "subject", "before", "after", "why")
    for record in records:
        cells = [
            str(record.number),
            moment_text(record.at),
            record.by,
            record.action,
            record.subject,
            record.before or "",
            record.after or "",
            record.reason,
        ]
        table.add_row(*(Text(safe_text(cell, 80)) for cell in cells))
    return table


def flattened(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Nested mappings as ``a.b.c`` and value; lists stay as they are."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from flattened(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _table(first: str, *others: str) -> Table:
    """A table that never shortens what somebody will copy: the first column, and any version."""
    table = Table()
    table.add_column(first, no_wrap=True, min_width=_VERSION_WIDTH if first == "version" else None)
    for name in others:
        table.add_column(name, overflow="fold")
    return table


def _comparable(model: ModelRecord) -> dict[str, Any]:
    manifest = model.manifest
    lineage = msgspec.to_builtins(manifest.lineage)
    for name in ("start", "stop", "as_of"):
        lineage[name] = moment_text(lineage[name])
    values: dict[str, Any] = {"stage": model.stage.value, "size": model.size}
    values |= dict(flattened({"training": manifest.metrics, **model.metrics}))
    values |= {"features": list(manifest.features), "detectors": list(manifest.detectors)}
    return values | dict(flattened(lineage, "lineage."))


def _paired(first: Mapping[str, Any], second: Mapping[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    for name in [*first, *(name for name in second if name not in first)]:
        yield name, first.get(name), second.get(name)


def _headline(model: ModelRecord) -> str:
    metrics = dict(flattened({**model.metrics, "training": model.manifest.metrics}))
    for wanted in _HEADLINE:
        for name, value in metrics.items():
            if name.rpartition(".")[2] == wanted and isinstance(value, int | float):
                return f"{wanted} {value:.4g}"
    return ""


def _number(value: object) -> str:
    if value is None:
        return "-"
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _printable(markdown: str) -> str:
    return "".join(c if c.isprintable() or c == "\n" else " " for c in markdown)
