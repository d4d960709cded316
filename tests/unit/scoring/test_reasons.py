"""Reasons name what caused the score, also where no value does so by itself, and nothing that acts the other way."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np

from domain.batch import Floats
from domain.verdict import Reason
from scoring.reasons import contributions, explain

NAMES = ("a", "b", "c", "d", "never_seen")


def ensemble(score: Callable[[Floats], Floats]) -> Any:
    """Something that scores; usual is 0, from -1 to 1; of the last feature nothing is known."""
    reference = SimpleNamespace(
        median=np.array([0.0, 0.0, 0.0, 0.0, np.nan]),
        low=np.array([-1.0, -1.0, -1.0, -1.0, np.nan]),
        high=np.array([1.0, 1.0, 1.0, 1.0, np.nan]),
    )
    return SimpleNamespace(score=lambda x: SimpleNamespace(score=score(x)), reference=reference)


def told(score: Callable[[Floats], Floats], *row: float) -> list[Reason]:
    x = np.array([[0.0] * 5, [*row, 7.0]])
    return explain(ensemble(score), NAMES, x, np.array([1]))[1]


def test_values_that_are_odd_only_together_share_the_reason() -> None:
    reasons = told(lambda x: np.where((x[:, 0] > 5.0) & (x[:, 1] > 5.0), 0.9, 0.1), 9.0, 9.0, 0.0, 0.0)
    assert {r.feature for r in reasons} == {"a", "b"}
    # of an order and its reverse each is the last one once
    assert np.allclose([r.contribution for r in reasons], 0.4)


def test_values_of_which_each_suffices_are_named_too() -> None:
    def score(x: Floats) -> Floats:
        found: Floats = np.where((x[:, 0] > 5.0) | (x[:, 1] > 5.0), 0.9, 0.1) + 0.05 * (x[:, 2] > 5.0)
        return found

    reasons = told(score, 9.0, 9.0, 9.0, 0.0)
    assert {r.feature for r in reasons} == {"a", "b", "c"}
    by_name = {r.feature: r.contribution for r in reasons}
    assert by_name["a"] > by_name["c"] > 0.0
    assert np.isclose(sum(by_name.values()), 0.85)


def test_a_value_that_calms_is_never_named_and_what_is_missing_may_be() -> None:
    def score(x: Floats) -> Floats:
        return 0.5 + 0.2 * (x[:, 0] > 5.0) - 0.3 * (x[:, 1] > 5.0) + 0.1 * np.isnan(x[:, 3])

    reasons = told(score, 9.0, 9.0, 9.0, np.nan)
    assert [(r.feature, r.code) for r in reasons] == [("a", "a_high"), ("d", "d_missing")]
    assert np.allclose([r.contribution for r in reasons], [0.2, 0.1])
    assert reasons[0].text == "a 9 is above its usual range (usually -1 to 1)"


def test_without_any_contribution_the_farthest_values_are_named() -> None:
    reasons = told(lambda x: np.full(len(x), 0.9), 2.0, -9.0, 0.0, 0.0)
    assert [(r.feature, r.code, r.contribution) for r in reasons] == [
        ("b", "b_low", 0.0),
        ("a", "a_high", 0.0),
    ]


def test_contributions_add_up_and_do_not_depend_on_the_neighbours() -> None:
    rng = np.random.default_rng(1)
    weights = rng.normal(size=(5, 5))

    def score(x: Floats) -> Floats:
        odds: Floats = 1.0 / (1.0 + np.exp(-np.nan_to_num(x @ weights[:, 0] * (x @ weights[:, 1]))))
        return odds

    x = rng.normal(size=(40, 5)) * [1, 1, 1, 1, 0]
    known = np.arange(4)
    parts, falls = contributions(ensemble(score), x, known)
    assert np.allclose(parts.sum(axis=1), score(x) - 0.5)
    alone = x.copy()
    alone[:, 2] = 0.0
    assert np.allclose(falls[:, 2], score(x) - score(alone))
    single, _ = contributions(ensemble(score), x[7:8], known)
    assert np.array_equal(single[0], parts[7])
