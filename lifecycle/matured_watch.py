"""The slow guard: do the labels that mature after a promotion say that its alerts are worse? It outlives the run."""

from __future__ import annotations

from domain.pipeline import Pipeline
from domain.pipeline_retraining import Retraining
from lifecycle.guard import precision_finding
from lifecycle.live import alert_share
from lifecycle.loop_parts import Step
from lifecycle.registry import ModelRegistry
from lifecycle.shadow import Finding
from lifecycle.training import TrainingRows

__all__ = ["watch_matured"]


def watch_matured(
    pipeline: Pipeline,
    rules: Retraining,
    registry: ModelRegistry,
    rows: TrainingRows,
    *,
    now: int,
    by: str,
) -> Finding | None:
    """Roll the champion back when its matured alerts are shown to be worse than those before it.

    What was found; None while there is nothing to look at: no champion that a run has promoted, no matured events of
    it yet, or twice the longer of ``guards.time`` and ``label_maturity`` of them seen already. Raises
    RegistryConflict, RegistryUnavailable, OfflineUnavailable.
    """
    state = registry.state()
    if state.champion is None:
        return None
    told = next(
        (
            run.data[Step.PROMOTED]
            for run in registry.runs(limit=100)
            if run.data.get(Step.PROMOTED, {}).get("version") == state.champion
        ),
        None,
    )
    if told is None:
        return None
    promoted, matured = int(told["at"]), now - rules.label_maturity
    span = max(rules.guards.time, rules.label_maturity)
    if matured <= promoted or matured > promoted + 2 * span:
        return None
    pin = rows.pin()
    before = rows.examples(pin, promoted - 2 * span, promoted, now)
    after = rows.examples(pin, promoted, matured, now)
    finding = precision_finding(before, after, alert_share(pipeline), rules.guards)
    if finding.decided and not finding.passed:
        registry.annotate(state.champion, metrics={"matured": {"text": finding.text, **finding.evidence}})
        registry.rollback(epoch=state.epoch, reason=f"guard: {finding.text}", by=by)
    return finding
