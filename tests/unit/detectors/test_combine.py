from __future__ import annotations

import numpy as np
import pytest

from detectors.combine import evidence, score_table
from domain.batch import Floats
from lifecycle.evaluation import Bools, ranking


def ranks_of_two_good_detectors(n: int, odd: int, seed: int) -> tuple[Floats, Bools]:
    """Ordinary rows have uniform ranks, related between the two; the first ``odd`` rows are found by both."""
    rng = np.random.default_rng(seed)
    base = rng.normal(size=n)
    both = []
    for _ in range(2):
        raw = base + 0.7 * rng.normal(size=n)
        raw[:odd] = 4.0 + rng.normal(size=odd)
        usual = np.sort(raw[odd:])
        both.append((np.searchsorted(usual, raw) + 0.25) / (len(usual) + 1.0))
    return np.column_stack(both), np.arange(n) < odd


@pytest.mark.parametrize("kind", ["constant", "random", "inverted"])
def test_one_bad_detector_does_not_spoil_two_good_ones(kind: str) -> None:
    good, odd = ranks_of_two_good_detectors(40_000, 100, 1)
    bad = {
        "constant": np.full(40_000, 1e-5),
        "random": np.random.default_rng(2).random(40_000),
        "inverted": 1.0 - good[:, 0],
    }[kind]
    clean = ranking(evidence(good), odd)
    spoiled = ranking(evidence(np.column_stack([good, bad])), odd)
    assert clean.average_precision > 0.4
    assert spoiled.auc > clean.auc - 0.01
    assert spoiled.average_precision > 0.7 * clean.average_precision
    # a mean of ranks, for comparison, loses most of it to a detector that guesses
    if kind == "random":
        assert (
            ranking(np.column_stack([good, bad]).mean(axis=1), odd).average_precision
            < 0.5 * clean.average_precision
        )


def test_abstentions_leave_the_others_alone() -> None:
    out = evidence(np.array([[0.5, np.nan], [np.nan, 0.9], [np.nan, np.nan]]))
    assert out[:2].tolist() == pytest.approx([np.log(2.0), np.log(10.0)])
    assert np.isnan(out[2])


def test_the_score_is_the_share_of_traffic_with_less_evidence_and_does_not_saturate() -> None:
    rng = np.random.default_rng(3)
    table = score_table()
    found = table.step(rng.exponential(size=120_000))
    assert (found[:20_000] >= 0.995).mean() == pytest.approx(0.005, rel=0.15)
    assert (found[60_000:] >= 0.995).mean() == pytest.approx(0.005, rel=0.15)
    beyond = table.rank(np.array([20.0, 30.0, 40.0]))
    assert (np.diff(beyond) > 0).all()
    assert beyond[-1] < 1.0
