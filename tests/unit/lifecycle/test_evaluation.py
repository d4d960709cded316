"""Metrics against scikit-learn, against a slow reading of the Handbook, and on small known cases."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score

from domain.batch import Floats, Ints
from lifecycle.evaluation import (
    DAY,
    Bools,
    Ranks,
    bootstrap_days,
    bootstrap_ranking,
    budget_point,
    calibration,
    card_precision,
    known_compromised,
    ranking,
    top_k,
)

SETTINGS = settings(max_examples=50, deadline=None)


def sample(seed: int, n: int = 400) -> tuple[Floats, Bools, Ints, Ints]:
    """Scores on a coarse grid (many ties), labels, days in no order, cards."""
    rng = np.random.default_rng(seed)
    labels = rng.random(n) < 0.1
    labels[:2] = [True, False]
    scores: Floats = np.asarray(np.round(rng.random(n) + np.where(labels, 0.3, 0.0), 1), dtype=np.float64)
    return scores, labels, rng.integers(0, 5, n), rng.integers(0, 60, n)


@SETTINGS
@given(st.integers(0, 10_000))
def test_areas_equal_scikit_learn_with_ties_and_weights(seed: int) -> None:
    scores, labels, days, _ = sample(seed)
    result = ranking(scores, labels)
    assert result.auc == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)
    assert result.average_precision == pytest.approx(average_precision_score(labels, scores), abs=1e-12)
    weights = (days + 1).astype(np.float64)
    auc, average_precision = Ranks(scores, labels).areas(weights)
    assert auc == pytest.approx(roc_auc_score(labels, scores, sample_weight=weights), abs=1e-12)
    expected = average_precision_score(labels, scores, sample_weight=weights)
    assert average_precision == pytest.approx(expected, abs=1e-12)


def test_abstained_rows_rank_below_the_lowest_score_and_are_counted() -> None:
    scores, labels, _, _ = sample(3)
    scores[::7] = np.nan
    scores[4] = -np.inf
    lowest = np.where(np.isnan(scores), -3.0, np.where(np.isinf(scores), -2.0, scores))
    result = ranking(scores, labels)
    assert result.auc == pytest.approx(roc_auc_score(labels, lowest), abs=1e-12)
    assert result.average_precision == pytest.approx(average_precision_score(labels, lowest), abs=1e-12)
    assert result.abstained == len(range(0, 400, 7))


def test_areas_without_fraud_or_rows_are_not_defined() -> None:
    assert np.isnan(ranking(np.ones(3), np.zeros(3, dtype=np.bool_)).auc)
    assert np.isnan(ranking(np.empty(0), np.empty(0, dtype=np.bool_)).average_precision)
    assert np.isnan(ranking(np.ones(3), np.ones(3, dtype=np.bool_)).auc)


def slow_card_precision(
    scores: Floats, labels: Bools, days: Ints, cards: Ints, k: int, remove: bool
) -> list[float]:
    """The Handbook's definition with dictionaries; scores must have no ties."""
    found: set[int] = set()
    result = []
    for day in sorted(set(days.tolist())):
        best: dict[int, float] = {}
        fraud: set[int] = set()
        for score, label, d, card in zip(scores, labels, days, cards, strict=True):
            if d == day and card not in found:
                best[card] = max(best.get(card, -1.0), score)
                fraud |= {card} if label else set()
        top = sorted(best, key=lambda c: -best[c])[:k]
        detected = {c for c in top if c in fraud}
        result.append(len(detected) / k)
        found |= detected if remove else set()
    return result


@SETTINGS
@given(st.integers(0, 10_000), st.integers(1, 80), st.booleans())
def test_card_precision_is_the_handbooks(seed: int, k: int, remove: bool) -> None:
    _, labels, days, cards = sample(seed)
    scores = np.random.default_rng(seed + 1).permutation(400) / 400.0
    result = card_precision(scores, labels, days, cards, k=k, remove_detected=remove)
    expected = slow_card_precision(scores, labels, days, cards, k, remove)
    assert [day.precision for day in result.days] == expected
    assert result.mean == pytest.approx(np.mean(expected))


