"""What each change of the registry means, as pure functions: the same for every implementation of the port."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from domain.errors import RegistryConflict, StageForbids, UnknownModel
from lifecycle.manifest import Manifest
from lifecycle.registry import OWN, ModelRecord, RegistryState, Stage, TrainingRun

__all__ = [
    "MAX_BELOW",
    "Change",
    "advanced",
    "candidate",
    "challenged",
    "check_movable",
    "check_none_open",
    "check_pipeline",
    "claimed",
    "finished",
    "plain",
    "promoted",
    "requested",
    "rolled_back",
    "unknown",
]

MAX_BELOW = 50
"""So many rollbacks in a row lead back to former champions; the one after them to the pipeline's own ensemble."""
_PROVEN = frozenset({Stage.SHADOW, Stage.RETIRED})


@dataclass(frozen=True, slots=True)
class Change:
    """A new state, the stages that follow from it (by version), and what the audit says of it."""

    state: RegistryState
    action: str
    subject: str
    before: str
    after: str
    stages: Mapping[str, Stage] = field(default_factory=dict)


def promoted(
    state: RegistryState, model: ModelRecord, *, epoch: int, reason: str, by: str, now: int, force: bool
) -> Change | None:
    """``model`` as champion; None: it is that already. Raises RegistryConflict, StageForbids."""
    version = model.version
    if state.champion == version:
        return None
    _check_epoch(state, epoch)
    if model.stage not in _PROVEN and not force:
        raise StageForbids(
            f"model {version} is {model.stage} ({model.reason}): it has not proven itself beside the champion",
            remedy="let it be challenger first; a person who knows better can force it "
            "(`tidegate models promote --force`, or force in the request)",
        )
    stages = {version: Stage.CHAMPION}
    if state.champion is not None:
        stages[state.champion] = Stage.RETIRED
    taken = state.challenger == version
    after = RegistryState(
        epoch=state.epoch + 1,
        champion=version,
        challenger=None if taken else state.challenger,
        split=0.0 if taken else state.split,
        changed_at=now,
        changed_by=by,
        reason=reason,
        below=(*state.below, state.champion)[-MAX_BELOW:],
    )
    return Change(after, "promote", version, state.champion or OWN, version, stages)


def challenged(
    state: RegistryState,
    model: ModelRecord | None,
    *,
    epoch: int,
    reason: str,
    by: str,
    now: int,
    split: float,
) -> Change | None:
    """``model`` as challenger; None: it is that already. Raises RegistryConflict, StageForbids, ValueError."""
    if not 0.0 <= split <= 1.0:
        raise ValueError(f"split is {split}: it must be a share from 0 to 1")
    version = None if model is None else model.version
    split = 0.0 if version is None else split
    if (state.challenger, state.split) == (version, split):
        return None
    _check_epoch(state, epoch)
    if version is not None and version == state.champion:
        raise StageForbids(
            f"model {version} is the champion; it can not challenge itself",
            remedy="roll it back first, or choose another model",
        )
    stages: dict[str, Stage] = {}
    if state.challenger is not None and state.challenger != version:
        stages[state.challenger] = Stage.REFUSED
    if version is not None:
        stages[version] = Stage.SHADOW
    after = msgspec.structs.replace(
        state,
        epoch=state.epoch + 1,
        challenger=version,
        split=split,
        changed_at=now,
        changed_by=by,
        reason=reason,
    )
    subject = version or state.challenger or "-"
    return Change(after, "challenge", subject, _challenger(state), _challenger(after), stages)


def rolled_back(state: RegistryState, *, epoch: int, reason: str, by: str, now: int) -> Change:
    """The champion before this one. Raises RegistryConflict, StageForbids."""
    _check_epoch(state, epoch)
    if state.champion is None:
        raise StageForbids(
            "the pipeline's own ensemble is in force; there is nothing to roll back to",
            remedy="`tidegate models list` shows what has been in force",
        )
    former = state.below[-1] if state.below else None
    stages = {state.champion: Stage.ROLLED_BACK}
    if former is not None:
        stages[former] = Stage.CHAMPION
    taken = former is not None and former == state.challenger
    after = RegistryState(
        epoch=state.epoch + 1,
        champion=former,
        challenger=None if taken else state.challenger,
        split=0.0 if taken else state.split,
        changed_at=now,
        changed_by=by,
        reason=reason,
        below=state.below[:-1],
    )
    return Change(after, "rollback", state.champion, state.champion, former or OWN, stages)


def check_movable(state: RegistryState, model: ModelRecord, stage: Stage) -> None:
    """Raises StageForbids when a person's or a gate's word may not move ``model`` to ``stage``."""
    if stage in (Stage.CHAMPION, Stage.SHADOW):
        raise StageForbids(
            f"the stage {stage} follows from what is in force",
            remedy="promote the model, or make it challenger",
        )
    if model.version in (state.champion, state.challenger):
        raise StageForbids(
            f"model {model.version} is in force as {model.stage}",
            remedy="roll it back, or choose another challenger, first",
        )


