"""The rules that a scorer applies, and how they and the model come to one decision (docs/rules.md).

A live rule may move the score before thresholds see it, and may decide afterwards: an allow rule goes before a block
rule, that before the thresholds, these before a review rule, which makes a review of what would pass and lowers
nothing. Shadow rules are written down and change nothing. Of what would be blocked, a share may be let through or sent
to review at random (``decision.explore``), so that labels exist of what the system stops.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import msgspec
import numpy as np
import numpy.typing as npt

from detectors.ensemble import Decide, EnsembleOutput
from domain.batch import EventBatch, Floats, Ints
from domain.list_view import NO_LISTS, ListView
from domain.pipeline import Explore
from domain.rule_records import RuleAction, rules_epoch
from domain.verdict import DECISIONS, ModelRole, Reason, RuleOutput
from featurestore.expression_columns import Columns
from scoring.decision import Codes
from scoring.models_in_use import OWN, ModelSays, Panel
from scoring.rules import VERDICT_NAMES, CompiledRules, Entry, Outcome

__all__ = ["MAX_LISTED", "NO_RULES", "Ruled", "RulesInUse", "Ruling", "in_exploration", "rule_columns"]

Bools = npt.NDArray[np.bool_]

MAX_LISTED = 50
"""Rules that a verdict names; those that act come first."""


@dataclass(frozen=True, slots=True)
class RulesInUse:
    """What a scorer applies; exchanged between two batches, while ``lists`` may change then too."""

    compiled: CompiledRules | None = None
    lists: ListView = NO_LISTS

    def __bool__(self) -> bool:
        return self.compiled is not None

    @property
    def epoch(self) -> int:
        """Of the rule set; 0: there is none."""
        return 0 if self.compiled is None else self.compiled.epoch

    @property
    def versions(self) -> tuple[str, str] | None:
        """How verdicts name rules and lists; None: no rules are in force."""
        return None if self.compiled is None else (rules_epoch(self.epoch), f"l{self.lists.version}")


NO_RULES = RulesInUse()
"""Models and thresholds decide alone."""


@dataclass(frozen=True, slots=True)
class Ruled:
    """What rules made of the fresh rows of a batch.

    codes     decision of each row (int8[m])
    outputs   row to what verdicts say of rules
    reasons   row to the reasons that rules give
    explain   rows that models or thresholds made alerts, or would have (int64[k])
    explored  rows that exploration spared (bool[m])
    failed    rows with which a rule failed (bool[m])
    failures  rule to how many rows it failed with
    """

    codes: Codes
    outputs: dict[int, list[RuleOutput]]
    reasons: dict[int, list[Reason]]
    explain: Ints
    explored: Bools
    failed: Bools
    failures: dict[str, int]


class Ruling:
    """Rules on one batch: ``x`` (float64[m, F]) are the vectors of its rows ``fresh``, ``names`` the features."""

    def __init__(
        self, rules: RulesInUse, panel: Panel, batch: EventBatch, x: Floats, fresh: Ints, names: Sequence[str]
    ) -> None:
        self._rules = rules
        self._panel = panel
        self._batch = batch
        self._x = x
        self._fresh = fresh
        self._names = names
        self._outcome: Outcome | None = None
        self._score: Floats | None = None
        self._own: ModelSays | None = None
        self.decide: Decide | None = self._decide if rules else panel.decide
        """For the ensemble: the scores that thresholds go by."""

    @property
    def said(self) -> tuple[ModelSays, ...]:
        """What each model said of the whole batch; the ensemble by itself where rules moved its score."""
        if self._own is None or self._panel.said:
            return self._panel.said
        n = len(self._batch)
        return (self._own if len(self._fresh) == n else self._own.spread(self._fresh, n),)

    def decided(self, output: EnsembleOutput) -> EnsembleOutput:
        """``output`` with the score that decided each row."""
        output = self._panel.decided(output)
        return output if self._score is None else replace(output, score=self._score)

    def _decide(self, x: Floats, own: EnsembleOutput) -> Floats:
        compiled = self._rules.compiled
        assert compiled is not None  # noqa: S101
        base = own.score if self._panel.decide is None else self._panel.decide(x, own)
        judged = self._panel.decided(own)
        probability = np.full(len(x), np.nan) if judged.probability is None else judged.probability
        columns = rule_columns(
            compiled, self._rules.lists, self._batch, self._fresh, self._names, self._x, base, probability
        )
        outcome = self._outcome = compiled.evaluate(columns)
        if not compiled.moves_score:
            return base
        self._score = np.clip(base + outcome.effect, 0.0, 1.0)
        moved = ~((self._score == base) | np.isnan(base))
        self._own = ModelSays(ModelRole.OWN, OWN, own.score, probability, moved)
        return self._score

    def rule(self, codes: Codes, explore: Explore | None, seed: int) -> Ruled:
        """The decisions, given those of the thresholds (``codes``, int8[m])."""
        m = len(codes)
        outcome, compiled = self._outcome, self._rules.compiled
        final = codes.copy()
        spared: Bools = np.ones(m, dtype=np.bool_)
        outputs: dict[int, list[RuleOutput]] = {}
        reasons: dict[int, list[Reason]] = {}
        failed = np.zeros(m, dtype=np.bool_)
        failures: dict[str, int] = {}
        if compiled is not None and outcome is not None:
            final, acts = _act(compiled.entries, outcome.hits, codes)
            for entry, hit in zip(compiled.entries, outcome.hits, strict=True):
                if entry.live and entry.action is RuleAction.BLOCK and not entry.explore:
                    spared &= ~hit
            for name, rows in outcome.failed.items():
                failed |= rows
                failures[name] = int(rows.sum())
            outputs = _outputs(compiled.entries, outcome, acts)
        explored = np.zeros(m, dtype=np.bool_)
        before = final
        if explore is not None:
            would = (final == DECISIONS.index("block")) & spared
            chosen = [self._batch.ids[row] for row in self._fresh[would].tolist()]
            explored[would] = in_exploration(chosen, explore.share, seed)
            final = np.where(explored, np.int8(DECISIONS.index(explore.instead)), final)
        if compiled is not None and outcome is not None:
            reasons = _reasons(compiled.entries, outcome.hits, acts, np.flatnonzero(before > 0))
        # what an allow rule passes is no alert, and what only a rule stops the model can not explain
        explain = np.flatnonzero((codes > 0) & (before > 0)).astype(np.int64)
        return Ruled(final, outputs, reasons, explain, explored, failed, failures)


def rule_columns(
    compiled: CompiledRules,
    lists: ListView,
    batch: EventBatch,
    rows: Ints,
    names: Sequence[str],
    x: Floats,
    score: Floats,
    probability: Floats,
) -> Columns:
    """What the conditions of ``compiled`` read of the ``rows`` of a batch.

    ``x`` (float64[m, F]), ``score`` and ``probability`` (float64[m]) are of these rows already. A list that can not be
    asked is left out, so that the rules which name it fail.
    """
    whole = len(rows) == len(batch)
    picked = rows.tolist()
    numbers: dict[str, Floats] = dict(zip(VERDICT_NAMES, (score, probability), strict=True))
    texts: dict[str, Sequence[str | None]] = {}
    place = {name: column for column, name in enumerate(names)}
    for name in compiled.names:
        if name in place:
            numbers[name] = x[:, place[name]]
        elif name in batch.numbers:
            numbers[name] = batch.numbers[name] if whole else batch.numbers[name][rows]
        elif name in batch.strings:
            texts[name] = batch.strings[name] if whole else [batch.strings[name][row] for row in picked]
    members: dict[tuple[str, str], Floats] = {}
    times = batch.times[rows]
    for listed, field in compiled.lists:
        column: Sequence[str | None] = (
            batch.entities[field] if field in batch.entities else batch.strings[field]
        )
        asked = column if whole else [column[row] for row in picked]
        try:
            members[listed, field] = lists.contains(listed, field, asked, times).astype(np.float64)
        except Exception:  # noqa: S112  # the rules that ask for it fail, which the verdict says
            continue
    return Columns(len(rows), numbers, texts, members)


def in_exploration(ids: Sequence[str], share: float, seed: int) -> Bools:
    """Which of the events ``ids`` belong to the ``share`` (0 to 1) that exploration spares (bool[n]).

    By a hash keyed with the pipeline's ``seed``: nobody without it can choose an id that passes, and a replay spares
    the same ones.

    >>> in_exploration(["a", "b", "c", "d"], 0.5, 7).tolist()
    [False, True, True, False]
    """
    key = b"explore" + seed.to_bytes(8, "little")
    hashed = b"".join(
        hashlib.blake2b(one.encode("utf-8", "surrogatepass"), digest_size=8, key=key).digest() for one in ids
    )
    found: Bools = np.frombuffer(hashed, dtype="<u8") / 2.0**64 < share
    return found


def _act(entries: Sequence[Entry], hits: Bools, codes: Codes) -> tuple[Codes, Bools]:
    """The decisions, and which entry decided which row (bool[entries, m])."""
    of: dict[RuleAction, Bools] = {}
    for action in (RuleAction.ALLOW, RuleAction.BLOCK, RuleAction.REVIEW):
        mine = [entry.live and entry.action is action for entry in entries]
        of[action] = np.asarray(hits[mine].any(axis=0), dtype=np.bool_)
    allowed = of[RuleAction.ALLOW]
    blocked = of[RuleAction.BLOCK] & ~allowed
    review = of[RuleAction.REVIEW] & ~allowed & ~blocked & (codes == 0)
    final = codes.copy()
    final[allowed], final[blocked], final[review] = 0, 2, 1
    deciding = {RuleAction.ALLOW: allowed, RuleAction.BLOCK: blocked, RuleAction.REVIEW: review}
    acts = np.zeros_like(hits)
    for place, entry in enumerate(entries):
        if entry.live and entry.action in deciding:
            acts[place] = hits[place] & deciding[entry.action]
    return final, acts


def _outputs(entries: Sequence[Entry], outcome: Outcome, acts: Bools) -> dict[int, list[RuleOutput]]:
    """What verdicts say of rules: those that hit, in the order of the entries."""
    found: dict[int, list[RuleOutput]] = {}
    places, rows = np.nonzero(outcome.hits)
    for place, row in zip(places.tolist(), rows.tolist(), strict=True):
        listed = found.setdefault(row, [])
        if len(listed) < MAX_LISTED:
            entry = entries[place]
            score = msgspec.UNSET if entry.typology < 0 else float(outcome.scores[entry.typology, row])
            listed.append(
                RuleOutput(
                    id=entry.id,
                    version=entry.version,
                    mode=entry.mode,
                    action=entry.action,
                    effect=entry.effect,
                    decided=bool(acts[place, row]),
                    score=score,
                )
            )
    return found


def _reasons(entries: Sequence[Entry], hits: Bools, acts: Bools, alerts: Ints) -> dict[int, list[Reason]]:
    """Reasons: of what decided, then, of alerts, what raised the score."""
    found: dict[int, list[Reason]] = {}
    raising = np.array([entry.live and entry.effect > 0.0 for entry in entries], dtype=np.bool_)
    alert = np.zeros(hits.shape[1], dtype=np.bool_)
    alert[alerts] = True
    for wanted in (acts, hits & raising[:, None] & alert & ~acts):
        places, rows = np.nonzero(wanted)
        for place, row in zip(places.tolist(), rows.tolist(), strict=True):
            entry, listed = entries[place], found.setdefault(row, [])
            if len(listed) < MAX_LISTED:
                text = entry.reason or f"rule {entry.id} hit"
                listed.append(Reason(f"rule:{entry.id}", "", None, None, None, entry.effect, text))
    return found
