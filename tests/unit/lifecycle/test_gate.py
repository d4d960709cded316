"""The gate lets a better model pass and refuses each kind of bad one, with the reason."""

from __future__ import annotations

import json

import numpy as np

from domain.batch import Floats
from domain.pipeline_retraining import GateRules
from lifecycle.comparison import blocks_of, contest
from lifecycle.evaluation import DAY, Bools
from lifecycle.gate import GateReport, GateSlice, Grouping, judge
from lifecycle.leakage import Leak, Suspicion

RULES = GateRules(replicates=100)
N = 4_000


def stream(seed: int, share: float = 0.03) -> tuple[Bools, Floats]:
    """Labels, and what tells them apart without noise."""
    rng = np.random.default_rng(seed)
    labels = rng.random(N) < share
    return labels, labels + rng.normal(0, 1, N)


def look(labels: Bools, challenger: Floats, champion: Floats, **changed: object) -> GateReport:
    given: dict[str, object] = {
        "labels": labels,
        "times": np.arange(N) * DAY // 200,
        "challenger": challenger,
        "probability": 1.0 / (1.0 + np.exp(-challenger)),
        "champion": champion,
        "champion_name": "m-old",
        "fitted_rows": 10_000,
        "fitted_positives": 300,
        "budget": 0.05,
    }
    rules = changed.pop("rules", RULES)
    assert isinstance(rules, GateRules)
    return judge(GateSlice(**{**given, **changed}), rules, seed=1)  # type: ignore[arg-type]


def failed(report: GateReport) -> list[str]:
    assert report.passed == (not report.reasons)
    return [check.name for check in report.checks if not check.passed]


def test_a_truly_better_model_passes_and_the_numbers_are_told() -> None:
    labels, hint = stream(0)
    better = hint + labels * 2.0
    report = look(labels, better, hint)
    assert failed(report) == []
    assert report.contest is not None
    assert report.contest.challenger > report.contest.champion > report.contest.dummy
    assert report.contest.to_champion.interval is not None
    assert report.contest.to_champion.interval.low > 0.0
    assert json.loads(json.dumps(report.to_json(), allow_nan=False))["passed"] is True


def test_the_champion_itself_is_not_better_but_passes_with_a_margin() -> None:
    labels, hint = stream(1)
    assert failed(look(labels, hint, hint)) == ["champion"]
    assert failed(look(labels, hint, hint, rules=GateRules(replicates=100, margin=0.01))) == []


def test_chance_and_what_learned_shuffled_labels_are_refused() -> None:
    labels, hint = stream(2)
    rng = np.random.default_rng(9)
    assert set(failed(look(labels, rng.random(N), hint))) == {"dummy", "champion"}
    # both slices were shuffled: no ranking of these events says anything of these labels, the champion's neither
    shuffled = rng.permutation(labels)
    assert "dummy" in failed(look(shuffled, hint, rng.random(N)))


def test_a_model_that_is_worse_is_refused_however_much_better_than_chance() -> None:
    labels, hint = stream(3)
    assert failed(look(labels, hint, hint + labels)) == ["champion"]


def test_a_flood_of_positive_labels_is_doubted() -> None:
    labels, hint = stream(4, share=0.3)
    assert failed(look(labels, hint + labels * 2.0, hint)) == ["prevalence"]
    assert failed(look(labels, hint + labels * 2.0, hint, fitted_positives=3_000)) == []


def test_too_few_positives_decide_nothing() -> None:
    labels, hint = stream(5)
    few = labels & (np.cumsum(labels) <= 10)
    report = look(few, hint + few * 5.0, hint, fitted_positives=25)
    assert failed(report) == ["labels"]
    assert report.contest is None


def test_a_model_without_a_score_for_some_events_is_refused() -> None:
    labels, hint = stream(6)
    broken = hint + labels * 2.0
    broken[5] = np.nan
    assert failed(look(labels, broken, hint)) == ["scores"]


def test_a_leak_refuses_unless_declared_otherwise() -> None:
    labels, hint = stream(7)
    leak = Leak("status", Suspicion.EQUALS_LABEL, 1.0, "status is the label itself.")
    report = look(labels, hint + labels * 2.0, hint, leaks=(leak,))
    assert failed(report) == ["leaks"]
    assert "status is the label itself." in report.reasons
    lenient = GateRules(replicates=100, leaks="warn")
    assert failed(look(labels, hint + labels * 2.0, hint, leaks=(leak,), rules=lenient)) == []


def test_a_group_that_is_falsely_alerted_more_often_refuses() -> None:
    labels, hint = stream(8)
    codes = (np.arange(N) % 2).astype(np.int64)
    grouping = Grouping("region", ("north", "south"), codes)
    fair = look(labels, hint + labels * 3.0, hint, grouping=grouping)
    assert failed(fair) == []
    assert fair.fairness is not None
    biased = look(labels, hint + labels * 3.0 + codes, hint, grouping=grouping)
    assert failed(biased) == ["fairness"]
    assert "south" in biased.reasons[0]


def test_dependent_events_make_the_interval_wider() -> None:
    """A hundred accounts whose forty events are all alike say as much as a hundred events."""
    rng = np.random.default_rng(11)
    account = np.arange(N) // 40
    labels = (rng.random(100) < 0.2)[account]
    first, second = (labels + rng.normal(0, 1, 100)[account] for _ in range(2))

    def width(blocks: object) -> float:
        found = contest(first, second, labels, blocks, replicates=200, level=0.9, seed=0)  # type: ignore[arg-type]
        assert found.to_champion.interval is not None
        return found.to_champion.interval.high - found.to_champion.interval.low

    assert width(account) > 2.0 * width(np.arange(N))


def test_blocks_are_entities_then_days_then_hours() -> None:
    times = np.arange(N) * DAY // 200
    entities = np.arange(N) % 50
    assert blocks_of(times, entities) is entities
    assert len(np.unique(blocks_of(times, None))) == 20
    assert len(np.unique(blocks_of(times, np.zeros(N, dtype=np.int64)))) == 20
    assert len(np.unique(blocks_of(times // 10, None))) == 48


def test_an_equal_rival_rarely_passes() -> None:
    """The gate's own error: of 40 rivals with the same skill, at most few pass a one-sided 95 % proof."""
    passed = 0
    for number in range(40):
        rng = np.random.default_rng((3, number))
        labels = rng.random(1_500) < 0.05
        one, other = (labels * 1.5 + rng.normal(0, 1, 1_500) for _ in range(2))
        blocks = np.arange(1_500)
        found = contest(one, other, labels, blocks, replicates=100, level=0.9, seed=number)
        passed += found.to_champion.low > 0.0
    assert passed <= 7  # binomial of 40 and 0.05: more than 7 has a chance below 0.1 %
