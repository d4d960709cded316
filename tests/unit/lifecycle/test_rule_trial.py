"""A trial says of rules what the engine would have seen, had it run them in shadow."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from domain.batch import EventBatch
from domain.codec import EventCodec
from domain.errors import RulesInvalid
from domain.list_records import ListEntry
from domain.list_view import ListIndex
from domain.pipeline import Pipeline
from domain.privacy import Protector
from domain.rule_records import Band, Rule, RuleAction, RuleMode, RuleSet, Typology
from domain.verdict import DecisionName, Verdict
from lifecycle.rule_trial import RulesTrial, RuleTried
from scoring.engine import PartitionScorer
from scoring.rules import compile_rules
from scoring.rules_in_use import RulesInUse
from scoring.scored import ScoredBatch
from scoring.verdicts import VerdictEncoder, decode_verdict
from tests.system.events import SMALL, events
from tests.unit.scoring.test_engine import cut
from tidegate.loading import load

ROWS = 600
PROTECTOR = Protector(b"k" * 16)
LISTS = ListIndex()
LISTS.change(
    1,
    [
        ListEntry(
            list="trusted",
            field="account",
            value=PROTECTOR.protect("acc-2"),
            added_at=0,
            added_by="t",
            number=1,
        )
    ],
)
RULES = (
    Rule(id="amount", when="amount > 60.0", action=RuleAction.REVIEW, typology="both"),
    Rule(id="shop", when="shop == 's3'", action=RuleAction.BLOCK),
    Rule(id="time", when="hour(at) < 1.0 && shops_1d > 3.0", action=RuleAction.ALLOW, enabled=False),
    Rule(id="listed", when="account in lists.trusted", action=RuleAction.ALLOW),
    Rule(id="scored", when="score > 0.9", score_effect=0.1, typology="both", weight=2.0),
)
BANDS = (Band(low=1.0, reason="one"), Band(low=3.0, reason="both", action=RuleAction.BLOCK))
SET = RuleSet(
    epoch=4,
    rules=RULES,
    typologies=(Typology(id="both", bands=BANDS),),
    changed_at=0,
    changed_by="t",
    reason="t",
)


@pytest.fixture(scope="module")
def pipeline() -> Pipeline:
    return load(SMALL)


@pytest.fixture(scope="module")
def batch(pipeline: Pipeline) -> EventBatch:
    codec = EventCodec(pipeline, PROTECTOR)
    flow = events(ROWS)
    flow[501] = flow[500]
    return codec.to_batch([codec.decode(e.payload, received_at=2**62) for e in flow], range(ROWS))


def decoded(pipeline: Pipeline, scored: ScoredBatch) -> list[Verdict]:
    encoder = VerdictEncoder(pipeline, code_version="test")
    return [decode_verdict(encoder.encode(v)) for v in encoder.verdicts(scored, partition=0, scored_at=1)]


@pytest.fixture(scope="module")
def verdicts(pipeline: Pipeline, batch: EventBatch) -> list[Verdict]:
    return decoded(pipeline, PartitionScorer(pipeline).process(batch))


def tried(trial: RulesTrial) -> dict[str, RuleTried]:
    return {f"{one.id}/{one.reason}" if one.typology else one.id: one for one in trial.report().rules}


def test_it_sees_what_the_engine_sees(pipeline: Pipeline, batch: EventBatch, verdicts: list[Verdict]) -> None:
    enabled = tuple(msgspec.structs.replace(rule, enabled=True, mode=RuleMode.SHADOW) for rule in RULES)
    shadow = msgspec.structs.replace(
        SET,
        rules=enabled,
        typologies=tuple(msgspec.structs.replace(t, mode=RuleMode.SHADOW) for t in SET.typologies),
    )
    rules = RulesInUse(compile_rules(shadow, pipeline), LISTS)
    seen = decoded(pipeline, PartitionScorer(pipeline, rules=rules).process(batch))
    expected: dict[tuple[str, str], int] = {}
    for verdict in seen:
        for hit in [] if verdict.rules is msgspec.UNSET else verdict.rules:
            expected[hit.id, hit.action] = expected.get((hit.id, hit.action), 0) + 1
    trial = RulesTrial(pipeline, SET, LISTS)
    for start in range(0, ROWS, 250):
        stop = min(start + 250, ROWS)
        trial.add(verdicts[start:stop], {}, cut(batch, start, stop), range(stop - start))
    report = trial.report()
    assert {(one.id, one.action): one.hits for one in report.rules} == expected
    assert (report.events, report.incomplete, report.missing) == (ROWS - 1, 0, [])
    assert (report.first, report.last) == (int(batch.times.min()), int(batch.times.max()))
    assert report.alerts == sum(v.decision is not DecisionName.ALLOW for v in verdicts) - (
        verdicts[501].decision is not DecisionName.ALLOW
    )


def test_overlap_changes_and_precision_are_counted(
    pipeline: Pipeline, batch: EventBatch, verdicts: list[Verdict]
) -> None:
    labels = {verdict.id: int(row % 7 == 0) for row, verdict in enumerate(verdicts) if row % 2 == 0}
    trial = RulesTrial(pipeline, SET, LISTS)
    trial.add(verdicts, labels, batch, range(ROWS))
    fresh = np.array([v.features is not None for v in verdicts])
    hits = fresh & (batch.numbers["amount"] > 60.0)
    alert = np.array([v.decision is not DecisionName.ALLOW for v in verdicts])
    found = tried(trial)["amount"]
    assert (found.hits, found.alerts) == (int(hits.sum()), int((hits & alert).sum()))
    assert (found.new, found.changed) == (int((hits & ~alert).sum()), int((hits & ~alert).sum()))
    known = np.array([labels.get(v.id, -1) for v in verdicts])
    assert (found.labelled, found.frauds) == (
        int((hits & (known >= 0)).sum()),
        int((hits & (known == 1)).sum()),
    )
    assert found.precision == found.frauds / found.labelled
    assert found.precision_low is not None
    assert found.precision_high is not None
    assert 0.0 <= found.precision_low < found.precision < found.precision_high < 1.0
    assert found.recall == found.frauds / int((fresh & (known == 1)).sum())
    assert found.examples == [verdicts[row].id for row in np.flatnonzero(hits)[-10:][::-1].tolist()]
    listed = tried(trial)["listed"]
    mine = fresh & np.array([key == PROTECTOR.protect("acc-2") for key in batch.entities["account"]])
    assert (listed.hits, listed.changed) == (int(mine.sum()), int((mine & alert).sum()))


def test_without_the_events_it_says_what_is_missing(pipeline: Pipeline, verdicts: list[Verdict]) -> None:
    trial = RulesTrial(pipeline, SET, LISTS)
    trial.add(verdicts, {})
    report = trial.report()
    # everything else stands in the verdict: entities, the vector, the event's time
    assert (report.missing, report.incomplete) == (["shop"], ROWS - 1)
    found = tried(trial)
    assert found["shop"].hits == 0
    assert found["amount"].hits > 0
    assert found["time"].hits > 0
    assert found["amount"].precision is None
    assert found["amount"].recall is None


def test_nothing_to_try_on_is_no_trouble(pipeline: Pipeline) -> None:
    trial = RulesTrial(pipeline, SET)
    trial.add([], {})
    report = trial.report()
    assert (report.events, report.first, report.rules[0].share) == (0, None, 0.0)


def test_what_does_not_compile_is_refused_even_when_disabled(pipeline: Pipeline) -> None:
    wrong = msgspec.structs.replace(
        SET, rules=(Rule(id="x", when="amont > 1.0", enabled=False),), typologies=()
    )
    with pytest.raises(RulesInvalid, match="amont"):
        RulesTrial(pipeline, wrong)


def test_the_score_is_the_models_and_not_what_rules_made_of_it(pipeline: Pipeline, batch: EventBatch) -> None:
    lift = Rule(id="lift", when="pieces > 4.0", score_effect=0.9)
    moving = RulesInUse(compile_rules(msgspec.structs.replace(SET, rules=(lift,), typologies=()), pipeline))
    moved = decoded(pipeline, PartitionScorer(pipeline, rules=moving).process(batch))
    plain = decoded(pipeline, PartitionScorer(pipeline).process(batch))
    counts = []
    for verdicts in (moved, plain):
        trial = RulesTrial(pipeline, SET, LISTS)
        trial.add(verdicts, {}, batch, range(ROWS))
        counts.append(tried(trial)["scored"].hits)
    assert counts[0] == counts[1] > 0