def test_a_detected_card_is_gone_the_next_day_and_a_card_counts_by_its_best_event() -> None:
    scores = np.array([0.1, 0.9, 0.5, 0.9, 0.8])
    labels = np.array([True, False, False, True, True])
    days, cards = np.array([1, 1, 1, 2, 2]), np.array([0, 0, 1, 0, 2])
    removed = card_precision(scores, labels, days, cards, k=1)
    # Day 1: card 0 leads by its honest event and counts by its fraud. Day 2: card 0 is blocked, card 2 leads.
    assert [(d.cards, d.compromised, d.detected) for d in removed.days] == [(2, 1, 1), (1, 1, 1)]
    kept = card_precision(scores, labels, days, cards, k=1, remove_detected=False)
    assert [(d.cards, d.compromised, d.detected) for d in kept.days] == [(2, 1, 1), (2, 2, 1)]


def test_cards_are_known_the_day_after_the_delay() -> None:
    times = np.array([0, 2, 7, 8, 9]) * DAY + 5
    cards = np.zeros(5, dtype=np.int64)
    labels = np.array([True, False, False, False, False])
    known = known_compromised(times, cards, labels, delay=7 * DAY, since=0)
    assert known.tolist() == [False, False, False, True, True]
    assert not known_compromised(times, cards, labels, delay=7 * DAY, since=DAY).any()


def test_budget_counts_alerts_and_takes_the_expectation_over_ties() -> None:
    scores = np.array([3.0, 2.0, 2.0, 1.0, np.nan, np.nan, np.nan, np.nan])
    labels = np.array([True, True, False, False, True, False, False, False])
    point = budget_point(scores, labels, budget=0.25)
    assert (point.alerts, point.precision, point.recall) == (2, 0.75, 0.5)
    whole = budget_point(scores, labels, budget=1.0)
    assert whole.alerts == 4
    assert whole.recall == pytest.approx(2 / 3)
    days = np.array([1, 1, 1, 2, 2, 2, 2, 2])
    daily = budget_point(scores, labels, budget=0.25, days=days)
    assert (daily.alerts, daily.precision) == (2, 0.5)
    with pytest.raises(ValueError, match="share of traffic"):
        budget_point(scores, labels, budget=0.0)


def test_bootstrap_is_seeded_and_brackets_the_estimate() -> None:
    scores, labels, days, cards = sample(11)
    auc, average_precision = bootstrap_ranking(scores, labels, cards, replicates=200, seed=5)
    assert auc is not None
    assert average_precision is not None
    assert auc.low < ranking(scores, labels).auc < auc.high
    assert bootstrap_ranking(scores, labels, cards, replicates=200, seed=5)[0] == auc
    assert bootstrap_ranking(scores, labels, cards, replicates=200, seed=6)[0] != auc
    assert bootstrap_ranking(scores, labels, np.zeros(400, dtype=np.int64), replicates=9, seed=1) == (
        None,
        None,
    )
    result = card_precision(scores, labels, days, cards, k=5)
    interval = bootstrap_days(result, replicates=200, seed=1)
    assert interval is not None
    assert interval.low <= result.mean <= interval.high


def test_the_best_of_each_day_are_counted_with_ties_in_expectation() -> None:
    scores = np.array([0.9, 0.5, 0.5, np.nan, 0.1, 0.8, np.nan])
    labels = np.array([1, 1, 0, 1, 0, 0, 1], dtype=bool)
    days = np.array([0, 0, 0, 0, 0, 1, 1])
    found = top_k(scores, labels, days, k=2)
    # day 0: one fraud and one of two equals; day 1: one scored event, honest
    assert (found.taken, found.precision, found.recall) == (3, 1.5 / 3, 1.5 / 4)
    with pytest.raises(ValueError, match="at least 1"):
        top_k(scores, labels, days, k=0)


def test_probabilities_that_hold_have_little_calibration_error() -> None:
    rng = np.random.default_rng(5)
    truth = rng.random(60_000) ** 4
    labels = rng.random(60_000) < truth
    good, bold = calibration(truth, labels), calibration(np.sqrt(truth), labels)
    assert good.expected_calibration_error < 0.01
    assert bold.expected_calibration_error == pytest.approx(1 / 3 - 1 / 5, abs=0.01)
    assert good.brier < bold.brier
    assert good.brier_of_prevalence == pytest.approx(labels.mean() * (1 - labels.mean()))
    silent = calibration(np.full(3, np.nan), np.array([True, False, True]))
    assert silent.rows == 0
    assert np.isnan(silent.brier)
