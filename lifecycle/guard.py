"""Guards after a promotion: what of live verdicts and matured labels undoes it. Pure functions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from domain.durations import format_duration
from domain.examples import Examples
from domain.pipeline_retraining import GuardRules
from lifecycle.live import Side
from lifecycle.shadow import Finding, beyond, failing, wilson_high

__all__ = ["guard_finding", "precision_finding"]

_LIVE = 600_000_000
"""Ten minutes: where verdicts usually come later than that after their events, latency measures a backlog."""
_MIN_ALERTS = 30


def guard_finding(
    side: Side, before: Mapping[str, Any], rules: GuardRules, *, promoted: int, now: int
) -> Finding:
    """What live verdicts of the new champion say, against the summary of those ``before``.

    ``decided`` and not ``passed``: roll back. ``decided`` and ``passed``: the watch is over. Failures are looked
    at from a tenth of ``rules.events`` on, the rest from all of them.
    """
    evidence = {"after": side.summary(), "before": dict(before), "promoted": promoted, "now": now}
    failed = failing(side, rules.max_failures)
    if failed is not None and side.events >= rules.events // 10:
        return Finding(True, False, f"the champion {failed}", evidence)
    if side.events < rules.events:
        return Finding(False, False, f"{side.events:,} of {rules.events:,} events", evidence)
    usual = before.get("events", 0) >= rules.events
    if usual and beyond(side.alerts, side.events, before["alerts"], before["events"], rules.max_alert_ratio):
        text = (
            f"{side.alerts:,} alerts in {side.events:,} events, {before['alerts']:,} in {before['events']:,} before: "
            f"beyond a factor of {rules.max_alert_ratio:g} (guards.max_alert_ratio)"
        )
        return Finding(True, False, text, evidence)
    slow = _slower(side, before, rules)
    if slow is not None:
        return Finding(True, False, slow, evidence)
    watched = format_duration(max(0, now - promoted))
    if now - promoted < rules.time:
        return Finding(False, False, f"{watched} of {format_duration(rules.time)}", evidence)
    return Finding(True, True, f"nothing to object to in {side.events:,} events and {watched}", evidence)


def _slower(side: Side, before: Mapping[str, Any], rules: GuardRules) -> str | None:
    usual, present = before.get("latency"), side.latency
    if (
        usual is None
        or present is None
        or not 0 < usual <= _LIVE
        or present <= usual * rules.max_latency_ratio
    ):
        return None
    return (
        f"a verdict takes {present / 1e3:,.0f} ms, {usual / 1e3:,.0f} ms before: beyond a factor of "
        f"{rules.max_latency_ratio:g} (guards.max_latency_ratio)"
    )


def precision_finding(before: Examples, after: Examples, budget: float, rules: GuardRules) -> Finding:
    """Precision among matured alerts (scores within the budget) since the promotion, against the time before.

    ``decided`` only when it is shown to be worse; nothing can be shown with fewer than 30 labelled alerts on a side.
    """
    hits, alerts = _hits(after, budget)
    usual_hits, usual = _hits(before, budget)
    evidence = {"hits": hits, "alerts": alerts, "hits_before": usual_hits, "alerts_before": usual}
    if min(alerts, usual) < _MIN_ALERTS:
        return Finding(False, False, f"{alerts:,} matured alerts since, {usual:,} before", evidence)
    precision = usual_hits / usual
    text = f"{hits:,} of {alerts:,} matured alerts were right, {usual_hits:,} of {usual:,} before"
    if wilson_high(hits, alerts) < rules.min_precision_ratio * precision:
        return Finding(
            True,
            False,
            f"{text}: below {rules.min_precision_ratio:g} of it (guards.min_precision_ratio)",
            evidence,
        )
    return Finding(False, True, text, evidence)


def _hits(examples: Examples, budget: float) -> tuple[int, int]:
    alerts = (examples.score >= 1.0 - budget) & ((examples.y == 0.0) | (examples.y == 1.0))
    return int((alerts & (examples.y == 1.0)).sum()), int(alerts.sum())
