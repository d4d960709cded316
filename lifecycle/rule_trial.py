"""What rules would have done: their hits on events that were scored, overlap with alerts, precision where labels are.

Every rule and typology is tried, as if enabled, each by itself, on the score as the model gave it.
Verdicts keep entities, features and the event's time; other fields of the event come from the event itself where the
caller still has it, and count as missing where not (``incomplete`` says on how many events that mattered).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from domain.batch import EventBatch, Floats, Ints
from domain.list_view import NO_LISTS, ListView
from domain.pipeline import Pipeline, ValueFeature
from domain.rule_records import RuleAction, RuleMode, RuleSet
from domain.verdict import DECISIONS, Flag, ModelOutput, ModelRole, Verdict
from scoring.rules import Entry, compile_rules
from scoring.rules_in_use import rule_columns

__all__ = ["MAX_EXAMPLES", "RuleTried", "RulesTrial", "TrialReport"]

Bools = npt.NDArray[np.bool_]
MAX_EXAMPLES = 10
_Z = 1.959963984540054
"""Two-sided 95 %."""


class RuleTried(msgspec.Struct, frozen=True, kw_only=True):
    """What one rule, or one band of a typology, would have done.

    ``hits``      events that it holds for; ``share`` of all
    ``alerts``    of these, those that were alerts (review or block); ``new``: those that were not
    ``changed``   events whose decision it would have changed, live and with nothing but the decisions that were made
    ``labelled``, ``frauds``  hits with a label, and with the label 1
    ``precision`` their share, null without labels; ``precision_low``, ``precision_high`` its 95 % interval (Wilson)
    ``recall``    the share of all labelled frauds that it hits, null without any
    ``failed``    events on which it could not be evaluated
    ``examples``  ids of the newest hits
    """

    id: str
    version: int
    mode: RuleMode
    action: RuleAction
    reason: str
    typology: bool
    hits: int
    share: float
    alerts: int
    new: int
    changed: int
    labelled: int
    frauds: int
    precision: float | None
    precision_low: float | None
    precision_high: float | None
    recall: float | None
    failed: int
    examples: list[str]


class TrialReport(msgspec.Struct, frozen=True, kw_only=True):
    """A trial over ``events`` (repeats are none), the oldest and newest of which were at ``first`` and ``last``.

    Times are UTC microseconds. ``incomplete`` events lack ``missing`` fields that the rules read. Labels that were
    picked by alerts make ``precision`` look better than it is.
    """

    events: int
    first: int | None
    last: int | None
    alerts: int
    labelled: int
    frauds: int
    incomplete: int
    missing: list[str]
    rules: list[RuleTried]


class RulesTrial:
    """Tries ``ruleset`` on what is added. Raises RulesInvalid where it does not compile."""

    def __init__(self, pipeline: Pipeline, ruleset: RuleSet, lists: ListView = NO_LISTS) -> None:
        self._pipeline = pipeline
        self._lists = lists
        whole = msgspec.structs.replace(
            ruleset,
            rules=tuple(msgspec.structs.replace(rule, enabled=True) for rule in ruleset.rules),
            typologies=tuple(msgspec.structs.replace(one, enabled=True) for one in ruleset.typologies),
        )
        self._compiled = compile_rules(whole, pipeline)
        self._read = self._compiled.names | {field for _, field in self._compiled.lists}
        self._tallies = [_Tally() for _ in self._compiled.entries]
        self._whole = _Tally()
        self._missing: set[str] = set()
        self._incomplete = 0
        self._first: int | None = None
        self._last: int | None = None

    def add(
        self,
        verdicts: Sequence[Verdict],
        labels: Mapping[str, int],
        events: EventBatch | None = None,
        places: Sequence[int] = (),
    ) -> None:
        """Try the rules on events that were scored, oldest first; ``labels`` by event id, 1: fraud.

        ``events``: as many of these events as are still there, row by row those of the verdicts at ``places``.
        """
        kept = [at for at, one in enumerate(verdicts) if Flag.DUPLICATE not in one.flags]
        if not kept:
            return
        chosen = [verdicts[at] for at in kept]
        row_of = {at: row for row, at in enumerate(places)}
        x = np.array([_vector(self._pipeline, one) for one in chosen])
        batch, complete = self._batch(chosen, x, [row_of.get(at) for at in kept], events)
        score = np.array([_number(_model_score(one)) for one in chosen])
        chance = np.array(
            [np.nan if one.probability is msgspec.UNSET else _number(one.probability) for one in chosen]
        )
        label = np.array([float(labels.get(one.id, np.nan)) for one in chosen])
        decision = np.array([DECISIONS.index(one.decision) for one in chosen])
        every: Ints = np.arange(len(chosen))
        names = self._pipeline.feature_names
        columns = rule_columns(self._compiled, self._lists, batch, every, names, x, score, chance)
        outcome = self._compiled.evaluate(columns)
        self._incomplete += int((~complete).sum())
        self._first = (
            int(batch.times.min()) if self._first is None else min(self._first, int(batch.times.min()))
        )
        self._last = int(batch.times.max()) if self._last is None else max(self._last, int(batch.times.max()))
        self._whole.add(np.ones(len(chosen), dtype=np.bool_), decision, decision, label, [])
        for entry, tally, hits in zip(self._compiled.entries, self._tallies, outcome.hits, strict=True):
            after = _alone(entry, hits, decision)
            tally.add(hits, decision, after, label, batch.ids)
            tally.failed += int(outcome.failed[entry.id].sum()) if entry.id in outcome.failed else 0

    def report(self) -> TrialReport:
        """What came of it so far."""
        whole = self._whole
        return TrialReport(
            events=whole.hits,
            first=self._first,
            last=self._last,
            alerts=whole.alerts,
            labelled=whole.labelled,
            frauds=whole.frauds,
            incomplete=self._incomplete,
            missing=sorted(self._missing),
            rules=[
                _tried(entry, tally, whole)
                for entry, tally in zip(self._compiled.entries, self._tallies, strict=True)
            ],
        )

    def _batch(
        self, verdicts: Sequence[Verdict], x: Floats, rows: Sequence[int | None], events: EventBatch | None
    ) -> tuple[EventBatch, Bools]:
        """What the rules read of the events as a batch, and which rows have all of it."""
        pipeline = self._pipeline
        copied = {
            f.field: column for column, f in enumerate(pipeline.features) if isinstance(f, ValueFeature)
        }
        complete = np.ones(len(verdicts), dtype=np.bool_)
        known = np.array([row is not None for row in rows], dtype=np.bool_)
        numbers: dict[str, Floats] = {}
        strings: dict[str, Sequence[str | None]] = {}
        times = np.array([one.event_time for one in verdicts], dtype=np.int64)
        for field in pipeline.event.fields:
            name = field.name
            if name not in self._read:
                continue
            if field.numeric and name == pipeline.event.time:
                numbers[name] = times / 1e6
            elif field.numeric and name in copied:
                numbers[name] = x[:, copied[name]]
            elif field.numeric and name in pipeline.entities:
                numbers[name] = np.array([float(one.entities[name]) for one in verdicts])
            elif not field.numeric and name in pipeline.entities:
                strings[name] = [one.entities[name] for one in verdicts]
            elif not field.numeric and name == pipeline.event.id:
                strings[name] = [one.id for one in verdicts]
            else:
                if not known.all():
                    self._missing.add(name)
                    complete &= known
                if field.numeric:
                    of = np.empty(0) if events is None else events.numbers[name]
                    numbers[name] = np.array([np.nan if row is None else of[row] for row in rows])
                else:
                    texts: Sequence[str | None] = () if events is None else events.strings[name]
                    strings[name] = [None if row is None else texts[row] for row in rows]
        entities: dict[str, Sequence[str]] = {
            name: [one.entities[name] for one in verdicts] for name in pipeline.entities
        }
        offsets = np.array([one.source.offset for one in verdicts], dtype=np.int64)
        return EventBatch([one.id for one in verdicts], times, offsets, entities, numbers, strings), complete


class _Tally:
    def __init__(self) -> None:
        self.hits = self.alerts = self.changed = self.labelled = self.frauds = self.failed = 0
        self.examples: list[str] = []

    def add(self, hits: Bools, before: Ints, after: Ints, label: Floats, ids: Sequence[str]) -> None:
        self.hits += int(hits.sum())
        self.alerts += int((hits & (before > 0)).sum())
        self.changed += int((before != after).sum())
        self.labelled += int((hits & ~np.isnan(label)).sum())
        self.frauds += int((hits & (label == 1.0)).sum())
        if ids:
            newest = [ids[row] for row in np.flatnonzero(hits)[-MAX_EXAMPLES:].tolist()]
            self.examples = (newest[::-1] + self.examples)[:MAX_EXAMPLES]


def _alone(entry: Entry, hits: Bools, decision: Ints) -> Ints:
    """The decisions, had this been the only rule; effects on the score are not followed through the thresholds."""
    if entry.action is RuleAction.ALLOW:
        return np.where(hits, 0, decision)
    if entry.action is RuleAction.BLOCK:
        return np.where(hits, 2, decision)
    if entry.action is RuleAction.REVIEW:
        return np.where(hits & (decision == 0), 1, decision)
    return decision


def _tried(entry: Entry, tally: _Tally, whole: _Tally) -> RuleTried:
    low, high = _interval(tally.frauds, tally.labelled)
    return RuleTried(
        id=entry.id,
        version=entry.version,
        mode=entry.mode,
        action=entry.action,
        reason=entry.reason,
        typology=entry.typology >= 0,
        hits=tally.hits,
        share=tally.hits / whole.hits if whole.hits else 0.0,
        alerts=tally.alerts,
        new=tally.hits - tally.alerts,
        changed=tally.changed,
        labelled=tally.labelled,
        frauds=tally.frauds,
        precision=tally.frauds / tally.labelled if tally.labelled else None,
        precision_low=low,
        precision_high=high,
        recall=tally.frauds / whole.frauds if whole.frauds else None,
        failed=tally.failed,
        examples=tally.examples,
    )


def _interval(hits: int, n: int) -> tuple[float | None, float | None]:
    """Wilson's interval for a share (JASA 22, 1927)."""
    if not n:
        return None, None
    p, z = hits / n, _Z * _Z / n
    middle = p + z / 2.0
    reach = _Z * math.sqrt(p * (1.0 - p) / n + z / (4.0 * n))
    return max(0.0, (middle - reach) / (1.0 + z)), min(1.0, (middle + reach) / (1.0 + z))


def _model_score(verdict: Verdict) -> float | None:
    """The score of the model that decided, before rules."""
    if not isinstance(verdict.models, dict):
        return verdict.score
    said: list[ModelOutput] = list(verdict.models.values())
    decided = [one for one in said if one.decided] or [one for one in said if one.role is ModelRole.OWN]
    return decided[0].score


def _vector(pipeline: Pipeline, verdict: Verdict) -> list[float]:
    features: dict[str, Any] = verdict.features or {}
    return [_number(features.get(name)) for name in pipeline.feature_names]


def _number(value: Any) -> float:
    return np.nan if value is None else float(value)
