from __future__ import annotations

import pickle
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

import numpy as np
import pytest

from detectors.model_fit import FitSettings, fit_model, members_of
from detectors.stacking import average_precision
from domain.errors import TooFewLabels
from domain.examples import Examples
from tests.unit.detectors.trained import BOOSTING, DAY, HST, LOGISTIC, SETTINGS, examples, pipeline, trained

T = TypeVar("T")


def test_the_same_rows_give_the_same_bytes_and_another_seed_others() -> None:
    rows = examples(600, 2)
    declared = pipeline(HST, BOOSTING)
    first, again = (fit_model(declared, rows, now=DAY, seed=3, settings=SETTINGS).pack() for _ in range(2))
    assert first == again
    assert fit_model(declared, rows, now=DAY, seed=4, settings=SETTINGS).pack() != first


def test_parts_may_be_fitted_anywhere_and_in_any_order() -> None:
    rows = examples(600, 2)
    declared = pipeline(HST, BOOSTING)

    def elsewhere(part: Callable[[int], T], numbers: Sequence[int], /) -> Iterable[T]:
        done = {number: part(number) for number in reversed(numbers)}
        travelled: list[T] = pickle.loads(pickle.dumps([done[number] for number in numbers]))
        return travelled

    here = fit_model(declared, rows, now=DAY, seed=3, settings=SETTINGS)
    there = fit_model(declared, rows, now=DAY, seed=3, settings=SETTINGS, run=elsewhere)
    assert there.pack() == here.pack()


def test_labelled_detectors_of_the_pipeline_are_fitted_and_boosting_where_there_are_none() -> None:
    assert [m.name for m in trained(HST, BOOSTING, LOGISTIC).members] == ["boosting", "line"]
    assert [spec.kind for spec in members_of(pipeline(HST))] == ["gradient_boosting"]
    [member] = trained(HST).members
    assert member.columns.tolist() == [0, 1, 2]


def test_what_guesses_weighs_little_beside_what_knows() -> None:
    model = trained(HST)
    assert set(model.worth) == {"hst", "model.boosting"}
    rows = examples(1_000, 1)
    noise = Examples(
        rows.x, rows.y, np.random.default_rng(2).random((1_000, 1)), rows.score, rows.times, rows.known_at
    )
    guessing = fit_model(pipeline(HST), noise, now=DAY, seed=7, settings=SETTINGS)
    assert guessing.worth["hst"] < 0.1 < model.worth["hst"]


def test_a_pattern_of_the_last_days_is_learned_and_weighed() -> None:
    """Members that never saw it would look worthless on the newest rows, and the model would ignore them."""
    rows = examples(1_200, 1, holes=False)
    new = rows.times >= 10 * DAY
    y = np.where(new, rows.x[:, 0] > 1.2, rows.y).astype(np.float64)
    drifted = Examples(rows.x, y, np.full((1_200, 1), np.nan), rows.score, rows.times, rows.known_at)
    settings = FitSettings(memory=2_000, table=300)
    model = fit_model(pipeline(HST), drifted, now=DAY, seed=7, settings=settings)
    x = np.random.default_rng(8).normal(size=(2_000, 3))
    said = model.score(x, np.full((2_000, 1), np.nan))
    truth = (x[:, 0] > 1.2).astype(np.float64)
    assert average_precision(said.score, truth, np.ones(2_000)) > 2 * truth.mean()


def test_rows_without_label_teach_nothing_but_are_what_scores_are_placed_among() -> None:
    rows = examples(1_000, 1, unlabelled=400)
    labelled = rows.rows(0, 600)
    declared = pipeline(HST)
    with_recent = fit_model(declared, rows, now=DAY, seed=7, settings=SETTINGS)
    without = fit_model(declared, labelled, now=DAY, seed=7, settings=SETTINGS)
    for name, array in without.members[0].scorer.snapshot().arrays.items():
        assert np.array_equal(array, with_recent.members[0].scorer.snapshot().arrays[name])
    assert not np.array_equal(with_recent.table, without.table)
    assert with_recent.facts["to"] == int(rows.times[-1])
    assert len(with_recent.table) == 500


def test_rows_may_come_in_the_order_in_which_labels_became_known() -> None:
    rows = examples(600, 1)
    shuffled = rows.take(np.random.default_rng(1).permutation(600))
    declared = pipeline(HST, LOGISTIC)
    rows, shuffled = (
        Examples(r.x, r.y, np.tile(r.ranks, 2), r.score, r.times, r.known_at) for r in (rows, shuffled)
    )
    first, second = (fit_model(declared, r, now=DAY, seed=1, settings=SETTINGS) for r in (rows, shuffled))
    assert first.pack() == second.pack()


def test_too_few_labels_of_one_kind_are_an_error_that_says_what_there_is() -> None:
    rows = examples(600, 1)
    rare = rows.take(np.flatnonzero((rows.y == 0.0) | (np.cumsum(rows.y) <= 29)))
    with pytest.raises(TooFewLabels, match=r"29 positive and \d+ negative labels; a model needs 30"):
        fit_model(pipeline(HST), rare, now=DAY, seed=1, settings=SETTINGS)
    with pytest.raises(TooFewLabels, match="0 positive"):
        fit_model(pipeline(HST), Examples.none(3, 1), now=DAY, seed=1)


def test_rows_of_another_pipeline_are_refused() -> None:
    with pytest.raises(ValueError, match="rows of 3 features and 2 ranks are not of pipeline 'payments'"):
        fit_model(pipeline(HST), examples(100, 2), now=DAY, seed=1)


@pytest.mark.parametrize("wrong", [{"folds": 1}, {"slices": 10}, {"min_positives": 5}, {"table": 0}])
def test_settings_that_make_no_sense_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="must"):
        FitSettings(**wrong)
