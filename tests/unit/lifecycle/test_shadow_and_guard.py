"""What live verdicts say of challenger and champion, and what follows from it."""

from __future__ import annotations

import msgspec
import numpy as np

from domain.pipeline_retraining import GuardRules, ShadowRules
from domain.verdict import ModelOutput, ModelRole
from lifecycle.guard import guard_finding, precision_finding
from lifecycle.live import OWN, LiveTally, Side, decode_seen
from lifecycle.shadow import shadow_finding
from tests.unit.lifecycle.loop_stage import DAY, HOUR, START, seen, stream

SHADOW = ShadowRules(events=400, time=HOUR, max_failures=0.01, max_alert_ratio=2.0, patience=DAY)
GUARDS = GuardRules(events=400, time=HOUR, max_failures=0.01, max_alert_ratio=2.0, max_latency_ratio=3.0)
STEP = HOUR // 200


def tally(n: int, *, high: float = 0.05, other: float = 0.05, fails: int = 0) -> LiveTally:
    """``n`` verdicts in which m-2 beside m-1 ranks the share ``high`` within the budget, m-1 the share ``other``."""
    made = LiveTally(0.05)
    for i in range(n):
        says = {
            "m-2": None if i < fails else 0.99 if (i * 0.618) % 1 < high else 0.1,
            "m-1": 0.99 if (i * 0.414) % 1 < other else 0.1,
        }
        made.add([seen(START + i * STEP, champion="m-1", challenger="m-2", says=says)])
    return made


def test_a_shadow_waits_for_events_and_time() -> None:
    few = shadow_finding(tally(300), "m-2", SHADOW, began=START)
    assert (few.decided, few.passed) == (False, False)
    assert "300 of 400 events" in few.text
    patient = msgspec.structs.replace(SHADOW, time=10 * HOUR)
    assert not shadow_finding(tally(500), "m-2", patient, began=START).decided
    done = shadow_finding(tally(500), "m-2", SHADOW, began=START)
    assert (done.decided, done.passed) == (True, True)
    assert done.evidence["challenger"]["events"] == 500


def test_a_shadow_that_nobody_scores_is_given_up() -> None:
    idle = LiveTally(0.05)
    idle.add([seen(START + DAY + HOUR)])
    found = shadow_finding(idle, "m-2", SHADOW, began=START)
    assert (found.decided, found.passed) == (True, False)
    assert "patience" in found.text


def test_too_many_and_too_few_alerts_and_failures_refuse() -> None:
    for case, word in (
        (tally(2_000, high=0.3), "max_alert_ratio"),
        (tally(2_000, high=0.0), "max_alert_ratio"),
        (tally(500, fails=60), "gave no score"),
    ):
        found = shadow_finding(case, "m-2", SHADOW, began=START)
        assert (found.decided, found.passed) == (True, False)
        assert word in found.text
    # one failure among many events is within what is allowed
    assert shadow_finding(tally(2_000, fails=1), "m-2", SHADOW, began=START).passed


def champion(n: int, *, alerts: int = 0, fails: int = 0, latency: int = 50_000) -> Side:
    made = LiveTally(0.05)
    made.add(
        seen(
            START + i * STEP,
            champion="m-2",
            says={"m-2": None if i < fails else 0.5},
            alert=i < alerts,
            latency=latency,
        )
        for i in range(n)
    )
    return made.deciders["m-2"]


BEFORE = champion(1_000, alerts=50).summary()


def guard(
    side: Side, now: int = START + 2 * HOUR, before: dict[str, object] = BEFORE
) -> tuple[bool, bool, str]:
    found = guard_finding(side, before, GUARDS, promoted=START, now=now)
    return found.decided, found.passed, found.text


def test_a_promotion_that_behaves_is_watched_to_the_end() -> None:
    assert guard(champion(100))[0] is False
    assert guard(champion(500, alerts=25), now=START + HOUR // 2)[0] is False
    assert guard(champion(500, alerts=25))[:2] == (True, True)


def test_each_guard_undoes_a_promotion() -> None:
    for side, word in (
        (champion(500, alerts=200), "max_alert_ratio"),
        (champion(500, alerts=0), "max_alert_ratio"),
        (champion(500, alerts=25, latency=200_000), "max_latency_ratio"),
        (champion(50, fails=30), "gave no score"),
    ):
        decided, passed, text = guard(side)
        assert (decided, passed) == (True, False), text
        assert word in text


def test_latency_of_a_backlog_and_a_start_without_a_past_decide_nothing() -> None:
    late = champion(1_000, alerts=50, latency=DAY).summary()
    assert guard(champion(500, alerts=25, latency=10 * DAY), before=late)[:2] == (True, True)
    assert guard(champion(500, alerts=300), before=Side().summary())[:2] == (True, True)


def test_matured_precision_is_compared_with_before() -> None:
    before, after = stream(20), stream(20, seed=1)
    assert not precision_finding(before, after, 0.05, GUARDS).decided
    wrong = stream(20, seed=1)
    wrong.y[:] = np.where(wrong.score >= 0.95, 0.0, wrong.y)
    found = precision_finding(before, wrong, 0.05, GUARDS)
    assert (found.decided, found.passed) == (True, False)
    assert "min_precision_ratio" in found.text
    assert not precision_finding(before, wrong.rows(0, 300), 0.05, GUARDS).decided  # too few to say


def test_the_same_verdicts_give_the_same_tally_however_they_are_cut() -> None:
    verdicts = [seen(START + i * STEP, champion="m-1", challenger="m-2", alert=i % 9 == 0) for i in range(50)]
    whole, parts = LiveTally(0.05), LiveTally(0.05)
    whole.add(verdicts)
    for one in verdicts:
        parts.add([one])
    assert {v: s.summary() for v, s in whole.deciders.items()} == {
        v: s.summary() for v, s in parts.deciders.items()
    }
    assert whole.now == verdicts[-1].event_time


def test_verdicts_are_read_as_workers_write_them() -> None:
    say = {
        OWN: ModelOutput(ModelRole.OWN, 0.4, None),
        "m-1": ModelOutput(ModelRole.CHAMPION, None, None),
        "m-2": ModelOutput(ModelRole.CHALLENGER, 0.9, 0.2),
    }
    plain = {"event_time": 5, "scored_at": 9, "score": 0.4, "decision": "allow", "flags": [], "more": 1}
    found = decode_seen(msgspec.json.encode({**plain, "models": say}))
    assert found is not None
    assert found.decider == "m-1"
    made = LiveTally(0.05)
    made.add([found])
    assert made.deciders["m-1"].failures == 1
    assert (made.challengers["m-2"].failures, made.beside["m-2"].failures) == (0, 1)
    without = decode_seen(msgspec.json.encode(plain))
    assert without is not None
    assert without.decider == OWN
    assert decode_seen(msgspec.json.encode({**plain, "flags": ["duplicate"]})) is None
    assert decode_seen(b"{") is None
    assert decode_seen(b"[1]") is None