def candidate(
    sealed: bytes,
    manifest: Manifest,
    metrics: Mapping[str, Any] | None,
    *,
    pipeline: str,
    now: int,
    by: str,
    reason: str,
) -> ModelRecord:
    """The record of a model that is registered ``now`` (UTC microseconds)."""
    return ModelRecord(
        version=manifest.version,
        pipeline=pipeline,
        sha256=hashlib.sha256(sealed).hexdigest(),
        size=len(sealed),
        manifest=manifest,
        stage=Stage.CANDIDATE,
        reason=reason,
        registered_at=now,
        registered_by=by,
        changed_at=now,
        metrics=plain(metrics),
    )


def check_pipeline(manifest: Manifest, pipeline: str) -> None:
    """Raises ValueError for a model of another pipeline."""
    if manifest.pipeline != pipeline:
        raise ValueError(f"model {manifest.version} is of pipeline {manifest.pipeline}, not {pipeline}")


def unknown(name: str, pipeline: str) -> UnknownModel:
    """What to raise when the registry has no ``name`` (a version or a run's id)."""
    return UnknownModel(
        f"pipeline {pipeline} has no {name if name.isprintable() and len(name) < 80 else 'such model'} in its registry",
        remedy="`tidegate models list` shows what there is",
    )


def plain(values: Mapping[str, Any] | None) -> dict[str, Any]:
    """``values`` as they come back from JSON (a tuple as a list, NaN as None); a copy."""
    copy: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(dict(values or {})))
    return copy


def check_none_open(run: TrainingRun | None) -> None:
    """Raises RegistryConflict when ``run`` is one that is open."""
    if run is not None:
        raise RegistryConflict(
            f"training run {run.id} ({run.trigger}) is at step {run.step} and not finished",
            remedy="wait for it: one pipeline trains one model at a time",
        )


def requested(
    pipeline: str, number: int, trigger: str, *, by: str, data: Mapping[str, Any] | None, now: int
) -> TrainingRun:
    """A new run, the ``number``-th of its pipeline."""
    return TrainingRun(
        id=f"r-{number}",
        pipeline=pipeline,
        trigger=trigger,
        requested_at=now,
        requested_by=by,
        step="requested",
        data={"requested": plain(data)},
        revision=0,
        changed_at=now,
    )


def claimed(run: TrainingRun, owner: str, *, now: int, seconds: float) -> TrainingRun | None:
    """``run`` in the hands of ``owner``; None while it is in somebody else's, or finished."""
    if run.finished_at is not None or (run.owner not in (None, owner) and run.lease_until > now):
        return None
    return _next(run, now, owner=owner, lease_until=_until(now, seconds))


def advanced(
    held: TrainingRun, run: TrainingRun, step: str, data: Mapping[str, Any], *, now: int, seconds: float
) -> TrainingRun:
    """``held`` (what the registry has) after ``step``. Raises RegistryConflict unless it is ``run``."""
    _check_run(held, run)
    return _next(
        held, now, step=step, data={**held.data, step: plain(data)}, lease_until=_until(now, seconds)
    )


def finished(
    held: TrainingRun, run: TrainingRun, outcome: str, *, now: int, error: str | None
) -> TrainingRun:
    """``held`` at its end. Raises RegistryConflict unless it is ``run``."""
    _check_run(held, run)
    # PostgreSQL takes any text but this
    shown = None if error is None else error.replace("\0", "")
    return _next(held, now, finished_at=now, outcome=outcome, error=shown, lease_until=0)


def _next(run: TrainingRun, now: int, **changes: Any) -> TrainingRun:
    return msgspec.structs.replace(run, revision=run.revision + 1, changed_at=now, **changes)


def _until(now: int, seconds: float) -> int:
    return now + round(seconds * 1e6)


def _check_run(held: TrainingRun, run: TrainingRun) -> None:
    if held.revision != run.revision or held.finished_at is not None:
        raise RegistryConflict(
            f"training run {run.id} was taken over by {held.owner} or ended meanwhile",
            remedy="nothing to do: whoever holds it now carries on; this process must not",
        )


def _check_epoch(state: RegistryState, epoch: int) -> None:
    if state.epoch != epoch:
        raise RegistryConflict(
            f"the registry is at epoch {state.epoch}, not {epoch}: {state.changed_by} changed it ({state.reason})",
            remedy="look at what is in force now (`tidegate models list`), then decide again",
        )


def _challenger(state: RegistryState) -> str:
    if state.challenger is None:
        return "-"
    return state.challenger + (f" deciding {state.split:.6g}" if state.split else "")
